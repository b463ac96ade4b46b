"""A made-up experiment on disk, in the layout of real ones: enough to render every part of the report.

Item scores come from one latent difficulty per item, so arms agree on most items, as real ones do.
"""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tutelage.store import new_artifact, write_file, write_json

SEEDS = (42, 123, 456)
LABELS = ("negative", "positive")
TEACHER_PARAMETERS, STUDENT_PARAMETERS = 134_515_008, 81_413_568
COMMAND = "tutelage run recipes/reviews.yaml"
REPORT_COMMAND = f"{COMMAND} --control"
QUESTION = "How much of the teacher survives at 60 % of the size?"
# label -> (role, skill, seeds); skill moves the logit of being right
ARMS = {
    "teacher": ("teacher", 2.35, (None,)),
    "untouched": ("untouched", 0.25, (None,)),
    "B0": ("baseline", 1.55, SEEDS),
    "PSEUDO": ("pseudo", 1.6, SEEDS),
    "KD1": ("method", 1.85, SEEDS),
    "KD1-permuted": ("control", 1.2, SEEDS),
}
GRIDS = {
    "B0": [{"train.learning_rate": lr, "train.num_train_epochs": e} for lr in (5e-5, 1e-4, 2e-4) for e in (1, 2)],
    "PSEUDO": [{"train.learning_rate": lr, "train.num_train_epochs": e} for lr in (5e-5, 1e-4, 2e-4) for e in (1, 2)],
    "KD1": [{"temperature": t, "alpha": a} for t in (1, 2, 4) for a in (0.1, 0.3)],
}
CHOSEN = {"B0": 3, "PSEUDO": 3, "KD1": 3}
WORDS = (
    "a",
    "slow",
    "warm",
    "film",
    "that",
    "earns",
    "its",
    "last",
    "quiet",
    "scene",
    "and",
    "never",
    "begs",
    "for",
    "it",
)


def write_experiment(
    folder: Path, *, num_items: int = 900, skills: dict[str, float] | None = None, texts: bool = True
) -> Path:
    """Write teacher, untouched student, B0, PSEUDO, KD1 (three seeds each), one control and 18 trials."""
    generator = np.random.default_rng(5)
    difficulty = generator.normal(0, 1.6, num_items)
    gold = generator.integers(0, 2, num_items)
    for method, (role, skill, seeds) in ARMS.items():
        for seed in seeds:
            skill_here = (skills or {}).get(method, skill)
            write_run(folder, method, role, seed, skill_here, difficulty, gold, generator, texts=texts)
    for method, grid in GRIDS.items():
        for index, settings in enumerate(grid):
            accuracy = 0.80 + 0.004 * (index % 4) - 0.03 * (index == 0) + (0.02 if method == "KD1" else 0)
            write_trial(folder, method, index, settings, accuracy + (0.01 if index == CHOSEN[method] else 0))
    return folder


def write_run(folder, method, role, seed, skill, difficulty, gold, generator, *, texts=True):
    """Write one finished run."""
    noise = generator.normal(0, 0.7, len(gold)) if seed is not None else 0.0
    logit = skill - difficulty + noise
    right = logit > 0
    prediction = np.where(right, gold, 1 - gold)
    confidence = 1 / (1 + np.exp(-np.abs(logit)))
    run_id = f"{method}_sentiment_S1_seed{seed}" if seed is not None else f"{method}_sentiment"
    items = {
        "item_key": [f"movie-reviews/{i}" for i in range(len(gold))],
        "cluster_key": [f"c{i // 2 if i < 20 else i}" for i in range(len(gold))],
        "gold": pa.array(gold, pa.int64()),
        "prediction": pa.array(prediction, pa.int64()),
        "score": pa.array(right.astype(float), pa.float64()),
        "confidence": pa.array(confidence, pa.float64()),
        "valid": pa.array(np.ones(len(gold), bool)),
    }
    if texts:
        pick = np.random.default_rng(9)
        items["text"] = [" ".join(pick.choice(WORDS, 14)) + "." for _ in gold]
    is_teacher = role == "teacher"
    settings = GRIDS[method][CHOSEN[method]] if method in GRIDS else {}
    record = {
        "run_id": run_id,
        "experiment": folder.name,
        "method": method,
        "kind": {"method": "logit"}.get(role, role),
        "role": role,
        "task": "sentiment",
        "student": "" if is_teacher else "S1",
        "seed": seed,
        "trial": False,
        "settings": settings,
        "metrics": {
            "test": {
                "accuracy": float(right.mean()),
                "macro_f1": float(right.mean()) - 0.002,
                "valid_ratio": 0.998,
                "ece": abs(float(confidence.mean() - right.mean())),
                "kl_to_teacher": 0.0 if is_teacher else 0.9 - 0.3 * skill / 2,
                "top1_agreement": 1.0 if is_teacher else 0.7 + 0.1 * skill,
            },
            "validation": {"accuracy": float(right.mean()) - 0.004},
        },
        "parameters": TEACHER_PARAMETERS if is_teacher else STUDENT_PARAMETERS,
        "teacher_parameters": TEACHER_PARAMETERS,
        "tokens": 0 if seed is None else 512_384,
        "targets": 0 if seed is None else 16_000,
        "steps": 0 if seed is None else 250,
        "gold_labels": 8000 if role in ("baseline", "method", "control") else 0,
        "teacher_tokens": 256_192 if role in ("pseudo", "method", "control") else 0,
        "primary_metric": "accuracy",
        "files": {"items": "items.parquet"},
        "command": COMMAND + (" --control" if role == "control" else ""),
    }
    with new_artifact(folder / run_id, kind="run") as temporary:
        write_items(temporary / "items.parquet", items)
        if seed is not None:
            write_history(temporary, method, seed, skill, float(right.mean()))
        write_json(temporary / "run.json", record)
        write_json(temporary / "provenance.json", provenance(seed))


def write_items(path, columns):
    """Write the columns with the label names in the schema, as the evaluation does."""
    header = json.dumps({"format_version": 1, "labels": list(LABELS)})
    stream = io.BytesIO()
    pq.write_table(pa.table(columns).replace_schema_metadata({b"tutelage": header.encode()}), stream)
    write_file(path, stream.getvalue())


def write_history(folder, method, seed, skill, accuracy):
    """Write 250 steps with an evaluation every 50."""
    generator = np.random.default_rng([seed, len(method)])
    steps, evaluations = [], []
    for step in range(1, 251):
        loss = 0.25 + 1.4 * np.exp(-step / 40) / (1 + skill / 4) + generator.normal(0, 0.05)
        steps.append({"step": step, "epoch": step / 125, "loss_nats": loss, "grad_norm": 1.0, "tokens": 2048 * step})
        if step % 50 == 0:
            value = accuracy - 0.12 * np.exp(-step / 60) + generator.normal(0, 0.004)
            evaluations.append({"step": step, "epoch": step / 125, "accuracy": value})
    for name, lines in (("metrics", steps), ("evaluations", evaluations)):
        write_file(folder / f"{name}.jsonl", "".join(json.dumps(line) + "\n" for line in lines))


def write_trial(folder, method, index, settings, accuracy):
    """Write one trial: settings and a validation metric, no items."""
    run_id = f"{method}_sentiment_S1_trial{index}_seed7"
    record = {
        "run_id": run_id,
        "experiment": folder.name,
        "method": method,
        "role": "trial",
        "trial": True,
        "task": "sentiment",
        "student": "S1",
        "seed": 7,
        "settings": settings,
        "metrics": {"validation": {"accuracy": accuracy}},
        "tokens": 256_192,
        "primary_metric": "accuracy",
        "command": COMMAND,
    }
    with new_artifact(folder / run_id, kind="run") as temporary:
        write_json(temporary / "run.json", record)
        write_json(temporary / "provenance.json", provenance(7))


def provenance(seed):
    """Return what an experiment records beside a run."""
    return {
        "recipe": {"name": "reviews", "mode": "full", "teacher": {"model": "sample:smollm2-135m-instruct"}},
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "versions": {"python": "3.11.9", "torch": "2.13.0", "transformers": "5.23.0", "tutelage": "0.1.0"},
        "host": "somewhere",
        "started": "2025-11-22T00:00:00+00:00",
        "finished": "2025-11-22T00:05:00+00:00",
        "seconds": {"stage": 310.0, "train": 301.5} if seed is not None else {"stage": 2.0},
        "seeds": {"selection": 7, "report": list(SEEDS)},
        "hashes": {"data": "9f86d081884c7d65", "teacher": "60303ae22b998861"},
        "overrides": [{"source": "command", "path": "mode", "value": "full"}],
    }
