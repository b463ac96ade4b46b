"""`new --data` reads the file: the recipe that it writes passes `plan` and runs without an edit."""

import csv
import gzip
import json
import random
import sys
from pathlib import Path

import datasets
import pytest
from typer.testing import CliRunner, Result

from tutelage.cli.app import app
from tutelage.config import load_recipe
from tutelage.experiment.identity import Folders
from tutelage.experiment.prepare import prepared_or_cut
from tutelage.experiment.stage import Context

sys.path.insert(0, str(Path(__file__).parents[1] / "experiment"))

import tiny_experiment

SENTIMENTS = ("negative", "positive")
ENDINGS = ["rows.jsonl", "a b: {c}.tsv", 'it\'s "quoted" #1.csv', "ünlaut.jsonl.gz"]


def new(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["new", *arguments])


def recipe_of(name: str = "mine"):
    return load_recipe(Path(f"{name}.yaml"), environment={}).recipe


def require_rows(name: str = "mine") -> None:
    """Read and cut the rows as `plan` does."""
    loaded = load_recipe(Path(f"{name}.yaml"), environment={})
    context = Context(loaded, Folders(Path("runs"), name), show=print, command="")
    prepared_or_cut(context, "mine")


def write_table(path: Path, rows: list[dict]) -> None:
    stream = path.open("w", newline="", encoding="utf-8")
    with stream:
        writer = csv.DictWriter(stream, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)


def write_lines(path: Path, rows: list[dict]) -> None:
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def labelled(count: int = 120, classes=SENTIMENTS, text: str = "text", label: str = "label") -> list[dict]:
    rng = random.Random(0)
    return [
        {text: f"{tiny_experiment.review(rng)[0]} {number}", label: classes[number % len(classes)]}
        for number in range(count)
    ]


@pytest.mark.parametrize("data", ENDINGS)
def test_a_file_of_any_name_and_kind_gives_a_recipe_that_passes(data: str):
    (write_lines if "jsonl" in data else write_table)(Path(data), labelled())
    assert new("mine", "--data", data).exit_code == 0
    task = recipe_of().tasks["mine"]

    assert task.data.source == data
    assert task.verbalisers == {"negative": " negative", "positive": " positive"}
    require_rows()


def test_what_was_found_is_said_and_every_class_has_its_count():
    write_table(Path("tickets.csv"), [{"id": n, **row} for n, row in enumerate(labelled(300, ("a", "b", "b", "c")))])
    said = new("mine", "--data", "tickets.csv").stdout

    assert "tickets.csv: 300 rows, columns id, text, label: a classification task, 3 classes" in said
    text = Path("mine.yaml").read_text(encoding="utf-8")
    assert '"b": " b"' in text
    assert "# 150 rows" in text
    data = recipe_of().tasks["mine"].data
    assert (data.text, data.label, data.validation_rows, data.test_rows) == ("text", "label", 30, 60)


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        (labelled(text="review", label="sentiment"), ("review", "sentiment")),
        (labelled(text="What was said", label="Mood of it"), ("What was said", "Mood of it")),
        ([{**row, "url": f"http://x/{n}"} for n, row in enumerate(labelled())], ("text", "label")),
        (
            [{"#1 String": f"a word {n}", "#2 String": f"the word {n}", "Quality": n % 2} for n in range(80)],
            ("#1 String", "Quality"),
        ),
    ],
)
def test_columns_are_found_by_name_or_by_what_they_hold(rows: list[dict], columns: tuple[str, str]):
    write_table(Path("a.csv"), rows)
    assert new("mine", "--data", "a.csv").exit_code == 0
    data = recipe_of().tasks["mine"].data

    assert (data.text, data.label) == columns
    require_rows()


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ((0, 1), {"0": " no", "1": " yes"}),
        ((1, 2, 3), {"1": " one", "2": " two", "3": " three"}),
        (("card", "card lost"), {"card": " A", "card lost": " B"}),
        (("+", "-"), {"+": " A", "-": " B"}),
        (("Sci/Tech", "World"), {"Sci/Tech": " sci/tech", "World": " world"}),
        (("card_lost", "late fee: yes"), {"card_lost": " card lost", "late fee: yes": " late fee: yes"}),
    ],
)
def test_every_class_gets_an_answer_that_begins_with_a_blank_and_begins_no_other(classes: tuple, words: dict):
    write_lines(Path("a.jsonl"), labelled(classes=classes))
    assert new("mine", "--data", "a.jsonl").exit_code == 0
    assert recipe_of().tasks["mine"].verbalisers == words
    require_rows()


def test_names_that_the_data_set_declares_are_the_classes():
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    rows = [{**row, "label": n % 2} for n, row in enumerate(labelled())]
    Path("hub/data").mkdir(parents=True)
    datasets.Dataset.from_list(rows, features=features).to_parquet("hub/data/train-00000-of-00001.parquet")
    datasets.Dataset.from_list(rows[:20], features=features).to_parquet("hub/data/test-00000-of-00001.parquet")
    assert new("mine", "--data", "hub").exit_code == 0
    assert recipe_of().tasks["mine"].verbalisers == {"neg": " neg", "pos": " pos"}
    assert "(0)" in Path("mine.yaml").read_text(encoding="utf-8")


def test_a_table_without_a_header_gets_names_for_its_columns():
    rows = [(row["text"], row["label"]) for row in labelled()]
    with Path("a.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    assert new("mine", "--data", "a.csv").exit_code == 0
    data = recipe_of().tasks["mine"].data
    assert data.columns == ("text", "label")
    require_rows()


KINDS = {
    "messages": (
        {"messages": [{"role": "user", "content": "q NUMBER"}, {"role": "assistant", "content": "a"}]},
        "text",
    ),
    "alpaca": ({"instruction": "do NUMBER", "output": "done"}, "text"),
    "texts": ({"text": "a film about NUMBER and more"}, "text"),
    "squad": ({"context": "Anna NUMBER lives here.", "question": "Who?", "answers": ["Anna NUMBER"]}, "reading"),
}


@pytest.mark.parametrize("name", list(KINDS))
def test_the_kind_of_task_is_seen(name: str):
    row, kind = KINDS[name]
    write_lines(Path("a.jsonl"), [json.loads(json.dumps(row).replace("NUMBER", str(n))) for n in range(60)])
    assert new("mine", "--data", "a.jsonl").exit_code == 0
    assert recipe_of().tasks["mine"].kind == kind
    require_rows()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.csv", None, "gone.csv does not exist"),
        ("a.csv", "", "holds no rows"),
        ("a.xlsx", "PK", "save it as CSV"),
        ("a.jsonl", "{\n", "is not valid JSON"),
        ("a.csv", "text,label\na,x\nb,y\n", "2 rows are too few"),
        (
            "a.csv",
            "a,b\n" + "".join(f"good film {n},bad film {n}\n" for n in range(40)),
            "--text COLUMN --label COLUMN",
        ),
        ("a.csv", "x\n1\n2\n", "leave open what is text"),
    ],
)
def test_a_file_that_says_too_little_is_one_line(name: str, content: str | None, message: str):
    if content is not None:
        Path(name).write_text(content)
    result = new("mine", "--data", name)
    assert result.exit_code == 1
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not Path("mine.yaml").exists()


def test_columns_may_be_named():
    write_table(Path("a.csv"), [{"a": f"good film {n}", "b": f"a bad film {n}", "c": n % 3} for n in range(60)])
    assert new("mine", "--data", "a.csv").exit_code == 1
    assert new("mine", "--data", "a.csv", "--text", "b", "--label", "c").exit_code == 0
    data = recipe_of().tasks["mine"].data
    assert (data.text, data.label) == ("b", "c")
    assert "no column 'd', only 'a', 'b', 'c'" in new("other", "--data", "a.csv", "--text", "d").stderr


def test_a_name_may_have_the_ending_and_the_data_lie_elsewhere(tmp_path: Path):
    (tmp_path / "data").mkdir()
    (tmp_path / "recipes").mkdir()
    write_lines(tmp_path / "data" / "a.jsonl", labelled())
    assert new("x.yaml", "--data", "data/a.jsonl", "--folder", "recipes").exit_code == 0
    assert load_recipe(Path("recipes/x.yaml"), environment={}).recipe.tasks["mine"].data.source == "../data/a.jsonl"


def test_from_a_csv_to_a_student_without_an_edit():
    rng = random.Random(0)
    rows = [dict(zip(("text", "label"), tiny_experiment.review(rng), strict=True)) for _ in range(300)]
    write_table(Path("reviews.csv"), rows)
    tiny_experiment.write_tiny_model(Path("model"))
    assert new("mine", "--data", "reviews.csv").exit_code == 0
    small = ("teacher.model=model", "teacher.dtype=fp32", "students.S1.dtype=fp32", "students.S1.shrink.layers=2")
    short = ("train.learning_rate=3e-3", "train.num_train_epochs=3", "teacher.adapt.max_steps=8")
    planned = CliRunner().invoke(app, ["plan", "mine.yaml", *small])
    assert planned.exit_code == 0, planned.stderr
    assert "mine: classes, test: negative" in " ".join(planned.stdout.split())
    done = CliRunner().invoke(app, ["run", "mine.yaml", *small, *short])
    assert done.exit_code == 0, done.stderr
    assert "KD1" in done.stdout
