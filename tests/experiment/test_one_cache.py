"""Every method of ``recipes/methods.yaml`` on two kinds of task: the teacher runs in the teach stage, never again."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from reading_experiment import BOTH, write_reading_experiment
from ruamel.yaml import YAML
from tiny_experiment import at, run_tiny, write_reviews
from transformers import LlamaModel

PUBLISHED = YAML(typ="safe").load((Path(__file__).parents[2] / "recipes" / "methods.yaml").read_text())
TEACHER_LAYERS, STUDENT_LAYERS = 4, 2

TINY = BOTH.replace("by: influence", "by: first")  # which needs no pass
# The published signals, with layers that a teacher of four has.
SIGNALS = [
    {**signal, "layers": [2, 4] if signal["kind"] == "hidden" else [4]} if "layers" in signal else signal
    for signal in PUBLISHED["signals"]
]


@dataclass(frozen=True)
class Passes:
    """How deep the model of each forward pass was, and the folder of what was run."""

    taught: list[int]
    trained: list[int]
    root: Path

    def facts(self, task: str) -> dict:
        return json.loads((at(self.root, f"teach/{task}") / "teach.json").read_text())


@pytest.fixture(scope="module")
def passes(tmp_path_factory) -> Passes:
    """The experiment up to its teach stage, then the rest."""
    folder = tmp_path_factory.mktemp("methods")
    recipe = write_reading_experiment(folder, recipe=TINY)
    write_reviews(folder / "reviews.jsonl", count=80)
    settings = (
        f"methods={json.dumps(PUBLISHED['methods'])}",
        f"signals={json.dumps(SIGNALS)}",
        "teacher.adapt.task=[squad, sentiment]",
        "teacher.adapt.rows=12",
        "train.num_train_epochs=1",
    )
    depths: list[int] = []
    forward = LlamaModel.forward

    def counted(self, *args, **rest):
        depths.append(len(self.layers))
        return forward(self, *args, **rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LlamaModel, "forward", counted)
        run_tiny(recipe, *settings, until="teach")
        taught = list(depths)
        depths.clear()
        done = run_tiny(recipe, *settings, until="train")
    return Passes(taught, depths, done.root)


def test_the_teachers_body_runs_in_the_teach_stage_only(passes):
    assert passes.taught.count(TEACHER_LAYERS) > 0
    assert passes.trained.count(TEACHER_LAYERS) == 0
    assert passes.trained.count(STUDENT_LAYERS) > 0


def test_every_published_method_was_trained_on_both_tasks(passes):
    runs = [path.parent.name for path in passes.root.glob("*_seed1.*/run.json")]
    for method in PUBLISHED["methods"]:
        for task in ("sentiment", "squad"):
            assert any(run.startswith(f"{method}_{task}_") for run in runs), (method, task)


def test_both_tasks_were_taught_into_one_cache(passes):
    fingerprints = {passes.facts(task)["fingerprint"] for task in ("sentiment", "squad")}
    assert {path.name for path in (passes.root.parent / "cache").iterdir() if path.is_dir()} == fingerprints
    assert len(fingerprints) == 1
