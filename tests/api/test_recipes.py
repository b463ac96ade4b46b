"""A recipe planned, run and read from Python; its cache opened."""

import shutil
from pathlib import Path

import pytest
import torch
from own_loss_files import PLUGIN
from typer.testing import CliRunner

import tutelage
from tutelage.cli.app import app
from tutelage.config import RecipeError, load_recipe
from tutelage.errors import CacheError, DataError, IntegrityError
from tutelage.experiment.stored import open_stored
from tutelage.losses import kd_loss


def test_a_run_gives_its_results_and_its_page(recipe):
    _, _, finished, lines = recipe
    assert finished.report is not None
    assert finished.report.is_file()
    assert any("KD1" in line for line in lines)
    assert [run.record["method"] for run in finished.results] == ["B0", "KD1", "MINE", "teacher", "untouched"]
    html = finished._repr_html_()
    assert html.startswith("<table>")
    assert "KD1_sentiment_S1" in html
    assert "KD1" in str(finished)


def test_a_plan_names_every_stage_and_knows_what_is_finished(recipe):
    path, before, _, _ = recipe
    after = tutelage.plan(path, plugins=[PLUGIN])
    assert not before.is_finished
    assert after.is_finished
    assert {stage["stage"] for stage in after.stages} >= {"prepare", "adapt", "teach", "shrink", "train", "report"}
    assert "of" in str(after).splitlines()[-1]
    assert "<td>finished</td>" in after._repr_html_()
    changed = tutelage.plan(path, "train.learning_rate=1e-3", plugins=[PLUGIN])
    assert not changed.is_finished
    assert "learning_rate" in str(changed)


def test_every_mistake_of_a_recipe_is_said_at_once(recipe):
    path, *_ = recipe
    with pytest.raises(RecipeError, match=r"(?s)2 problems:.*did you mean temperature.*did you mean learning_rate"):
        tutelage.plan(path, "train.learning_rat=1", "methods.KD1.temprature=2", plugins=[PLUGIN])


def test_results_are_found_from_a_workspace_an_experiment_and_a_recipe(recipe):
    path, _, finished, _ = recipe
    names = [run.run_id for run in finished.results]
    workspace = path.parent / "runs"
    for where in (workspace, str(workspace / "tiny"), path):
        assert [run.run_id for run in tutelage.results(where)] == names
    found = tutelage.results(path)
    assert found["teacher_sentiment"].run_id == "teacher_sentiment"
    assert len(found[:2]) == 2
    (record,) = [each for each in found.records() if each["method"] == "KD1"]
    assert record["train.learning_rate"] == 3e-3
    assert record["test.accuracy"] == pytest.approx(found[record["run_id"]].metric)
    with pytest.raises(DataError, match=r"No finished run is called 'KD9' in these results. There are: B0_"):
        found["KD9"]
    with pytest.raises(DataError, match="is no folder; expected a workspace"):
        tutelage.results(path.parent / "nowhere")


def test_a_damaged_run_is_listed_and_not_believed(recipe, tmp_path):
    path, *_ = recipe
    workspace = Path(shutil.copytree(path.parent / "runs", tmp_path / "runs"))
    (record,) = workspace.glob("tiny/KD1*/run.json")
    record.write_text(record.read_text().replace("0.", "1.", 1))
    found = tutelage.results(workspace)
    (damaged,) = [run for run in found if run.damage]
    assert "run.json is damaged" in found._repr_html_()
    assert damaged.metric is None
    assert len(found.records()) == len(found) - 1
    with pytest.raises(IntegrityError):
        found[str(damaged.folder)]


def test_a_cache_is_opened_by_recipe_and_folder_and_its_rows_feed_the_loss(recipe):
    path, *_ = recipe
    cache = tutelage.open_cache(path)
    assert tutelage.open_cache(path.parent / "runs").folder == cache.folder
    assert {name.partition("-")[0] for name in cache.columns} >= {"final_hidden", "topk"}
    (task,) = open_stored(load_recipe(path, plugins=None), show=print)
    rows = [found.row for found in task.rows[:3]]
    assert {row.teacher_key for row in rows} <= set(cache.keys())
    hidden, topk = cache.read(rows), cache.read(rows, kind="topk", temperatures=(2.0,))
    labels = torch.cat([torch.as_tensor(row.ids[row.target_mask]) for row in rows]).long()
    student = hidden.head.logits(hidden.hidden_NE.float())  # the teacher itself
    for record in (hidden, topk):
        loss = kd_loss(student, record, labels, alpha=0.0, temperature=2.0)
        assert loss.count == len(labels)
        assert loss.mean.item() == pytest.approx(0, abs=1e-5)
    entries = cache.entries(rows[0], count=3)
    assert len(entries.positions[0].ids) == 3
    assert cache.entries(b"0" * 16) is None
    assert str(cache.folder) in cache._repr_html_()
    with pytest.raises(CacheError, match="expected a sampled signal"):
        cache.read(rows, kind="sampled")


def test_python_and_the_command_line_make_the_same_runs(recipe):
    path, _, finished, _ = recipe
    done = CliRunner().invoke(app, ["run", str(path), "--plugin", PLUGIN, "--until", "train"])
    assert done.exit_code == 0
    assert f"{len(finished.results) + 4} finished before" in done.output  # and prepare, adapt, teach, shrink
