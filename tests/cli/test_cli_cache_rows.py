"""What ``cache inspect`` and ``preview`` show of one row beside distributions: class scores, written answers."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_experiment import RECIPE, at, run_tiny, write_experiment
from typer.testing import CliRunner, Result

from tutelage.cache.sequences import Answer, SequencesColumn
from tutelage.cli import preview
from tutelage.cli.app import app
from tutelage.config import load_recipe
from tutelage.experiment.answers import RowReader
from tutelage.experiment.stored import find_row, open_stored

ANSWERS = "{kind: sequences, max_new_tokens: 5, do_sample: true, num_samples: 2, temperature: 0.8, allow_bad: true}"
WITH_ANSWERS = RECIPE.replace("signals: [", f"signals: [{ANSWERS}, ").replace("WORKSPACE", "runs")
NOT_ADAPTED = "\n".join(line for line in WITH_ANSWERS.splitlines() if not line.strip().startswith("adapt:")) + "\n"
WIDTH = 80


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe of an experiment whose teacher wrote two answers to every training prompt."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("answered")
    recipe = write_experiment(folder, recipe=NOT_ADAPTED)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_tiny(recipe, until="teach")
    return recipe


@pytest.fixture
def at_home(answered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(answered.parent)


def cli(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def inspected(row: object = 0) -> dict:
    return json.loads(cli("cache", "inspect", "tiny.yaml", row, "--json").stdout)


def test_class_scores_are_those_of_the_teach_stage(at_home: None):
    expected = np.load(at(Path("runs/tiny"), "teach/sentiment") / "scores_train.npy")
    for number in (0, 7):
        scores = inspected(number)["class_scores"]
        assert scores["column"].startswith("class_scores-c2-")
        assert [each["label"] for each in scores["labels"]] == ["negative", "positive"]
        assert [each["logprob"] for each in scores["labels"]] == pytest.approx(expected[number].tolist())
        assert sum(each["share"] for each in scores["labels"]) == pytest.approx(1.0)
        assert [each["prob"] for each in scores["labels"]] == pytest.approx(np.exp(expected[number]).tolist())


def test_answers_come_with_finish_and_settings(at_home: None):
    record = inspected()
    answers = record["answers"]
    assert answers["column"].startswith("sequences-sampled-n2-m5-")
    assert answers["settings"]["temperature"] == 0.8
    assert answers["settings"]["num_samples"] == len(answers["samples"]) == 2
    prompt = "".join(run["text"] for run in record["text"] if not run["target"])
    assert answers["prompt"].strip() == prompt.strip()
    for sample in answers["samples"]:
        assert sample["finish"] in ("stop", "length")
        assert sample["num_tokens"] == len(sample["ids"]) <= 5
        assert (sample["finish"] == "stop") == (sample["ids"][-1] == 1)


def test_rows_that_nobody_was_asked_about_have_no_answers(at_home: None):
    last = inspected(159)
    assert last["split"] == "test"
    assert last["answers"] is None
    assert last["class_scores"] is not None


def test_piped_output_is_plain_and_one_line_each(at_home: None):
    shown = cli("cache", "inspect", "tiny.yaml", "0").stdout
    lines = shown.splitlines()
    assert "\x1b" not in shown
    assert "label     log-prob  probability  among labels" in lines
    assert "sample  tokens  finish  text" in lines
    (how,) = [line for line in lines if line.startswith("teacher's answers, ")]
    assert "sampled at T = 0.8, top-p 1, seed 0, at most 5 tokens, no chat template, stop at id 1, from" in how
    assert [line for line in lines if line.startswith(("     0  ", "     1  "))][:1]


def test_preview_shows_them_too(at_home: None):
    records = json.loads(cli("preview", "tiny.yaml", "--rows", "2", "--json").stdout)
    assert all(record["class_scores"] and record["answers"] for record in records)


def test_a_damaged_answer_is_an_error_with_exit_code_3(answered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "copy"
    shutil.copytree(answered.parent, folder)
    monkeypatch.chdir(folder)
    for path in folder.rglob("sequences-*/*/payload.bin"):
        path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))
    result = cli("cache", "inspect", "tiny.yaml", "0")
    assert result.exit_code == 3
    assert "is damaged" in result.stderr


def test_answers_that_are_gone_count_as_missing(answered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "copy"
    shutil.copytree(answered.parent, folder)
    monkeypatch.chdir(folder)
    (column,) = folder.glob("runs/cache/*/sequences-*")
    shutil.rmtree(column)
    result = cli("cache", "verify", "tiny.yaml")
    assert result.exit_code == 3
    assert "missing, of task sentiment: " in result.stdout
    assert column.name in result.stdout


def on_a_terminal(monkeypatch: pytest.MonkeyPatch, show) -> list[str]:
    """What appears on a terminal of 80 columns, styles taken off, trailing blanks too."""
    written: list[str] = []
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(sys.stdout, "write", written.append)
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    show()
    return [line.rstrip() for line in "".join(written).splitlines()]


def test_a_row_fits_into_80_columns_and_no_entry_is_broken(at_home: None, monkeypatch: pytest.MonkeyPatch):
    loaded = load_recipe(Path("tiny.yaml"), environment={})
    lines = on_a_terminal(monkeypatch, lambda: preview.show_row(loaded, "0", top=8, as_json=False))
    assert max(map(len, lines)) <= WIDTH
    entries = [line for line in lines if "%" in line and '"' in line]
    assert len(entries) > 4  # eight entries of two positions take several lines
    for line in entries:
        assert line.rstrip().endswith("%")  # a line ends behind an entry's probability, never behind its token
        assert line.count('"') % 2 == 0


def test_written_text_cannot_move_the_cursor(capsys: pytest.CaptureFixture):
    column = SequencesColumn(97, 8, template="ab12cd34", stop_ids=(2,), stop_strings=("\nReview:",))
    sample = {"text": "fine\n\x1b[2Jgone", "finish": "stop", "num_tokens": 3, "ids": [1, 2, 3]}
    preview.print_answers({"column": column.name, "settings": column.spec, "prompt": "Say\nit", "samples": [sample]})
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert 'asked: "Say\\nit"' in shown
    assert 'greedy, at most 8 tokens, chat template ab12cd34, stop at id 2 or "\\nReview:", from' in shown
    assert '"fine\\n\\u001b[2Jgone"' in shown


def test_the_row_reader_gives_the_stored_answers(at_home: None):
    tasks = open_stored(load_recipe(Path("tiny.yaml"), environment={}), show=lambda line: None)
    task, found = find_row(tasks, "3")
    written = RowReader(task).answers(found)
    assert written is not None
    assert all(isinstance(each, Answer) for each in written.samples)
    assert written.column.num_samples == len(written.samples)
