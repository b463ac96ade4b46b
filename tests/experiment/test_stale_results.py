"""A setting that changes a result is in its key: what these settings once left as it was is made again."""

import json
from pathlib import Path

import pytest
from empty_stages import graph_of
from recipe_variants import RECIPES, loaded, with_value
from text_experiment import write_text_experiment
from tiny_experiment import run_tiny, write_experiment

from tutelage.config import load_recipe
from tutelage.experiment import plan_recipe
from tutelage.experiment.differences import differences
from tutelage.experiment.stage import Target
from tutelage.store import new_artifact, read_manifest


def parts(name: str, *changed, folder: Path = Path("nowhere")) -> dict[tuple[str, str], object]:
    values = RECIPES[name]
    for path, value in changed:
        values = with_value(values, path, value)
    return {(node.stage, node.subject): node.part() for node in graph_of(loaded(values, folder))}


def stages_with_another_key(name: str, *changed) -> set[str]:
    before, after = parts(name), parts(name, *changed)
    assert set(before) == set(after)
    return {stage for stage, subject in before if before[stage, subject] != after[stage, subject]}


def test_students_write_as_many_answers_as_the_teacher_when_their_number_changes():
    changed = stages_with_another_key("text", (("evaluate", "generated_rows"), 3))
    assert changed == {"teach", "score", "train"}


@pytest.mark.parametrize(
    "changed",
    [
        (("tasks", "sentiment", "max_length"), 40), (("students", "S1", "dtype"), "bf16"),
        (("train", "device"), "cpu"),
    ],
    ids=lambda changed: ".".join(changed[0]),
)  # fmt: skip
def test_layers_chosen_by_influence_are_chosen_again_when_the_rows_or_the_precision_change(changed):
    assert "shrink" in stages_with_another_key("classification", changed)


@pytest.mark.parametrize("by", ["first", "even"])
def test_layers_that_no_row_decides_stay(by):
    same = (("students", "S1", "shrink", "by"), by)
    before, after = parts("classification", same), parts("classification", same, (("train", "device"), "cpu"))
    assert before["shrink", "S1"] == after["shrink", "S1"]


def test_a_licence_given_later_is_recorded_without_computing_a_row_again(tmp_path):
    recipe = write_experiment(tmp_path)
    run_tiny(recipe, "teacher.adapt=null", until="teach")
    again = run_tiny(recipe, "teacher.adapt=null", "teacher.licence=mit", until="teach")
    assert json.loads((again.at("teach/sentiment") / "teach.json").read_text())["licence"] == "mit"
    assert any(line.startswith("teach model: 0 rows computed") for line in again.lines), again.lines


@pytest.mark.slow
def test_when_checkpoints_are_written_is_no_part_of_a_result(tmp_path):
    digests = set()
    for workspace, change in (("a", "train.save_steps=1"), ("b", "train.save_steps=null")):
        methods = ("methods={B0: {kind: baseline}}", "seeds.report=[1]", "train.max_steps=2", "teacher.adapt=null")
        recipe = write_experiment(tmp_path) if workspace == "a" else tmp_path / "tiny.yaml"
        done = run_tiny(recipe, f"workspace={tmp_path / workspace}", change, *methods, until="train")
        digests.add(tuple(sorted(read_manifest(folder).content_digest for folder in done.outcome.runs)))
    assert len(digests) == 1


@pytest.mark.slow
def test_a_report_with_another_question_is_to_do_and_says_why(tmp_path):
    recipe = write_text_experiment(tmp_path)
    small = ("methods={B0: {kind: baseline}}", "train.max_steps=1", "teacher.adapt=null")
    run_tiny(recipe, *small, report=True)

    def report(*overrides):
        stages = plan_recipe(load_recipe(recipe, (*small, *overrides), environment={})).stages
        return next((stage.state, stage.note) for stage in stages if stage.stage == "report")

    assert report() == ("finished", "")
    assert report("report.question=Why?") == ("to do", "another report.question")
    run_tiny(recipe, *small, "report.question=Why?", report=True)
    assert report("report.question=Why?") == ("finished", "")


def test_live_curves_of_other_settings_lie_beside_each_other(tmp_path):
    folders = graph_of(loaded(RECIPES["reading"], tmp_path)).context.folders
    assert folders.curves("B0_places_S1_seed1", "a" * 64) != folders.curves("B0_places_S1_seed1", "b" * 64)


def test_reasons_compare_with_results_of_the_same_name_alone(tmp_path):
    for name, settings in (("S1.5", {"layers": 2}), ("S1", {"layers": 4})):
        with new_artifact(tmp_path / f"{name}.{'0' * 8}", kind="shrink", fields={"made_of": {"settings": settings}}):
            pass
    target = Target("shrink", "S1", tmp_path / f"S1.{'a' * 8}", "a" * 64, {"settings": {"layers": 2}}, {})
    assert differences(target) == "layers 4 -> 2"
