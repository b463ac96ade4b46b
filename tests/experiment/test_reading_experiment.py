"""A recipe with a reading task from beginning to end on a tiny model."""

import json
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
from reading_experiment import BOTH, RECIPE, write_reading_experiment
from tiny_experiment import Finished, run_tiny, write_reviews

from tutelage.config import load_recipe
from tutelage.data import read_prepared
from tutelage.evaluate import answer_metrics, read_answer_items, write_answer_items
from tutelage.experiment import list_runs, plan_recipe
from tutelage.experiment.reading import ReadingKind
from tutelage.experiment.stored import choose_rows, open_stored
from tutelage.experiment.teach import Taught
from tutelage.train.loop import train

B0, PSEUDO, KD1 = "B0_squad_S1_seed1", "PSEUDO_squad_S1_seed1", "KD1_squad_S1_T2_a0.3_seed1"
TRAINED = (B0, PSEUDO, KD1)


class Spy:
    """Which splits were answered and which rows learnt, in the order of the stages."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.answered: list[str] = []
        self.rows: dict[str, list] = {}
        items, spy = ReadingKind.items, self

        def watched(kind, data, model, examples, **rest):
            names = [name for name, rows in data.prepared.splits.items() if rows and examples == rows[: len(examples)]]
            spy.answered.append(names[0])
            return items(kind, data, model, examples, **rest)

        def watched_train(module, rows, teacher, options, **rest):
            spy.rows[rest["folder"].name.split("_")[0]] = rows
            spy.answered.append(f"train {rest['folder'].name.split('_')[0]}")
            return train(module, rows, teacher, options, **rest)

        patch.setattr(ReadingKind, "items", watched)
        patch.setattr("tutelage.experiment.arm.train", watched_train)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        spy = Spy(patch)
        return run_tiny(write_reading_experiment(tmp_path_factory.mktemp("reading")), report=True), spy


@pytest.fixture(scope="module")
def finished(done) -> Finished:
    return done[0]


def items_of(finished: Finished, run_id: str):
    return read_answer_items(finished.at(run_id) / "items.parquet")


def test_baseline_pseudo_labels_and_distillation_run_and_are_scored_on_the_same_questions(finished):
    runs = {run.run_id: run.record for run in list_runs(finished.root.parent)}
    assert set(runs) == {"teacher_squad", "untouched_squad_S1", *TRAINED}
    keys = {items_of(finished, run_id).item_keys for run_id in runs}
    assert keys == {tuple(each.item_key for each in read_prepared(finished.at("prepare/squad")).splits["test"])}
    assert {run["metrics"]["test"]["n"] for run in runs.values()} == {30}
    assert {run["primary_metric"] for run in runs.values()} == {"f1"}


def test_test_questions_are_answered_once_by_each_model_and_after_training(done):
    _, spy = done
    by_arm = defaultdict(list)
    arm = "before"
    for event in spy.answered:
        arm = event if event.startswith("train ") else arm
        by_arm[arm].append(event)
    assert by_arm.pop("before") == ["train", "validation", "test", "adapt", "test", "validation"]  # teacher, untouched
    for events in by_arm.values():
        assert events.count("test") == 1
        assert events[-1] == "test"
        assert set(events[1:-1]) == {"validation"}


def test_the_metrics_of_a_run_are_those_of_its_items(finished):
    for run_id in ("teacher_squad", *TRAINED):
        metrics, items = finished.record(run_id)["metrics"]["test"], items_of(finished, run_id)
        assert answer_metrics(items).items() <= metrics.items()
        assert items.score_B.mean() == metrics["f1"]
    assert finished.record(KD1)["metrics"]["test"]["kl_to_teacher"] >= 0
    assert finished.record("teacher_squad")["metrics"]["test"]["f1"] > 0, "a teacher that is never right proves nothing"


def test_the_weights_with_the_best_validation_f1_are_kept(finished):
    lines = (finished.at(B0) / "evaluations.jsonl").read_text().splitlines()
    scores = [json.loads(line)["f1"] for line in lines]
    assert finished.record(B0)["metrics"]["validation"] == {"f1": max(scores)}


def test_gold_rows_hold_gold_answers_and_pseudo_rows_what_the_teacher_wrote(done):
    finished, spy = done
    tokenizer = open_stored(load_recipe(finished.recipe, environment={}), show=print)[0].tokenizer
    questions = read_prepared(finished.at("prepare/squad")).splits["train"]
    taught = read_answer_items(finished.at("teach/squad") / "answers_train.parquet")
    learnt = {
        arm: {row.item_key: tokenizer.decode(row.ids[row.target_mask]) for row in rows}
        for arm, rows in spy.rows.items()
    }
    assert learnt["B0"] == {each.item_key: f"{each.answer} <end>" for each in questions}
    assert learnt["KD1"] == learnt["B0"]
    assert learnt["PSEUDO"] == {
        key: f"{text} <end>" for key, text in zip(taught.item_keys, taught.predictions, strict=True)
    }
    assert learnt["PSEUDO"] != learnt["B0"], "a teacher that is always right would prove nothing"


def test_a_pseudo_label_that_was_cut_has_no_end_to_learn(finished, tmp_path):
    stored = open_stored(load_recipe(finished.recipe, environment={}), show=print)[0]
    answers = read_answer_items(finished.at("teach/squad") / "answers_train.parquet")
    is_cut = np.arange(len(answers.cut_B)) % 2 == 0
    write_answer_items(tmp_path / "answers_train.parquet", replace(answers, cut_B=is_cut))
    rows = stored.data.pseudo_rows(Taught(tmp_path))
    ended = [stored.tokenizer.decode(row.ids).endswith("<end>") for row in rows]
    assert ended == (~is_cut).tolist()


def test_the_report_shows_f1_and_exact_match(finished):
    table = (finished.root / "report" / "tables" / "main.md").read_text()
    heading = table.splitlines()[2]
    assert [cell in heading for cell in ("F1 %", "Exact match %", "Valid %", "Accuracy", "ECE")] == [True] * 3 + [
        False
    ] * 2
    assert heading.count("F1 %") == 1
    assert "F1" in finished.outcome.table


def test_the_same_command_again_skips_everything(finished):
    again = run_tiny(finished.recipe, until="train")
    assert not any(line.startswith(("train", "teach", "adapt", "prepare")) for line in again.lines)
    plan = plan_recipe(load_recipe(finished.recipe, environment={}))
    assert {stage.state for stage in plan.stages} == {"finished"}


def test_rows_can_be_looked_at_with_the_signal_that_is_stored_for_them(finished):
    tasks = open_stored(load_recipe(finished.recipe, environment={}), show=print)
    assert tasks[0].fingerprint is not None
    assert len(choose_rows(tasks, count=5, seed=0)) == 5


def test_another_way_to_read_long_contexts_asks_the_teacher_anew_and_keeps_rows_and_adaptation(finished, tmp_path):
    recipe = write_reading_experiment(tmp_path)
    overrides = ("tasks.squad.max_length=28", "methods={B0: {kind: baseline}}")
    first = run_tiny(recipe, *overrides, until="train")
    shortened = first.record("teacher_squad")["metrics"]["test"]["shortened_ratio"]
    assert shortened == 1
    assert any("48 texts were shortened to 28 tokens" in line for line in first.lines)
    second = run_tiny(recipe, *overrides, "tasks.squad.doc_stride=4", until="train")
    assert second.record("teacher_squad")["metrics"]["test"]["shortened_ratio"] == 0
    assert items_of(second, "teacher_squad").num_windows_B.min() > 1
    made = {line.split()[0] for line in second.lines if line.startswith(("prepare", "adapt", "teach ", "train"))}
    assert made == {"teach", "train"}
    facts = json.loads((second.at("teach/squad") / "teach.json").read_text())
    assert facts["shortened"]["train"] == 48


SEARCH = RECIPE.replace("  B0: {kind: baseline}\n  PSEUDO: {kind: pseudo}\n", "").replace(
    "  KD1: {kind: logit, temperature: 2, alpha: 0.3}", "  KD1: {kind: logit, grid: {temperature: [1, 2]}}"
)


def test_a_search_is_decided_by_the_tasks_metric_and_reads_no_test_question(tmp_path):
    done = run_tiny(write_reading_experiment(tmp_path, recipe=SEARCH), until="trials")
    trials = [run.record for run in list_runs(done.root.parent) if run.record["trial"]]
    assert [set(trial["metrics"]) for trial in trials] == [{"validation"}] * 2
    chosen = json.loads((done.root / "best_config.json").read_text())["squad/S1"]["KD1"]
    assert chosen["f1"] == max(trial["metrics"]["validation"]["f1"] for trial in trials)


def test_tasks_of_both_kinds_learn_in_one_recipe_each_judged_by_its_own_metric(tmp_path):
    recipe = write_reading_experiment(tmp_path, recipe=BOTH)
    write_reviews(tmp_path / "reviews.jsonl", count=60)
    done = run_tiny(recipe, "train.num_train_epochs=1", "methods={B0: {kind: baseline}}", until="train")
    assert done.record("B0_sentiment_S1_seed1")["primary_metric"] == "accuracy"
    assert done.record("B0_squad_S1_seed1")["primary_metric"] == "f1"


def test_one_adapter_learns_several_tasks_on_rows_of_each_that_no_student_gets(tmp_path):
    recipe = write_reading_experiment(tmp_path, recipe=BOTH)
    write_reviews(tmp_path / "reviews.jsonl", count=80)
    several = ("teacher.adapt.task=[squad, sentiment]", "teacher.adapt.rows=12")
    first = run_tiny(recipe, *several, until="adapt")
    splits = {name: read_prepared(first.at(f"prepare/{name}")).splits for name in ("squad", "sentiment")}
    assert [len(each["adapt"]) for each in splits.values()] == [12, 12]
    assert any("4 steps on 24 rows of their own" in line for line in first.lines)
    for each in splits.values():
        keys = [{row.item_key for row in each[name]} for name in ("adapt", "train", "validation", "test")]
        assert sum(map(len, keys)) == len(set().union(*keys))
    again = run_tiny(recipe, *several, until="adapt")
    assert not any(line.startswith("adapt") for line in again.lines)
    stages = plan_recipe(load_recipe(recipe, list(several), environment={})).stages
    assert [stage.state for stage in stages if stage.stage == "adapt"] == ["finished"]
    other = run_tiny(recipe, *several, "tasks.sentiment.template='{text} is in'", until="adapt")
    assert any(line.startswith("adapt") for line in other.lines), "rows of the second task decide the weights too"
