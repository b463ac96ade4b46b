"""A recipe from beginning to end on a tiny model: what is made, what is skipped, what counts as the same."""

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_experiment import RECIPE, Finished, run_tiny, write_experiment

from tutelage.cache import CacheReader, find_column
from tutelage.data import read_prepared
from tutelage.errors import ConfigError, DataError, LockedError
from tutelage.experiment import list_runs, plan_recipe, show_run
from tutelage.experiment.classification import ClassificationKind
from tutelage.experiment.teach import Taught
from tutelage.store import folder_lock, read_manifest, verify_artifact
from tutelage.train.loop import train

ARMS = ("B0", "PSEUDO", "KD1", "KD1-permuted")


def record(finished: Finished, run_id: str) -> dict:
    return json.loads((finished.at(run_id) / "run.json").read_text())


def reported_id(arm: str, seed: int) -> str:
    return f"{arm}_sentiment_S1{'_T2_a0.3' if arm.startswith('KD1') else ''}_seed{seed}"


def test_every_arm_runs_on_every_report_seed_and_the_control_on_the_first_all_scored_on_the_same_test_rows(
    finished: Finished,
):
    runs = {run.run_id: run.record for run in list_runs(finished.root.parent)}
    assert set(runs) == {
        "teacher_sentiment", "untouched_sentiment_S1",
        *(reported_id(arm, seed) for arm in ARMS for seed in (1, 2) if (arm, seed) != ("KD1-permuted", 2)),
    }  # fmt: skip
    assert {run["metrics"]["test"]["n"] for run in runs.values()} == {32}
    for run in list_runs(finished.root.parent):
        verify_artifact(run.folder)


def test_the_student_is_smaller_than_the_teacher_and_says_which_layers_it_kept(finished: Finished):
    run = record(finished, "B0_sentiment_S1_seed1")
    assert run["parameters"] < run["teacher_parameters"]
    layers = json.loads((finished.at("shrink/S1") / "layers.json").read_text())
    assert len(layers["kept"]) == 2
    assert layers["of"] == 4
    assert len(layers["influence"]) == 4


def test_adaptation_validation_and_test_rows_are_disjoint_from_the_distillation_rows(finished: Finished):
    splits = read_prepared(finished.at("prepare/sentiment")).splits
    clusters = {name: {example.cluster_key for example in rows} for name, rows in splits.items()}
    for name in ("adapt", "validation", "test"):
        assert clusters[name]
        assert not clusters[name] & clusters["train"]


def test_the_same_command_again_skips_everything(finished: Finished):
    before = {run.run_id: run.content_digest for run in list_runs(finished.root.parent)}
    again = run_tiny(finished.recipe, report=True, control=True)
    assert not any(line.startswith(("train", "teach", "adapt", "prepare")) for line in again.lines)
    assert {run.run_id: run.content_digest for run in list_runs(finished.root.parent)} == before
    assert again.outcome.table == finished.outcome.table


def test_a_run_in_another_folder_gives_the_same_digests(finished: Finished, tmp_path):
    other = run_tiny(write_experiment(tmp_path), "seeds.report=[1]", until="train")
    digests = {run.run_id: run.content_digest for run in list_runs(finished.root.parent)}
    for run in list_runs(other.root.parent):
        assert run.content_digest == digests[run.run_id], run.run_id


def test_a_changed_setting_makes_only_the_runs_that_it_touches(tmp_path):
    first = run_tiny(write_experiment(tmp_path), "seeds.report=[1]", until="train")
    before = {run.run_id: run.content_digest for run in list_runs(first.root.parent)}
    changed = run_tiny(first.recipe, "seeds.report=[1]", "methods.KD1.alpha=0.5", until="train")
    made = [line.split()[1].rstrip(":") for line in changed.lines if line.startswith("train ")]
    assert made == ["KD1_sentiment_S1_T2_a0.5_seed1"]
    after = {run.run_id: run.content_digest for run in list_runs(first.root.parent)}
    assert before.items() <= after.items()


def test_the_teacher_runs_over_each_row_once(finished: Finished):
    facts = json.loads((finished.at("teach/sentiment") / "teach.json").read_text())
    splits = read_prepared(finished.at("prepare/sentiment")).splits
    assert facts["num_rows"] <= sum(len(rows) for rows in splits.values())
    column = find_column(finished.root.parent / "cache", facts["fingerprint"], kind="final_hidden")
    reader = CacheReader(finished.root.parent / "cache", facts["fingerprint"], column)
    assert len(reader.keys()) == facts["num_rows"]


def test_pseudo_labels_are_the_labels_that_the_teacher_finds_most_likely(tmp_path, monkeypatch):
    trained: dict[str, list] = {}

    def spy(module, rows, teacher, options, **rest):
        trained[rest["folder"].name.split("_")[0]] = rows
        return train(module, rows, teacher, options, **rest)

    monkeypatch.setattr("tutelage.experiment.arm.train", spy)
    done = run_tiny(write_experiment(tmp_path), "seeds.report=[1]", until="train")
    taught = Taught(done.at("teach/sentiment"))
    scores = next(spec for spec in taught.facts["columns"] if spec["kind"] == "class_scores")
    answers = {arm: [int(row.ids[row.target_mask][0]) for row in rows] for arm, rows in trained.items()}
    likely = np.array(scores["class_token_ids"])[taught.class_scores("train").argmax(axis=1)]
    assert answers["PSEUDO"] == likely.tolist()
    gold = [example.gold for example in read_prepared(done.at("prepare/sentiment")).splits["train"]]
    assert answers["B0"] == np.array(scores["class_token_ids"])[gold].tolist()
    assert answers["PSEUDO"] != answers["B0"], "a teacher that is always right would prove nothing"


def test_no_gold_label_is_counted_for_pseudo_labels(finished: Finished):
    assert record(finished, "PSEUDO_sentiment_S1_seed1")["gold_labels"] == 0
    assert record(finished, "B0_sentiment_S1_seed1")["gold_labels"] == 80
    assert record(finished, "B0_sentiment_S1_seed1")["teacher_tokens"] == 0
    assert record(finished, "KD1_sentiment_S1_T2_a0.3_seed1")["teacher_tokens"] > 0


def test_equal_budget_means_equal_student_tokens(finished: Finished):
    tokens = {arm: record(finished, reported_id(arm, 1))["tokens"] for arm in ARMS}
    assert len(set(tokens.values())) == 1


SEARCH = (
    RECIPE.replace("  B0: {kind: baseline}", "  B0: {kind: baseline, grid: {train.learning_rate: [1e-3, 3e-3]}}")
    .replace("  KD1: {kind: logit, temperature: 2, alpha: 0.3}", "  KD1: {kind: logit, grid: {temperature: [1, 2]}}")
    .replace("  PSEUDO: {kind: pseudo}\n", "")
)


def test_a_search_tries_on_the_selection_seed_and_reports_the_winner_on_the_others(tmp_path):
    done = run_tiny(write_experiment(tmp_path, recipe=SEARCH), until="train")
    runs = list_runs(done.root.parent)
    trials = [run.record for run in runs if run.record["trial"]]
    assert len(trials) == 4
    assert {trial["seed"] for trial in trials} == {7}
    assert all("test" not in trial["metrics"] for trial in trials)
    chosen = json.loads((done.root / "best_config.json").read_text())["sentiment/S1"]
    for method in ("B0", "KD1"):
        scores = {t["run_id"]: t["metrics"]["validation"]["accuracy"] for t in trials if t["method"] == method}
        assert scores[chosen[method]["trial"]] == max(scores.values())
        reported = [run.record for run in runs if run.record["method"] == method and not run.record["trial"]]
        assert {run["seed"] for run in reported} == {1, 2}
        assert all(run["settings"] == chosen[method]["settings"] for run in reported)


def test_plan_names_what_is_finished(finished: Finished):
    from tutelage.config import load_recipe

    plan = plan_recipe(load_recipe(finished.recipe, environment={}), control=True)
    assert {stage.state for stage in plan.stages} == {"finished"}
    assert {stage.stage for stage in plan.stages} >= {"prepare", "adapt", "teach", "train"}
    assert plan.facts["rows"].startswith("160 in all splits")
    assert plan.facts["time"].startswith("0 runs to do")
    assert "MiB" in plan.facts["cache of sentiment"]


def test_an_unknown_stage_is_refused(finished: Finished):
    with pytest.raises(ConfigError, match="no stage 'training'"):
        run_tiny(finished.recipe, only="training")


def test_a_second_process_is_refused_while_the_first_runs(tmp_path):
    recipe = write_experiment(tmp_path)
    with folder_lock(tmp_path / "runs" / "tiny"), pytest.raises(LockedError, match="in use by process"):
        run_tiny(recipe)


def test_a_run_that_does_not_exist_is_named_with_those_that_do(finished: Finished):
    with pytest.raises(DataError, match="B0_sentiment_S1_seed1"):
        show_run(finished.root.parent, "KD9")
    assert show_run(finished.root.parent, "teacher_sentiment").metric is not None


def test_unfinished_folders_are_not_listed(finished: Finished, tmp_path):
    (tmp_path / "e" / "r").mkdir(parents=True)
    (tmp_path / "e" / "r" / "run.json").write_text("{")
    assert list_runs(tmp_path) == []
    assert read_manifest(tmp_path / "e" / "r") is None


def test_fewer_distillation_rows_need_no_other_teacher(tmp_path):
    first = run_tiny(write_experiment(tmp_path), until="adapt")
    assert any(line.startswith("adapt") for line in first.lines)
    fewer = run_tiny(first.recipe, "tasks.sentiment.data.limit=20", until="adapt")
    assert any(line.startswith("prepare") for line in fewer.lines)
    assert not any(line.startswith("adapt") for line in fewer.lines)


def test_rows_are_written_once_for_all_arms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    written: list[tuple[int, bool]] = []
    rows = ClassificationKind.rows

    def count(self, data, examples, *, for_training):
        written.append((len(examples), for_training))
        return rows(self, data, examples, for_training=for_training)

    monkeypatch.setattr(ClassificationKind, "rows", count)
    recipe = write_experiment(tmp_path)
    run_tiny(recipe, "seeds.report=[1]", until="teach")
    written.clear()
    done = run_tiny(recipe, until="train")
    assert len([line for line in done.lines if line.startswith("train ")]) > 3
    num_rows = {name: len(rows) for name, rows in read_prepared(done.at("prepare/sentiment")).splits.items()}
    assert [written.count((num_rows["train"], True)), written.count((num_rows["test"], False))] == [2, 1], (
        written
    )  # the checks before it read them on their own
