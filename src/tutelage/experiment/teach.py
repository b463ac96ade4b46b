"""The stage ``teach``: one pass of the teacher over all rows; its labels and its own scores come with it.

In: the prepared rows, the teacher, the recipe's signals. Out: shards in the cache, and ``teach/<task>/`` with the class
scores of every split and what a reader needs to find the cache again.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.experiment.stage import Context, finished, stage_artifact, stage_key
from tutelage.store import Manifest, write_json

NUM_ADAPT_ROWS = 200  # enough to see a train/held-out gap of 5 points; scored in the same pass
TAUGHT_SPLITS = ("train", "validation", "test")
FACTS_FILE = "teach.json"


@dataclass(frozen=True)
class Taught:
    """What the stage left behind: how to find the cache, and what the teacher answered."""

    folder: Path
    digest: str

    @property
    def facts(self) -> dict[str, Any]:
        """Fingerprint, columns, counts."""
        return json.loads((self.folder / FACTS_FILE).read_text(encoding="utf-8"))

    def class_scores(self, split: str) -> np.ndarray:
        """Return the teacher's log-probability of each label, float64 [B, C], in the order of the split."""
        return np.load(self.folder / f"scores_{split}.npy", allow_pickle=False)


def teach_key(context: Context, task_name: str, prepared: Manifest, teacher: str) -> str:
    """Address the stage by the rows, the teacher and the signals."""
    recipe = context.recipe
    part = {
        "signals": [signal.model_dump(mode="json") for signal in recipe.signals],
        "dtype": recipe.teacher.dtype,
        "device": recipe.teacher.device,
        "max_length": recipe.tasks[task_name].max_length,
    }
    return stage_key("teach", part, {"prepared": prepared.content_digest, "teacher": teacher})


def teach_stage(context: Context, task_name: str, prepared: Manifest, teacher: str) -> Taught:
    """Run the teacher over the task's rows, unless all of it is there.

    Args:
        context: The run.
        task_name: A key of ``tasks``.
        prepared: The task's rows.
        teacher: Identity of the teacher's weights.
    """
    folder = context.folders.taught(task_name)
    key = teach_key(context, task_name, prepared, teacher)
    manifest = finished(folder, key)
    if manifest is not None:
        context.skip("teach", task_name)
    else:
        with context.timed("teach", task_name):
            _make(context, task_name, folder, key)
        manifest = finished(folder, key)
    assert manifest is not None, "a stage that was just committed is finished"
    return Taught(folder, manifest.content_digest)


def _make(context: Context, task_name: str, folder: Path, key: str) -> None:
    from tutelage.align import check_ids
    from tutelage.build import signal_columns, teacher_compute
    from tutelage.data import read_prepared, sample_rows_text
    from tutelage.data.rows import check_verbalisers, choice_prompts, classification_rows
    from tutelage.experiment.checklist import show_checklist
    from tutelage.experiment.origin import taught_source
    from tutelage.models.device import describe_device
    from tutelage.models.fingerprint import model_fingerprint
    from tutelage.models.load import end_of_turn_id, load_model, load_tokenizer, local_folder
    from tutelage.teacher import teach
    from tutelage.train.signals import stop_signals

    source = taught_source(context)
    device, dtype = teacher_compute(context.recipe.teacher)
    tokenizer = load_tokenizer(source)
    model = load_model(source, dtype=dtype, device=device)
    prepared = read_prepared(context.folders.prepared(task_name))
    check_verbalisers(tokenizer, prepared.task)
    show_checklist(context, source.name, model, tokenizer)
    splits = {name: prepared.splits[name] for name in TAUGHT_SPLITS}
    if prepared.splits["adapt"]:
        splits["adapt"] = prepared.splits["adapt"][:NUM_ADAPT_ROWS]
    stop_id, max_length = end_of_turn_id(tokenizer, model.config), context.recipe.tasks[task_name].max_length
    rows = {
        name: classification_rows(
            tokenizer, prepared.task, examples, max_length=max_length, end_of_turn_id=stop_id
        )
        for name, examples in splits.items()
    }  # fmt: skip
    for text in sample_rows_text(prepared, tokenizer):
        context.show(f"  row: {text}")
    for name, made in rows.items():
        if made.num_shortened:
            context.show(f"  {name}: {made.num_shortened:,} texts were shortened to {max_length} tokens")
        for row in made.rows:
            check_ids(row.ids, model.get_input_embeddings().num_embeddings, f"row {row.item_key}")
    class_ids = single_token_labels(tokenizer, prepared.task.verbalisers)
    columns = signal_columns(model, context.recipe.signals, class_token_ids=class_ids)
    fingerprint = model_fingerprint(
        local_folder(source), dtype=dtype, extra=describe_device(device, dtype), gguf_file=source.gguf_file
    )
    with stop_signals() as stop:
        report = teach(
            model,
            [teacher_row(row) for made in rows.values() for row in made.rows],
            columns=columns,
            root=context.folders.cache,
            fingerprint=fingerprint,
            token_budget=context.recipe.evaluate.token_budget,
            progress=context.progress("teach"),
            provenance={
                "teacher": source.name,
                "teacher_licence": context.recipe.teacher.licence or source.licence,
                "data": prepared.info["source"],
                "data_licence": prepared.info["licence"],
                "template": prepared.task.template,
            },
            should_stop=lambda: _answer(stop),
        )
    facts = {
        "fingerprint": fingerprint,
        "teacher": source.name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "columns": [column.spec | {"kind": column.kind} for column in columns],
        "digests": report.digests,
        "num_rows": report.num_rows,
        "num_positions": report.num_positions,
        "num_tokens": sum(len(row.ids) for made in rows.values() for row in made.rows),
        "bytes_per_position": report.bytes_per_position,
        "covered_mass": {
            name: {f"{t:g}": mass for t, mass in by_t.items()} for name, by_t in report.covered_mass.items()
        },
        "compute": describe_device(device, dtype),
    }
    context.show(
        f"teach {source.name}: {report.computed:,} rows computed, {report.reused:,} reused, "
        f"{report.tokens_per_second:,.0f} tokens/s, {report.bytes / 2**20:.1f} MiB"
    )
    with stage_artifact(context, folder, stage="teach", key=key, seconds={"teach": report.seconds}) as temporary:
        for name, made in rows.items():
            if class_ids is not None:
                scores = cached_scores(context.folders.cache, fingerprint, class_ids, made.rows)
            else:
                prompts = choice_prompts(
                    tokenizer, prepared.task, splits[name], max_length=max_length, end_of_turn_id=stop_id
                )
                scores = live_scores(context, model, prompts, pad_id=int(tokenizer.pad_token_id), device=device)
            np.save(temporary / f"scores_{name}.npy", scores, allow_pickle=False)
        write_json(temporary / FACTS_FILE, facts)


def _answer(stop: Any) -> bool:
    stop.answered = stop.requested  # the stage raises PreemptedError right after
    return stop.requested


def teacher_row(row: Any) -> Any:
    """Return what the teacher reads for a student's row: the same ids, the positions that predict its targets."""
    from tutelage.align import logit_indices
    from tutelage.types import TeacherRow

    return TeacherRow(row.ids, logit_indices(row.target_mask))


def single_token_labels(tokenizer: Any, verbalisers: Sequence[str]) -> list[int] | None:
    """Return one token id per label, or None when a verbaliser takes several tokens."""
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in verbalisers]
    return [each[0] for each in ids] if all(len(each) == 1 for each in ids) else None


def cached_scores(root: Path, fingerprint: str, class_ids: Sequence[int], rows: Sequence[Any]) -> np.ndarray:
    """Read the class scores of rows out of the cache: float64 [B, C]."""
    from tutelage.align import logit_indices
    from tutelage.cache import CacheReader, find_column

    column = find_column(root, fingerprint, kind="class_scores", class_token_ids=class_ids)
    reader = CacheReader(root, fingerprint, column)
    positions = [column.positions_of(logit_indices(row.target_mask)) for row in rows]
    return reader.read([row.teacher_key for row in rows], positions)["scores_NC"].double().numpy()


def live_scores(context: Context, model: Any, prompts: Sequence[Any], *, pad_id: int, device: Any) -> np.ndarray:
    """Score labels of several tokens by running the teacher on each: float64 [B, C]."""
    from tutelage.evaluate import score_choices

    budget = context.recipe.evaluate.token_budget
    return score_choices(model, prompts, pad_id=pad_id, token_budget=budget, device=device).logprobs_BC
