"""What a user's label column means: declared names, counting from one, bools, decimals; never a silent flip."""

from decimal import Decimal

import datasets
import pytest
from labelled_files import labelled, write_jsonl

from tutelage.data import RowRules, data_lines, prepare_task
from tutelage.data.labels import LabelReader, match_names
from tutelage.data.problems import DataProblemsError

STRICT = RowRules(every_class=True, max_left_out=0.05)


def numbered(values, count=60):
    return [{"text": f"film {number}", "label": values[number % len(values)]} for number in range(count)]


def prepared(folder, rows, task, **options):
    write_jsonl(folder / "a.jsonl", rows)
    return prepare_task(task, source="a.jsonl", base_folder=folder, rules=STRICT, **options)


def saved(folder, names, label=0):
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
    rows = [{"text": f"film {number}", "label": (label + number) % len(names)} for number in range(60)]
    datasets.Dataset.from_list(rows, features=features).to_parquet(str(folder / "a.parquet"))
    return "a.parquet"


def golds(made):
    return {
        int(example.fields["text"].split()[1]) % 2: made.task.labels[example.gold]
        for rows in made.splits.values()
        for example in rows
    }


@pytest.mark.parametrize("names", [["neg", "pos"], ["pos", "neg"], ["neg", "neu", "pos"], ["a", "b"]])
def test_class_names_that_a_data_set_declares_and_the_task_does_not_have_are_an_error(tmp_path, task, names):
    with pytest.raises(DataProblemsError, match="the data set itself names its classes") as caught:
        prepare_task(task, source=saved(tmp_path, names), base_folder=tmp_path)
    assert caught.value.problems[0][0] == ("labels",)
    assert f"(0 to {len(names) - 1}), the task's are negative, positive" in str(caught.value)


def test_the_remedy_maps_the_declared_names_and_is_accepted(tmp_path, task):
    source = saved(tmp_path, ["pos", "neg"])
    with pytest.raises(DataProblemsError, match=r"`labels: \{0: positive, 1: negative\}`"):
        prepare_task(task, source=source, base_folder=tmp_path)
    for label_map in ({"0": "positive", "1": "negative"}, {"pos": "positive", "neg": "negative"}):
        made = prepare_task(task, source=source, base_folder=tmp_path, label_map=label_map)
        assert golds(made) == {0: "positive", 1: "negative"}
        assert "label: 0 (pos) -> positive; 1 (neg) -> negative" in list(data_lines(made.info))


@pytest.mark.parametrize("names", [["positive", "negative"], ["Positive", "Negative"]][:1])
def test_declared_names_decide_whatever_the_order_of_the_verbalisers(tmp_path, task, names):
    made = prepare_task(task, source=saved(tmp_path, names), base_folder=tmp_path)
    assert golds(made) == {0: "positive", 1: "negative"}


def test_numbers_that_a_data_set_names_are_indices_even_where_the_names_are_numbers():
    read = LabelReader(("1", "2"), class_names=["1", "2"])
    assert [read(0), read(1), read("2")] == [0, 1, 1]
    with pytest.raises(DataProblemsError, match="names its classes 1 star, 2 stars"):
        LabelReader(("1", "2"), class_names=["1 star", "2 stars"])(1)


@pytest.mark.parametrize("values", [(1, 2), (1.0, 2.0), ("1", "2"), (-1, 1)])
def test_labels_that_do_not_count_from_zero_are_an_error_with_a_map(tmp_path, task, values):
    with pytest.raises(DataProblemsError, match="the labels are the numbers") as caught:
        prepared(tmp_path, numbered(values), task)
    first, last = (int(float(value)) for value in values)
    assert f"`labels: {{{first}: negative, {last}: positive}}`" in str(caught.value)
    assert caught.value.problems[0][0] == ("labels",)


def test_one_based_labels_of_which_every_one_is_an_index_are_an_error_too(tmp_path, make_task):
    task = make_task(labels=("a", "b", "c", "d"), verbalisers=(" a", " b", " c", " d"))
    with pytest.raises(DataProblemsError, match=r"class 'a' has no row to learn from.*the numbers 1, 2, 3, but"):
        prepared(tmp_path, numbered((1, 2, 3)), task)


@pytest.mark.parametrize(
    ("labels", "values", "expected"),
    [
        (("negative", "positive"), (False, True), {0: "negative", 1: "positive"}),
        (("positive", "negative"), (False, True), {0: "negative", 1: "positive"}),
        (("yes", "no"), ("False", "True"), {0: "no", 1: "yes"}),
        (("true", "false"), (True, False), {0: "true", 1: "false"}),
        (("ham", "spam"), (False, True), {0: "ham", 1: "spam"}),
        (("negative", "positive"), ("0.0", "1.0"), {0: "negative", 1: "positive"}),
        (("negative", "positive"), (0.0, 1.0), {0: "negative", 1: "positive"}),
        (("1", "2"), ("1.0", "2.0"), {0: "1", 1: "2"}),
    ],
)
def test_bools_and_decimals_mean_what_they_say(tmp_path, make_task, labels, values, expected):
    made = prepared(tmp_path, numbered(values), make_task(labels=labels))
    assert golds(made) == expected


def test_decimals_of_a_database_are_numbers():
    assert LabelReader(("a", "b"))(Decimal("1.00")) == 1
    with pytest.raises(ValueError, match=r"the label is 0.5"):
        LabelReader(("a", "b"))(0.5)


def test_names_are_matched_by_their_beginnings_and_only_where_that_is_clear():
    assert match_names(["NEG", "pos"], ("negative", "positive")) == {"NEG": "negative", "pos": "positive"}
    assert match_names(["p", "n"], ("polite", "private")) == {}


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_class_without_training_or_test_rows_is_an_error_unless_allowed(tmp_path, task, split):
    rows = {name: labelled(40, start=100 * number) for number, name in enumerate(("train", "test"))}
    for row in rows[split]:
        row["label"] = "positive"
    for name in rows:
        write_jsonl(tmp_path / f"{name}.jsonl", rows[name])
    with pytest.raises(DataProblemsError, match="class 'negative' has no row"):
        prepare_task(task, source=str(tmp_path), rules=STRICT)
    made = prepare_task(task, source=str(tmp_path))
    assert made.info["classes"][split]["negative"] == 0


def test_a_test_set_of_one_row_is_an_error(tmp_path, task):
    with pytest.raises(DataProblemsError, match="test has 1 rows only"):
        prepared(tmp_path, labelled(30), task, test_rows=1)


def test_a_set_that_is_nearly_all_of_one_class_is_cut_class_by_class_and_said(tmp_path, task):
    rows = [{"text": f"film {number}", "label": int(number % 100 == 7)} for number in range(1000)]
    made = prepared(tmp_path, rows, task, test_rows=200, validation_rows=100, adapt_rows=300)
    assert made.info["classes"] == {
        "train": {"negative": 396, "positive": 4},
        "adapt": {"negative": 297, "positive": 3},
        "validation": {"negative": 99, "positive": 1},
        "test": {"negative": 198, "positive": 2},
    }
    lines = " ".join(data_lines(made.info))
    assert "99% of the test rows are 'negative'" in lines
    assert "classes, test: negative 198, positive 2" in lines
    assert "class 'positive' has 4 training rows only" in lines
    assert "cut class by class" in lines


@pytest.mark.parametrize("counts", [(30, 30, 30, 30), (90, 20, 5, 5), (100, 2, 2, 2), (7, 6, 5, 40)])
def test_every_class_has_its_share_of_every_cut(tmp_path, make_task, counts):
    labels = tuple("abcd")
    rows = [
        {"text": f"{label} {number}", "label": label}
        for label, count in zip(labels, counts, strict=True)
        for number in range(count)
    ]
    task = make_task(labels=labels, verbalisers=tuple(f" {label}" for label in labels))
    made = prepared(tmp_path, rows, task, test_rows=len(rows) // 5, validation_rows=len(rows) // 10)
    assert len(made.splits["test"]) == len(rows) // 5
    for label, count in zip(labels, counts, strict=True):
        assert abs(made.info["classes"]["test"][label] - max(1, count / 5)) <= 2
        assert made.info["classes"]["train"][label] >= 1


def test_columns_that_nothing_reads_are_listed(tmp_path, task):
    rows = [{"id": number, **row, "source": "web"} for number, row in enumerate(labelled(40))]
    made = prepared(tmp_path, rows, task)
    assert made.info["columns_not_read"] == ["source"]
    assert "columns not read: source" in list(data_lines(made.info))


def test_bad_rows_are_skipped_and_counted_where_the_recipe_says_so(tmp_path, task):
    bad = ({"text": None, "label": 1}, {"text": "x", "label": "maybe"})
    path = write_jsonl(tmp_path / "a.jsonl", [*labelled(98), *bad])
    path.write_text(path.read_text() + "{\n")
    made = prepare_task(task, source="a.jsonl", base_folder=tmp_path, rules=RowRules(skip_bad=True, max_left_out=0.05))
    assert made.info["dropped"] == {"bad_row": 3}
    assert made.info["rows_read"] == {"a.jsonl:train": 101}
    assert any("3 bad rows are skipped, the first: " in note for note in made.info["notes"])
    with pytest.raises(
        DataProblemsError, match=r"3 of 101 rows are left out \(3%: 3 bad_row\), allowed are 2%"
    ) as caught:
        prepare_task(task, source="a.jsonl", base_folder=tmp_path, rules=RowRules(skip_bad=True, max_left_out=0.02))
    assert caught.value.problems[0][0] == ("max_left_out",)


def test_few_rows_get_defaults_that_fit_them_and_too_many_asked_for_get_values_that_fit(tmp_path, task):
    made = prepared(tmp_path, labelled(300), task, validation_rows=None, adapt_rows=None)
    assert made.info["rows"] == {"train": 105, "adapt": 105, "validation": 30, "test": 60}
    assert "few rows, so validation_rows is 30, a tenth" in " ".join(made.info["notes"])
    with pytest.raises(Exception, match=r"fit: test_rows: 16, validation_rows: 8, teacher\.adapt\.rows: 28"):
        prepared(tmp_path, labelled(80), task, test_rows=99, validation_rows=500, adapt_rows=2000)
