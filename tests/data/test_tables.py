"""CSV and TSV files are read as whoever wrote them meant them, decided by the whole file."""

import csv
import io

import pytest

from tutelage.data import RowRules, load_records
from tutelage.errors import DataError

ROWS = [
    ('He said "hi", twice', "positive"),
    ("two\nlines", "negative"),
    ("plain", "positive"),
    (" edge\tand tab", "negative"),
]


def read(folder, name, content, **rules):
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_records(name, base_folder=folder, rules=RowRules(**rules))


def values(loaded):
    return [tuple(record.values.values()) for record in loaded.splits["train"]]


def written(rows, *, header=("text", "label"), **dialect):
    stream = io.StringIO(newline="")
    csv.writer(stream, **dialect).writerows([header, *rows])
    return stream.getvalue()


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("a.csv", ";"), ("a.csv", "\t"), ("a.tsv", "\t")])
def test_what_a_writer_of_quoted_cells_wrote_is_read_back(tmp_path, quoting, ending, name, delimiter):
    content = "\ufeff" + written(ROWS, delimiter=delimiter, quoting=quoting, lineterminator=ending)
    assert values(read(tmp_path, name, content)) == ROWS


@pytest.mark.parametrize(("name", "count"), [("c5-quoted.csv", 2), ("c6-quoted.tsv", 2)])
def test_quotes_around_cells_are_said_in_a_note(tmp_path, name, count):
    contents = {
        "c5-quoted.csv": 'text,label\n"He said ""hi"", twice",positive\n"two\nlines",negative\n',
        "c6-quoted.tsv": 'text\tlabel\n"He said ""hi"", twice"\tpositive\n"so ""bad"""\tnegative\n',
    }
    loaded = read(tmp_path, name, contents[name])
    assert values(loaded)[0] == ('He said "hi", twice', "positive")
    assert f"quotes around {count} cells are not part of the text" in loaded.info.notes[0]


def test_a_row_is_named_by_the_line_on_which_it_begins(tmp_path):
    loaded = read(tmp_path, "a.csv", 'text,label\n"two\nlines",x\nlast,y\n')
    assert [record.where.rpartition(":")[2] for record in loaded.splits["train"]] == ["2", "4"]


@pytest.mark.parametrize(
    "texts",
    [
        ['so "good" it hurts', '"unclosed', "plain"],
        ['"good" film', "dull"],  # text goes on behind the quote
        ['"wonderful"', "dull, though"],  # one whole cell in quotes: a writer would have had no reason
        ['"opens here', 'and ends there"'],  # pairs up over two lines, of which each is a row already
        ['a "b" c', '"He said ""hi"""'],
    ],
)
def test_stray_quotes_of_a_tsv_file_are_part_of_the_text(tmp_path, texts):
    content = "sentence\tlabel\n" + "".join(f"{text}\t{number % 2}\n" for number, text in enumerate(texts))
    loaded = read(tmp_path, "a.tsv", content)
    assert [text for text, _ in values(loaded)] == texts
    assert "quotes are read as characters of the text" in loaded.info.notes[0]


def test_a_spreadsheet_quotes_every_cell_with_a_comma_and_no_other(tmp_path):
    content = 'text\tlabel\n"good, really"\tx\ndull\ty\n"bad, very"\ty\n'
    assert [text for text, _ in values(read(tmp_path, "a.tsv", content))] == ["good, really", "dull", "bad, very"]
    mixed = 'text\tlabel\n"good, really"\tx\ndull, very\ty\n'
    assert [text for text, _ in values(read(tmp_path, "b.tsv", mixed))] == ['"good, really"', "dull, very"]


def test_the_recipe_may_decide_about_quotes(tmp_path):
    content = 'text\tlabel\n"wonderful"\tx\ndull\ty\n'
    assert values(read(tmp_path, "a.tsv", content, quotes="csv"))[0] == ("wonderful", "x")
    quoted = 'text\tlabel\n"He said ""hi"""\tx\n'
    assert values(read(tmp_path, "b.tsv", quoted, quotes="none"))[0] == ('"He said ""hi"""', "x")
    assert values(read(tmp_path, "c.csv", 'text,label\n"a,b\n', quotes="none"))[0] == ('"a', "b")


def test_stray_quotes_inside_csv_cells_stay(tmp_path):
    assert values(read(tmp_path, "a.csv", 'text,label\n5" pipe,x\n"a ""b""",y\n')) == [('5" pipe', "x"), ('a "b"', "y")]
    assert values(read(tmp_path, "b.csv", 'text,label\n"good" film,x\ndull,y\n')) == [
        ('"good" film', "x"),
        ("dull", "y"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", 'text,label\nok,x\n"never closed,y\nand, on, it goes\n', r"a\.csv:3 has quotes that do not pair up"),
        ("a.csv", "text,label\na,x\nb,c,d\n", r"a\.csv:3 has 3 cells between ',', the header has 2"),
        ("a.csv", "text,text\na,b\n", r"a\.csv:1 is not a header"),
        ("a.csv", '"3","Wall St. bears","Reuters"\n', r"a\.csv:1 is not a header.*`columns: \[text, label\]`"),
        ("a.csv", "text,label\ra,b\rc,d\r", r"carriage returns|is not a header"),
        ("a.csv", "", r"a\.csv holds no rows"),
        ("a.tsv", "", r"a\.tsv holds no rows"),
    ],
)
def test_a_table_that_cannot_be_read_is_an_error_with_the_line(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, name, content)


def test_columns_of_a_file_without_a_header_are_named_by_the_recipe(tmp_path):
    content = '"3","Wall St. bears","Reuters"\n"4","A chip","AP"\n'
    loaded = read(tmp_path, "a.csv", content, columns=("label", "title", "text"))
    assert loaded.splits["train"][0].values == {"label": "3", "title": "Wall St. bears", "text": "Reuters"}
    assert len(loaded.splits["train"]) == 2
    with pytest.raises(DataError, match="`columns` names 2"):
        read(tmp_path, "a.csv", content, columns=("label", "text"))


def test_an_index_that_pandas_wrote_is_a_column_without_a_name(tmp_path):
    assert read(tmp_path, "a.csv", ",text,label\n0,a,x\n1,b,y\n").splits["train"][1].values == {
        "unnamed": "1", "text": "b", "label": "y",
    }  # fmt: skip


def test_glue_files_without_a_header_or_with_odd_names_are_read(tmp_path):
    cola = "gj04\t1\t\tOur friends won't buy this.\ngj04\t0\t*\tThey drank the pub.\n"
    loaded = read(tmp_path, "cola.tsv", cola)
    assert loaded.splits["train"][1].values["sentence"] == "They drank the pub."
    assert "CoLA" in loaded.info.notes[0]
    mrpc = 'Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t70\t71\t"I quit," he said .\tHe quit .\n'
    for name in ("mrpc.tsv", "msr_paraphrase_train.txt"):
        assert read(tmp_path, name, mrpc).splits["train"][0].values["#1 String"] == '"I quit," he said .'


def test_the_survey_of_a_large_quoted_file_is_linear(tmp_path):
    """A quote that never closes is met once, not once a line."""
    content = "sentence\tlabel\n" + "".join(f'"text {number}\t0\n' for number in range(20_000))
    assert len(read(tmp_path, "a.tsv", content).splits["train"]) == 20_000
