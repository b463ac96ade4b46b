"""A finished student answers new rows from the command line, as it answered its own test rows."""

import csv
import io
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from tiny_experiment import recipe_with, run_tiny, write_experiment
from typer.testing import CliRunner, Result

from tutelage.cli.app import app
from tutelage.experiment import footer

RUN = "KD1_sentiment_S1_T2_a0.3_seed1"
METHODS = "  B0: {kind: baseline}\n  KD1: {kind: logit, temperature: 2, alpha: 0.3}\n"


def cli(*arguments: object, input: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=input)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    text = recipe_with(METHODS, "signals: [{kind: final_hidden}]").replace("WORKSPACE", "runs")
    recipe = write_experiment(tmp_path_factory.mktemp("predict"), recipe=text)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(recipe.parent)
        finished = run_tiny(recipe, "seeds.report=[1]")
        (recipe.parent / "closing.txt").write_text("\n".join([*finished.lines, "-----", *footer(finished.outcome)]))
    return recipe.parent


@pytest.fixture(autouse=True)
def at_home(experiment: Path, _own_folder_and_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(experiment)


def run_folder() -> Path:
    return next(Path("runs/tiny").glob(f"{RUN}*"))


def predicted(result: Result) -> list[dict]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture(scope="module")
def own_items(experiment: Path) -> dict[str, list]:
    folder = next((experiment / "runs" / "tiny").glob(f"{RUN}*"))
    return pq.read_table(folder / "items.parquet").to_pydict()


def test_predictions_on_the_test_rows_are_the_runs_own(own_items: dict[str, list], tmp_path: Path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in own_items["text"]))
    answers = predicted(cli("predict", RUN, "--data", rows))
    assert [answer["row"] for answer in answers] == list(range(1, 33))
    names = ["negative", "positive"]
    assert [answer["label"] for answer in answers] == [names[number] for number in own_items["prediction"]]
    assert [answer["score"] for answer in answers] == pytest.approx(own_items["confidence"], rel=1e-12)
    for name in names:
        own = torch.tensor([own_items[f"logprob_{each}"] for each in names], dtype=torch.float64).softmax(0)
        shown = [answer["scores"][name] for answer in answers]
        assert shown == pytest.approx(own[names.index(name)].tolist(), rel=1e-12)


def test_a_run_is_named_by_id_experiment_or_folder(tmp_path: Path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"id": "a", "text": "the film is lovely"}\n{"id": "b", "text": "dull plot", "label": "?"}\n')
    first = predicted(cli("predict", RUN, "--data", rows))
    assert [answer["id"] for answer in first] == ["a", "b"]
    for name in (f"tiny/{RUN}", run_folder(), run_folder() / "checkpoint"):
        assert predicted(cli("predict", name, "--data", rows)) == first


def test_the_format_follows_the_file_name(tmp_path: Path):
    rows = tmp_path / "rows.csv"
    rows.write_text('text,other\n"the film, is lovely",1\ndull plot,2\n')
    out = tmp_path / "answers.csv"
    result = cli("predict", RUN, "--data", rows, "--out", out)
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    assert "2 rows answered by" in result.stderr
    table = list(csv.DictReader(out.open()))
    assert list(table[0]) == ["row", "label", "score", "score_negative", "score_positive"]
    assert table == list(csv.DictReader(io.StringIO(cli("predict", RUN, "--data", rows, "--format", "csv").stdout)))
    again = cli("predict", RUN, "--data", rows, "--out", out)
    assert again.exit_code == 1
    assert "exists and was left alone" in again.stderr


@pytest.mark.parametrize("arguments", [["--format", "xml"], ["--out", "answers.xlsx"]])
def test_an_unknown_format_is_refused_before_anything_is_loaded(arguments: list[str]):
    result = cli("predict", "no run", "--data", "x", *arguments)
    assert result.exit_code == 1
    assert "Expected one of jsonl, csv" in result.stderr


@pytest.mark.parametrize(
    "name", ["items.parquet", "checkpoint/model.safetensors", "checkpoint/tokenizer.json", "run.json"]
)
def test_a_damaged_run_exits_3(name: str, tmp_path: Path):
    copy = tmp_path / "runs" / "tiny" / run_folder().name
    shutil.copytree(run_folder(), copy)
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    result = cli("predict", copy, "--data", "reviews.jsonl")
    assert result.exit_code == 3, result.output
    assert name.rpartition("/")[2] in result.stderr


def test_a_run_without_weights_and_an_unknown_run_are_said():
    kept = cli("predict", "untouched_sentiment_S1", "--data", "reviews.jsonl")
    assert kept.exit_code == 1
    assert "kept no weights" in kept.stderr
    assert "No finished run is called 'nothing'" in cli("predict", "nothing", "--data", "reviews.jsonl").stderr


def test_bad_rows_are_named(tmp_path: Path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "the film"}\n{"text": ""}\n{"other": 1}\n')
    result = cli("predict", RUN, "--data", rows)
    assert result.exit_code == 1
    assert "rows.jsonl:2" in result.stderr
    assert "rows.jsonl:3" in result.stderr


def test_students_and_their_teacher_answer_each_line():
    result = cli("chat", RUN, "B0_sentiment_S1_seed1", "--teacher", input="the film is lovely\n\ndull plot\n")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [RUN, "B0_sentiment_S1_seed1", "teacher"] * 2
    alone = cli("chat", RUN, input="dull plot\n").stdout.splitlines()
    assert alone == [lines[3].partition(": ")[2]]
    assert len(cli("chat", RUN, "--max-new-tokens", "1", input="dull plot\n").stdout.split()) <= 1


def test_the_closing_lines_of_a_run_are_true(tmp_path: Path):
    closing = Path("closing.txt").read_text().partition("-----\n")[2].splitlines()
    scores = {}
    for name in ("B0_sentiment_S1_seed1", RUN):
        folder = next(Path("runs/tiny").glob(f"{name}*"))
        scores[folder] = json.loads((folder / "run.json").read_text())["metrics"]["validation"]["accuracy"]
    best = max(scores, key=lambda folder: scores[folder])
    assert f"student S1 on sentiment, the best on validation: {best}/checkpoint" in closing
    (command,) = [line.split() for line in closing if line.startswith("  tutelage predict ")]
    assert command[:3] == ["tutelage", "predict", str(best)]
    answers = predicted(cli(*command[1:-1], "reviews.jsonl"))
    assert len(answers) == 160
    (talk,) = [line.split() for line in closing if line.startswith("  tutelage chat ")]
    assert cli(*talk[1:], input="the film\n").exit_code == 0
    values: dict = {}
    exec("\n".join(line.strip() for line in closing[closing.index("in Python:") + 1 :]), values)
    assert values["model"].config.num_hidden_layers == 2
    assert values["tokenizer"]("film")["input_ids"]


def test_a_run_that_is_no_terminal_says_which_arm_it_is_at():
    lines = Path("closing.txt").read_text().partition("-----\n")[0].splitlines()
    arms = [line for line in lines if line.startswith("arm ")]
    assert [line.partition(",")[0].partition(":")[0] for line in arms] == [f"arm {n} of 4" for n in (1, 2, 3, 4)]
    assert " left: KD1_sentiment_S1" in arms[-1]
