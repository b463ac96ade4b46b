"""Nothing is overwritten, and ``plan`` says what ``run`` will do: results of other settings lie side by side."""

import json

import pytest
import torch
from tiny_experiment import Finished, recipe_with, run_tiny, write_experiment

from tutelage.config import RecipeError, load_recipe
from tutelage.experiment import list_runs, plan_recipe
from tutelage.experiment.identity import run_id
from tutelage.experiment.listing import compare_runs, show_run
from tutelage.store import read_manifest

ONE_SEED = "seeds.report=[1]"
JSD = "  KDJ: {kind: custom, signal: final_hidden, losses: [{kind: jsd, weight: 1, beta: 0.5}]}\n"
CHANGES = {  # an override, and what `plan` has to say of it
    "train.learning_rate=1e-3": "train.learning_rate 0.003 -> 0.001",
    "train.per_device_train_batch_size=8": "train.per_device_train_batch_size 16 -> 8",
    "students.S1.adapter.kind=lora": "student.adapter.kind none -> lora",
    "methods.KDJ.losses.0.beta=0.25": "method.losses",
    "evaluate.select_by=macro_f1": "evaluate.select_by accuracy -> macro_f1",
}


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory):
    """One method, run as it is and with five changed settings; what was planned before each run."""
    text = recipe_with(JSD, "signals: [{kind: final_hidden}]")
    recipe = write_experiment(tmp_path_factory.mktemp("identity"), recipe=text)
    first = run_tiny(recipe, ONE_SEED)
    plans, runs = {}, {}
    for change in CHANGES:
        plans[change] = plan_recipe(load_recipe(recipe, (ONE_SEED, change), environment={}))
        runs[change] = run_tiny(recipe, ONE_SEED, change, report=True)
    return first, plans, runs


def test_plan_names_what_is_to_do_and_why(changed):
    _, plans, _ = changed
    for change, words in CHANGES.items():
        (stage,) = [stage for stage in plans[change].stages if stage.stage == "train"]
        assert (stage.state, words in stage.note) == ("to do", True), (change, stage)
        assert all(stage.state == "finished" for stage in plans[change].stages if stage.stage in ("prepare", "teach"))


def test_a_run_does_what_was_planned_and_no_more(changed):
    _, plans, runs = changed
    for change in CHANGES:
        assert runs[change].outcome.skipped == plans[change].num_finished, change


def test_all_six_results_lie_side_by_side_and_say_how_they_differ(changed):
    first, _, _ = changed
    found = [run for run in list_runs(first.root.parent) if run.record["role"] == "method"]
    assert len(found) == 6
    assert len({run.folder for run in found}) == len({run.differs for run in found}) == 6
    assert sorted(run.differs for run in found) == sorted(
        (
            "adapter.kind lora", "as most of this name", "learning_rate 0.001", "per_device_train_batch_size 8",
            "select_by macro_f1", 'losses [{"beta": 0.25, "kind": "jsd", "temperature": 1.0, "weight": 1.0}]',
        )
    )  # fmt: skip
    assert all(read_manifest(run.folder) is not None for run in found)


def test_two_of_them_can_be_compared(changed):
    first, _, _ = changed
    workspace = first.root.parent
    found = [run for run in list_runs(workspace) if run.record["role"] == "method"]
    old, new = (
        next(run for run in found if run.differs == differs)
        for differs in ("as most of this name", "learning_rate 0.001")
    )
    changes, scores = compare_runs(workspace, old.folder.name, new.folder.name)
    assert any(change.startswith("train.learning_rate") for change in changes)
    assert set(scores) >= {"test.accuracy", "validation.accuracy"}
    with pytest.raises(Exception, match="Several runs are called") as raised:
        show_run(workspace, old.run_id)
    assert "learning_rate 0.001" in str(raised.value)


def test_the_report_of_a_recipe_takes_the_runs_with_its_own_settings(changed):
    first, _, _ = changed
    for overrides in ((), ("train.learning_rate=1e-3",)):
        done = run_tiny(first.recipe, ONE_SEED, *overrides, only="report")
        summary = json.loads((done.root / "report" / "summary.json").read_text())
        digests = {run["content_digest"] for run in summary["runs"]}
        assert digests == {read_manifest(folder).content_digest for folder in done.outcome.runs}


def test_a_signal_that_is_added_trains_nothing_again(changed):
    first, _, _ = changed
    again = run_tiny(first.recipe, ONE_SEED, "signals=[{kind: final_hidden}, {kind: topk, k: 4}]")
    assert not [line for line in again.lines if line.startswith("train ")]
    assert any(line.startswith("teach ") for line in again.lines)


def test_another_number_of_threads_teaches_nothing_again(tmp_path):
    recipe = write_experiment(tmp_path)
    run_tiny(recipe, "teacher.adapt=null", until="teach")
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        other = run_tiny(recipe, "teacher.adapt=null", "name=other", until="teach")
    finally:
        torch.set_num_threads(before)
    assert any(line.startswith("teach model: 0 rows computed") for line in other.lines), other.lines


def test_only_makes_one_stage_and_refuses_without_its_inputs(tmp_path):
    recipe = write_experiment(tmp_path)
    with pytest.raises(Exception, match=r"prepare sentiment is not finished.*--until prepare"):
        run_tiny(recipe, ONE_SEED, only="teach")
    run_tiny(recipe, ONE_SEED, only="prepare")
    assert {path.name for path in (tmp_path / "runs" / "tiny").iterdir() if path.is_dir()} == {"prepare"}


def test_two_runs_with_one_name_are_refused_before_anything_runs(tmp_path):
    methods = "  KD: {kind: baseline}\n  KD_x: {kind: baseline}\n"
    text = recipe_with(methods, "signals: [{kind: final_hidden}]")
    one = text[text.index("  sentiment:\n") : text.index("signals:")]
    text = text.replace(one, one.replace("sentiment:", "t:") + one.replace("sentiment:", "x_t:"))
    recipe = write_experiment(tmp_path, recipe=text.replace("task: sentiment", "task: t"))
    with pytest.raises(RecipeError, match=r"KD_x on t for S1 and KD on x_t for S1.*'KD_x_t_S1_seed1'; rename"):
        plan_recipe(load_recipe(recipe, (ONE_SEED,), environment={}))


def test_grid_values_are_told_apart_to_the_last_digit():
    first, second = (run_id("KD", "t", "S1", {"temperature": value}, 1) for value in (1.0000001, 1.0000002))
    assert first != second
    assert run_id("KD", "t", "S1", {"alpha": 0.5, "train.learning_rate": 2e-5}, 1) == "KD_t_S1_a0.5_lr2e-05_seed1"


def test_a_long_name_is_shortened_with_a_hash_and_stays_distinct():
    names = {run_id("M" * 40, "t" * 40, f"S{i}", {"lr_scheduler_type": "a b/c"}, 1) for i in range(3)}
    assert len(names) == 3
    assert all(len(name) <= 70 for name in names)


def test_what_is_read_is_named_in_the_manifest(finished: Finished):
    manifest = read_manifest(finished.at("KD1_sentiment_S1_T2_a0.3_seed1"))
    assert manifest is not None
    for stage in ("prepare/sentiment", "teach/sentiment", "shrink/S1", "adapt/sentiment"):
        assert (finished.root.parent / manifest.fields["inputs"][stage]).is_dir()
