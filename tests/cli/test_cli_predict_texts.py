"""``predict`` and ``chat`` with students of conversations and of reading."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from reading_experiment import write_reading_experiment
from text_experiment import write_text_experiment
from tiny_experiment import run_tiny
from typer.testing import CliRunner, Result

from tutelage.cli.app import app

CHAT_RUN, READING_RUN = "B0_chat_S1_seed1", "B0_squad_S1_seed1"
METHODS = "{B0: {kind: baseline}}"


def cli(*arguments: object, input: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=input)


def predicted(result: Result) -> list[dict]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def finished(write, folder: Path) -> Path:
    torch.set_num_threads(1)
    recipe = write(folder)
    run_tiny(recipe, f"methods={METHODS}", until="train")
    return folder


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(write_text_experiment, tmp_path_factory.mktemp("talks"))


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(write_reading_experiment, tmp_path_factory.mktemp("reading"))


QUESTION = {"role": "user", "content": "Where does Anna live ?"}
SHAPES = [
    {"messages": [QUESTION]},
    {"messages": [QUESTION, {"role": "assistant", "content": "Anna lives in Rome ."}]},
    {"conversations": [{"from": "human", "value": QUESTION["content"]}]},
    {"prompt": QUESTION["content"]},
    {"prompt": QUESTION["content"], "completion": "Anna lives in Rome .", "label": False},
    {"instruction": QUESTION["content"], "input": ""},
]


def test_one_question_in_any_form_gets_one_answer(talks: Path, tmp_path: Path):
    answers = []
    for number, shape in enumerate(SHAPES):
        rows = tmp_path / f"{number}.jsonl"
        rows.write_text(json.dumps(shape) + "\n")
        answers += predicted(cli("predict", CHAT_RUN, "--data", rows, "--workspace", talks / "runs"))
    assert len(answers) == len(SHAPES)
    assert set(answers[0]) == {"row", "answer", "finish"}
    assert all(answer == answers[0] for answer in answers)
    said = cli("chat", CHAT_RUN, "--workspace", talks / "runs", input=f"{QUESTION['content']}\n")
    assert said.stdout.strip() == answers[0]["answer"]


def test_a_conversation_goes_on_until_it_is_started_over(talks: Path):
    lines = f"{QUESTION['content']}\nAnd where does Bert live ?\n/new\n{QUESTION['content']}\n"
    result = cli("chat", CHAT_RUN, "--teacher", "--max-new-tokens", 8, "--workspace", talks / "runs", input=lines)
    assert result.exit_code == 0, result.output
    answers = result.stdout.splitlines()
    assert [answer.partition(": ")[0] for answer in answers] == [CHAT_RUN, "teacher"] * 3
    assert answers[:2] == answers[4:]


def test_a_conversation_longer_than_the_model_reads_is_one_line(talks: Path):
    result = cli("chat", CHAT_RUN, "--workspace", talks / "runs", input="Anna " * 200 + "\n")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: The conversation has ")
    assert "Write /new to start over" in result.stderr


def test_a_text_is_continued(talks: Path, tmp_path: Path):
    rows = tmp_path / "rows.txt"
    rows.write_text("Anna lives\n")
    rows = rows.rename(tmp_path / "rows.jsonl")
    rows.write_text('{"text": "Anna lives in"}\n')
    answers = predicted(
        cli("predict", CHAT_RUN, "--data", rows, "--workspace", talks / "runs", "--max-new-tokens", "3")
    )
    assert answers[0]["finish"] in ("stop", "length")
    assert len(answers[0]["answer"].split()) <= 3


def test_answers_to_the_test_questions_are_the_runs_own(reading: Path, tmp_path: Path):
    folder = next((reading / "runs" / "tiny").glob(f"{READING_RUN}*"))
    items = pq.read_table(folder / "items.parquet").to_pydict()
    rows = tmp_path / "rows.jsonl"
    asked = [text.partition(" | ") for text in items["text"]]
    rows.write_text("".join(json.dumps({"question": q, "context": c}) + "\n" for q, _, c in asked))
    answers = predicted(cli("predict", READING_RUN, "--data", rows, "--workspace", reading / "runs"))
    assert [answer["answer"] for answer in answers] == items["prediction"]
    assert [answer["score"] for answer in answers] == pytest.approx(items["confidence"], rel=1e-12)
    assert [answer["cut"] for answer in answers] == items["cut"]


def test_a_reading_student_is_asked_with_its_columns(reading: Path):
    line = json.dumps({"context": "Anna lives in Rome .", "question": "Where does Anna live ?"})
    asked = cli("chat", READING_RUN, "--workspace", reading / "runs", input=line + "\n")
    assert asked.exit_code == 0, asked.output
    plain = cli("chat", READING_RUN, "--workspace", reading / "runs", input="Where?\n")
    assert plain.exit_code == 1
    assert 'a line such as {"context": "...", "question": "..."}' in plain.stderr
