"""Questions are read alike from every source, and a source that is not in SQuAD form says what it is."""

import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from labelled_files import write_jsonl
from squad_files import flat, official, paragraph, reading_task, write_official

from tutelage.data import load_records, prepare_task, read_prepared, write_prepared
from tutelage.data import sources as sources_module
from tutelage.data.questions import read_questions
from tutelage.errors import DataError


def read(tmp_path, source, task=None, split="train"):
    return read_questions(task or reading_task(), load_records(source, base_folder=tmp_path), split)


def write_source(folder, kind):
    rows = flat(range(3))
    match kind:
        case "json":
            write_official(folder / "a.json", range(3))
        case "jsonl":
            write_jsonl(folder / "a.jsonl", rows)
        case "parquet":
            pq.write_table(pa.Table.from_pylist(rows), folder / "a.parquet")
        case "saved":
            datasets.Dataset.from_list(rows).save_to_disk(str(folder / "a.saved"))
    return f"a.{kind}"


@pytest.mark.parametrize("kind", ["json", "jsonl", "parquet", "saved"])
def test_the_same_questions_come_out_of_every_kind_of_source(tmp_path, kind):
    found = read(tmp_path, write_source(tmp_path, kind))
    assert [each.item_key for each in found.questions] == [row["id"] for row in flat(range(3))]
    for each, row in zip(found.questions, flat(range(3)), strict=True):
        assert each.fields == {"context": row["context"], "question": row["question"]}
        assert each.golds == tuple(row["answers"]["text"])
        assert each.fields["context"][each.answer_start : each.answer_end] == each.answer == row["answers"]["text"][0]
    assert len({each.cluster_key for each in found.questions}) == 3  # one per passage
    assert (found.left_out, found.num_moved) == ({}, 0)


@pytest.mark.parametrize(
    "answers",
    [
        {"text": ["Ann0", "a mayor"], "answer_start": [26, 11]},
        {"text": ["Ann0", "a mayor"]},
        {"text": ["Ann0", "a mayor"], "answer_start": None},
        [{"text": "Ann0", "answer_start": 26}, {"text": "a mayor", "answer_start": 11}],
        [{"text": " Ann0", "answer_start": 25}, {"text": "a mayor "}],
        ["Ann0", "a mayor"],
        ["Ann0", " ", "a mayor", "Ann0"],
        '["Ann0", "a mayor"]',  # in a cell of a CSV file
        ["Mayor Ann", "Ann0", "a mayor"],  # the first does not stand in the context; it still counts as gold
    ],
)
def test_gold_answers_may_be_given_in_any_usual_shape(tmp_path, answers):
    write_jsonl(tmp_path / "a.jsonl", [{**flat(range(1))[0], "answers": answers}])
    (found,) = read(tmp_path, "a.jsonl").questions
    assert (found.answer, found.answer_start) == ("Ann0", 26)
    assert found.golds[-2:] == ("Ann0", "a mayor")


def test_an_answer_at_a_wrong_place_is_found_elsewhere_and_counted(tmp_path):
    row = flat(range(1))[0]
    write_jsonl(tmp_path / "a.jsonl", [{**row, "answers": {"text": ["Ann0"], "answer_start": [3]}}])
    found = read(tmp_path, "a.jsonl")
    assert found.questions[0].answer_start == 26
    assert found.num_moved == 1


def test_rows_without_an_answer_in_their_context_are_left_out_and_counted_by_reason(tmp_path):
    first, second, third = flat(range(2))[:3]
    rows = [first, {**second, "answers": {"text": [], "answer_start": []}}, {**third, "answers": ["Nobody"]}]
    write_jsonl(tmp_path / "a.jsonl", rows)
    found = read(tmp_path, "a.jsonl")
    assert len(found.questions) == 1
    assert found.left_out == {"no_answer": 1, "answer_not_in_context": 1}
    write_jsonl(tmp_path / "b.jsonl", rows[1:])
    with pytest.raises(DataError, match=r"no question with an answer in its context \(1 no_answer, 1 answer_not_in_c"):
        read(tmp_path, "b.jsonl")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"text": "x", "label": "y"},
            r"a\.jsonl:1: there is no column 'context', only 'text', 'label'; expected conte",
        ),
        (
            {"context": "x", "question": "y"},
            r"no column 'answers', only 'context', 'question'; expected context, quest",
        ),
        (
            {"context": "x", "question": "y", "answers": 3},
            r"'answers' is a int; expected context, question and answe",
        ),
        ({"context": "x", "question": "y", "answers": {"texts": []}}, r"'answers' has only 'texts'; expected context"),
        ({"context": "x", "question": "y", "answers": {"text": ["x"], "answer_start": [0, 1]}}, "1 texts and the pla"),
        ({"context": "x", "question": "y", "answers": [3]}, "holds 3 at None; expected a text"),
        ({"context": "x", "question": "y", "answers": [{"text": "x", "answer_start": "0"}]}, "holds 'x' at '0'; exp"),
        ({"context": "x", "question": "y", "answers": [{"text": "x", "answer_start": True}]}, "holds 'x' at True; ex"),
        ({"context": " ", "question": "y", "answers": ["x"]}, "column 'context' is empty, expected words"),
        ({"context": "x", "question": None, "answers": ["x"]}, "column 'question' is empty, expected words"),
        ({"context": ["x"], "question": "y", "answers": ["x"]}, "column 'context' is a list, expected words"),
    ],
)
def test_an_unknown_schema_is_an_error_that_names_what_was_found_and_expected(tmp_path, row, message):
    write_jsonl(tmp_path / "a.jsonl", [row])
    with pytest.raises(DataError, match=message):
        read(tmp_path, "a.jsonl")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", r"a\.json:\[0\] is a int\. Expected an object"),
        ('{"rows": []}', r"the file has no 'data', only 'rows'\. Expected a list of objects"),
        ('{"data": {}}', r"data in the file is a dict, expected a list"),
        ('{"data": [{"title": "x"}, {"paragraphs": []}]}', r"data\[0\] has no 'paragraphs', only 'title'"),
        ('{"data": [{"paragraphs": [{"qas": [{"question": "q", "answers": []}]}]}]}', r"paragraphs\[0\] has no 'conte"),
        ('{"data": [{"paragraphs": [{"context": "c", "qas": [{"question": "q"}]}]}]}', r"qas\[0\] has no 'answers'"),
        ('{"data": []}', r"a\.json holds no rows"),
        ('{"data": ', r"a\.json is not valid JSON"),
        ("[" * 100_000, r"a\.json is not valid JSON"),
    ],
)
def test_a_file_that_is_not_in_the_official_layout_is_an_error_that_names_the_place(tmp_path, content, message):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(DataError, match=message):
        load_records("a.json", base_folder=tmp_path)


def test_a_folder_of_official_files_is_train_and_test(tmp_path):
    write_official(tmp_path / "train-v1.1.json", range(4))
    write_official(tmp_path / "dev-v1.1.json", range(4, 6))
    prepared = prepare_task(reading_task(), source=str(tmp_path), validation_rows=2)
    assert prepared.info["rows"] == {"train": 6, "adapt": 0, "validation": 2, "test": 4}
    assert {each.item_key for each in prepared.splits["test"]} == {
        f"test:q{number}-{what}" for number in (4, 5) for what in ("mayor", "river")
    }


def test_questions_about_one_passage_never_straddle_a_split(tmp_path):
    write_official(tmp_path / "a.json", range(40))
    for seed in range(3):
        prepared = prepare_task(
            reading_task(),
            source="a.json",
            base_folder=tmp_path,
            validation_rows=10,
            adapt_rows=6,
            test_rows=14,
            seed=seed,
        )
        clusters = [{each.cluster_key for each in rows} for rows in prepared.splits.values()]
        assert sum(map(len, clusters)) == len(set().union(*clusters)) == 40
        assert prepared.info["rows"] == {"train": 50, "adapt": 6, "validation": 10, "test": 14}
        assert prepared.info["clusters"] == {"train": 25, "adapt": 3, "validation": 5, "test": 7}


def test_a_passage_of_the_official_test_set_is_dropped_from_training(tmp_path):
    write_official(tmp_path / "train.json", range(5))
    write_official(tmp_path / "dev.json", range(4, 6))
    prepared = prepare_task(
        reading_task(), source="train.json", validation="dev.json", base_folder=tmp_path, validation_rows=2
    )
    assert prepared.info["dropped"] == {"overlap_with_test": 2}
    assert prepared.info["rows"] == {"train": 6, "adapt": 0, "validation": 2, "test": 4}


def test_a_cluster_column_keeps_passages_together(tmp_path):
    rows = [{**row, "cluster": "even" if number % 4 < 2 else "odd"} for number, row in enumerate(flat(range(6)))]
    write_jsonl(tmp_path / "a.jsonl", rows)
    found = read(tmp_path, "a.jsonl").questions
    assert [each.cluster_key == found[0].cluster_key for each in found] == [n % 4 < 2 for n in range(12)]


def test_rows_without_ids_are_known_by_their_content(tmp_path):
    rows = [{key: value for key, value in row.items() if key != "id"} for row in flat(range(2))]
    write_jsonl(tmp_path / "a.jsonl", [*rows, rows[0]])
    keys = [each.item_key for each in read(tmp_path, "a.jsonl").questions]
    assert len(set(keys)) == 5
    assert keys[4] == f"{keys[0]}-1"


def test_a_template_may_read_other_columns_and_a_missing_one_is_named(tmp_path):
    task = reading_task(template="{title}: {context} {question}")
    write_jsonl(tmp_path / "a.jsonl", flat(range(1)))
    assert read(tmp_path, "a.jsonl", task).questions[0].fields["title"] == "Towns"
    with pytest.raises(DataError, match="there is no column 'topic'"):
        read(tmp_path, "a.jsonl", reading_task(template="{topic} {context} {question}"))


def test_a_prepared_reading_task_survives_the_disk(tmp_path):
    write_official(tmp_path / "a.json", range(20))
    prepared = prepare_task(reading_task(), source="a.json", base_folder=tmp_path, validation_rows=4, test_rows=4)
    (tmp_path / "made").mkdir()
    write_prepared(tmp_path / "made", prepared)
    again = read_prepared(tmp_path / "made")
    assert (again.task, again.splits, again.info) == (prepared.task, prepared.splits, prepared.info)


def test_moved_answers_are_noted(tmp_path):
    rows = [{**row, "answers": {**row["answers"], "answer_start": [0]}} for row in flat(range(9))]
    write_jsonl(tmp_path / "a.jsonl", rows)
    prepared = prepare_task(reading_task(), source="a.jsonl", base_folder=tmp_path, test_rows=2)
    assert prepared.info["notes"] == [
        "a.jsonl:train: 18 answers were not at their answer_start; their first occurrence in the context was taken"
    ]


def test_the_facts_sample_is_split_by_country(tmp_path, monkeypatch):
    countries = [
        {**official(range(number, number + 2))["data"][0], "title": f"Country {number}"} for number in range(0, 20, 2)
    ]
    file = tmp_path / "questions.json"
    file.write_text(json.dumps({"version": "1.1", "data": countries}))
    monkeypatch.setattr(sources_module, "sample_data", lambda name: file)
    prepared = prepare_task(reading_task(), source="sample:country-facts", validation_rows=4, test_rows=8)
    assert prepared.info["clusters"] == {"train": 7, "adapt": 0, "validation": 1, "test": 2}
    assert prepared.info["licence"] == "MIT"
    assert prepared.splits["test"][0].item_key.startswith("country-facts:q")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{context} Answer:", r"names \{question\} 0 times"),
        ("{question} Answer:", r"names \{context\} 0 times"),
        ("{context} {context} {question}", r"names \{context\} 2 times"),
        ("{context} {question} Answer: ", "ends in white space"),
        ("{context.upper} {question}", "the plain name of a column"),
        ("{context {question}", "unmatched braces|plain name"),
    ],
)
def test_a_template_that_cannot_ask_is_refused(template, message):
    with pytest.raises(DataError, match=message):
        reading_task(template=template)


def test_braces_and_marks_of_the_data_are_plain_characters():
    task, made = reading_task(), paragraph(1)
    context = "A: {question} {{ Answer: no"
    prompt = task.filled_with({"context": context, "question": made["qas"][0]["question"]})
    assert str(prompt) == f"Context: {context}\nQuestion: What is the mayor of town 1 called?\nAnswer:"
    assert prompt.context == context


def test_a_plain_text_is_the_one_answer(tmp_path):
    (tmp_path / "a.csv").write_text('context,question,answers\n"Anna lives here, alone.",Who?,Anna\n')
    (found,) = read(tmp_path, "a.csv").questions
    assert (found.answer, found.answer_start, found.golds) == ("Anna", 0, ("Anna",))
