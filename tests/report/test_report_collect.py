"""What the report reads from disk, and what it refuses to read."""

import json
import shutil

import numpy as np
import pytest
from synthetic_experiment import ARMS, LABELS, write_experiment, write_run

from tutelage.errors import DataError, IntegrityError
from tutelage.report.collect import collect
from tutelage.report.summary import summarise
from tutelage.store import new_artifact, write_json

KD1 = "KD1_sentiment_S1_seed42"


@pytest.fixture
def folder(experiment_folder, tmp_path):
    copy = tmp_path / "reviews"
    shutil.copytree(experiment_folder, copy, ignore=shutil.ignore_patterns("report", "*trial*"))
    return copy


def recommit(folder, change):
    """Change a run's record and commit the run again, as a later evaluation would."""
    record = json.loads((folder / "run.json").read_text())
    files = {
        path.name: path.read_bytes() for path in folder.iterdir() if path.name not in ("run.json", "MANIFEST.json")
    }
    with new_artifact(folder, kind="train") as temporary:
        for name, content in files.items():
            (temporary / name).write_bytes(content)
        write_json(temporary / "run.json", change(record))


def test_runs_and_trials_are_told_apart(experiment):
    assert len(experiment.runs) == 14
    assert len(experiment.trials) == 18
    assert all(run.items is None and run.role == "trial" for run in experiment.trials)


def test_items_come_sorted_by_key_with_their_label_names(experiment):
    run = next(run for run in experiment.runs if run.run_id == KD1)
    assert run.items is not None
    assert run.labels == LABELS
    assert list(run.items["item_key"]) == sorted(run.items["item_key"])
    assert run.scores.scores.mean() == pytest.approx(run.test["accuracy"])


def test_teacher_and_untouched_student_have_no_seed_and_no_history(experiment):
    untrained = [run for run in experiment.runs if run.role in ("teacher", "untouched")]
    assert [(run.seed, run.steps, run.evaluations) for run in untrained] == [(None, (), ())] * 2


def test_a_run_without_a_valid_manifest_does_not_exist(folder):
    (folder / KD1 / "MANIFEST.json").unlink()
    (folder / "B0_sentiment_S1_seed42" / "metrics.jsonl").write_text("cut")
    found = {run.run_id for run in collect(folder).runs}
    assert not found & {KD1, "B0_sentiment_S1_seed42"}
    assert len(found) == 12


def test_temporary_folders_are_not_runs(folder):
    shutil.copytree(folder / KD1, folder / f"{KD1}.tmp.1.abcd")
    assert len(collect(folder).runs) == 14


@pytest.mark.parametrize("name", ["items.parquet", "run.json", "metrics.jsonl", "evaluations.jsonl", "provenance.json"])
def test_a_flipped_bit_is_an_error_not_a_number(folder, name):
    content = bytearray((folder / KD1 / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / KD1 / name).write_bytes(bytes(content))
    with pytest.raises(IntegrityError, match=name):
        collect(folder)


def test_items_and_run_record_must_tell_the_same_accuracy(folder):
    def change(record):
        record["metrics"]["test"]["accuracy"] += 0.01
        return record

    recommit(folder / KD1, change)
    with pytest.raises(IntegrityError, match="different evaluations"):
        collect(folder)


def test_two_runs_for_one_arm_and_seed_are_refused(folder):
    shutil.copytree(folder / KD1, folder / "KD1_old")
    recommit(folder / "KD1_old", lambda record: record | {"run_id": "KD1_old"})
    with pytest.raises(DataError, match=r"KD1_old and KD1_.*both stand for KD1 with seed 42.*report RECIPE"):
        collect(folder)
    assert len(collect(folder, runs=[run for run in folder.iterdir() if run.name != "KD1_old"]).runs) == 14


def test_a_run_is_known_by_its_record_and_not_by_its_folder(folder):
    (folder / KD1).rename(folder / f"{KD1}.a1b2c3d4")
    assert KD1 in {run.run_id for run in collect(folder).runs}
    assert [run.run_id for run in collect(folder, runs=[folder / f"{KD1}.a1b2c3d4"]).runs] == [KD1]


def test_only_the_named_folders_are_read(folder):
    """The results of an earlier setting lie beside the new ones, under the same id."""
    shutil.copytree(folder / KD1, folder / f"{KD1}.a1b2c3d4")
    recommit(folder / f"{KD1}.a1b2c3d4", lambda record: record | {"steps": 1})
    with pytest.raises(DataError, match=f"Two runs {KD1} both stand"):
        collect(folder)
    wanted = [path for path in folder.iterdir() if path.name != KD1]
    (found,) = [run for run in collect(folder, runs=wanted).runs if run.run_id == KD1]
    assert found.record["steps"] == 1


def test_the_order_and_names_of_the_folders_change_nothing(folder, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    for index, path in enumerate(sorted(moved.iterdir())):
        path.rename(moved / f"{len(ARMS) * 3 - index:02}")
    assert [run.run_id for run in collect(moved).runs] == [run.run_id for run in collect(folder).runs]
    named = collect(folder, runs=sorted(folder.iterdir(), reverse=True)).runs
    assert [run.run_id for run in named] == [run.run_id for run in collect(folder).runs]


def test_a_named_folder_that_is_not_finished_is_an_error(folder):
    (folder / KD1 / "MANIFEST.json").unlink()
    with pytest.raises(IntegrityError, match=f"{KD1} is no finished run"):
        collect(folder, runs=list(folder.iterdir()))


@pytest.mark.parametrize(
    ("change", "message"), [({"role": "winner"}, "'winner'"), ({"method": None}, "lacks"), ({"task": None}, "lacks")]
)
def test_a_record_without_its_parts_is_refused(folder, change, message):
    def without(record):
        merged = record | change
        return {key: value for key, value in merged.items() if value is not None}

    recommit(folder / KD1, without)
    with pytest.raises(DataError, match=message):
        collect(folder)


def test_a_line_that_is_not_json_is_named(folder):
    run = folder / KD1
    files = {path.name: path.read_bytes() for path in run.iterdir() if path.name != "MANIFEST.json"}
    with new_artifact(run, kind="train") as temporary:
        for name, content in files.items():
            (temporary / name).write_bytes(b"{oops\n" if name == "metrics.jsonl" else content)
    with pytest.raises(DataError, match=r"metrics\.jsonl is not JSON"):
        collect(folder)


def test_an_empty_experiment_says_what_to_do(tmp_path):
    with pytest.raises(DataError, match="no finished run"):
        collect(tmp_path)


def test_only_trials_are_not_a_result(tmp_path, experiment_folder):
    for path in experiment_folder.glob("*trial*"):
        shutil.copytree(path, tmp_path / path.name)
    with pytest.raises(DataError, match="18 trials"):
        collect(tmp_path)


def test_trials_of_another_experiment_are_listed_with_the_results(tmp_path, experiment_folder):
    bare, search = tmp_path / "bare", tmp_path / "search"
    for path in experiment_folder.iterdir():
        shutil.copytree(path, (search if "trial" in path.name else bare) / path.name)
    assert collect(bare).trials == ()
    found = collect(bare, search_folder=search)
    assert len(found.trials) == 18
    assert len(found.runs) == 14
    checks = {
        check["name"]: check["passed"]
        for group in summarise(found, question="", command="")["groups"]
        for check in group["checks"]
    }
    assert checks["Equal tuning effort"] is not None
    assert checks["Selection apart from reporting"] is True


def test_a_search_that_was_not_run_is_named(tmp_path, experiment_folder):
    with pytest.raises(DataError, match="no finished trial"):
        collect(experiment_folder, search_folder=tmp_path / "search")


def test_a_reported_run_without_items_is_refused(tmp_path):
    write_experiment(tmp_path, num_items=30)
    (tmp_path / "bare").mkdir()
    with new_artifact(tmp_path / "KD1_sentiment_S1_seed42", kind="train") as temporary:
        write_json(
            temporary / "run.json",
            {"run_id": KD1, "role": "method", "method": "KD1", "task": "sentiment", "student": "S1", "seed": 42},
        )
    run = next(run for run in collect(tmp_path).runs if run.run_id == KD1)
    with pytest.raises(DataError, match=r"no items\.parquet"):
        _ = run.scores


def test_seconds_are_read_from_the_provenance(tmp_path):
    generator = np.random.default_rng(0)
    write_run(tmp_path, "B0", "baseline", 42, 1.0, generator.normal(0, 1, 20), np.ones(20, int), generator)
    (run,) = collect(tmp_path).runs
    assert run.seconds == 301.5
    assert "seconds" not in run.record
