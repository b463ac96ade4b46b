import hashlib
import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from labelled_files import labelled, write_jsonl

from tutelage.data import load_records
from tutelage.data import sources as sources_module
from tutelage.errors import DataError


def values(loaded, split="train"):
    return [record.values for record in loaded.splits[split]]


def test_a_glue_file_is_read_with_quotes_as_plain_characters(tmp_path):
    file = tmp_path / "sst.tsv"
    file.write_bytes('\ufeffsentence\tlabel\nso "good" \u2028 it hurts \t1\r\n"unclosed\t0\n'.encode())
    loaded = load_records("sst.tsv", base_folder=tmp_path)
    assert values(loaded) == [
        {"sentence": 'so "good" \u2028 it hurts ', "label": "1"},
        {"sentence": '"unclosed', "label": "0"},
    ]
    assert loaded.splits["train"][1].where == f"{file}:3"
    assert loaded.info.files == {"sst.tsv": hashlib.sha256(file.read_bytes()).hexdigest()}


def test_jsonl_is_read_line_by_line(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(
        '{"text": "a\\u2028b\u2028c", "label": 1}\n\n{"text": "d", "label": "x", "n": [1]}\n', encoding="utf-8"
    )
    loaded = load_records(str(file))
    assert values(loaded) == [{"text": "a\u2028b\u2028c", "label": 1}, {"text": "d", "label": "x", "n": [1]}]
    assert loaded.splits["train"][1].where == f"{file}:3"
    assert loaded.rows_read == {"train": 2}


def test_parquet_is_read(tmp_path):
    pq.write_table(pa.table({"text": ["a", "b"], "label": [0, 1]}), tmp_path / "rows.parquet")
    assert values(load_records("rows.parquet", base_folder=tmp_path)) == [
        {"text": "a", "label": 0},
        {"text": "b", "label": 1},
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', r"a\.jsonl:2 is not valid JSON"),
        ("a.jsonl", b'{"text": "x"}\n["x"]\n', r"a\.jsonl:2 holds a list"),
        ("a.jsonl", b'{"text": "x", "text": "y"}\n', r"a\.jsonl:1 .*'text' occurs twice"),
        ("a.jsonl", b"[" * 100_000, r"a\.jsonl:1 is not valid JSON"),
        ("a.jsonl", b'{"text": "\xff"}\n', r"a\.jsonl:1 is not UTF-8 .*0xff"),
        ("a.jsonl", b"", r"a\.jsonl holds no rows"),
        ("a.jsonl", b"\n\n", r"a\.jsonl holds no rows"),
        ("a.tsv", b"sentence\tlabel\n", r"a\.tsv holds no rows"),
        ("a.tsv", b"sentence\tlabel\nx\ty\tz\n", r"a\.tsv:2 has 3 tab-separated cells, the header has 2"),
        ("a.tsv", b"sentence\tlabel\nx\n", r"a\.tsv:2 has 1 tab-separated cells"),
        ("a.tsv", b"one sentence\n", r"a\.tsv:1 is not a header"),
        ("a.tsv", b"text\ttext\nx\ty\n", r"a\.tsv:1 is not a header"),
        ("a.parquet", b"PAR1 not really", r"a\.parquet is not a readable Parquet file"),
        ("a.csv", b"text,label\n", r"a\.csv holds no rows"),
        ("a.xlsx", b"PK", r"a\.xlsx ends in \.xlsx\. Expected one of \.tsv, \.csv, .*save it as CSV"),
    ],
)
def test_a_bad_file_is_an_error_that_names_the_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_records(name, base_folder=tmp_path)


def test_a_line_of_tabs_is_a_row_and_not_skipped(tmp_path):
    (tmp_path / "a.tsv").write_bytes(b"sentence\tlabel\nx\t1\n\t\n")
    assert len(values(load_records("a.tsv", base_folder=tmp_path))) == 2


@pytest.mark.parametrize("name", ["missing.tsv", "folder/missing.jsonl", "missing.parquet"])
def test_a_missing_file_is_an_error(tmp_path, name):
    with pytest.raises(DataError, match="does not exist"):
        load_records(name, base_folder=tmp_path)


def test_a_missing_path_that_is_no_hub_id_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"does not exist\. Expected sample:NAME"):
        load_records("../some/missing/folder", base_folder=tmp_path)


def test_a_glue_folder_is_train_and_dev_and_its_hidden_test_is_left_out(tmp_path):
    for name in ("train", "dev"):
        (tmp_path / f"{name}.tsv").write_text(f"sentence\tlabel\n{name}\t1\n")
    (tmp_path / "test.tsv").write_text("index\tsentence\n0\thidden\n")
    loaded = load_records(str(tmp_path))
    assert values(loaded) == [{"sentence": "train", "label": "1"}]
    assert values(loaded, "dev") == [{"sentence": "dev", "label": "1"}]
    assert set(loaded.splits) == {"train", "dev"}
    assert "test.tsv was ignored" in loaded.info.notes[0]


def test_a_folder_of_jsonl_files_is_its_splits(tmp_path):
    for name in ("train", "validation", "test"):
        write_jsonl(tmp_path / f"{name}.jsonl", labelled(2))
    loaded = load_records(str(tmp_path))
    assert set(loaded.splits) == {"train", "validation", "test"}
    assert set(loaded.info.files) == {"train.jsonl", "validation.jsonl", "test.jsonl"}
    assert set(load_records(str(tmp_path), split="validation").splits) == {"validation"}
    with pytest.raises(DataError, match=r"no split 'dev'\. It has: train, validation, test"):
        load_records(str(tmp_path), split="dev")


def test_a_folder_without_training_rows_is_an_error(tmp_path):
    write_jsonl(tmp_path / "dev.jsonl", labelled(2))
    with pytest.raises(DataError, match=r"none of train\.tsv, train\.csv, train\.jsonl"):
        load_records(str(tmp_path))


def test_two_files_for_one_split_are_an_error(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", labelled(2))
    (tmp_path / "train.tsv").write_text("sentence\tlabel\nx\t1\n")
    with pytest.raises(DataError, match=r"train\.tsv and train\.jsonl"):
        load_records(str(tmp_path))


def dataset(texts, names=None):
    label = datasets.ClassLabel(names=names) if names else datasets.Value("int64")
    features = datasets.Features({"text": datasets.Value("string"), "label": label})
    rows = {"text": texts, "label": [index % 2 for index in range(len(texts))]}
    return datasets.Dataset.from_dict(rows, features=features)


def test_a_saved_dataset_is_read_with_its_class_names(tmp_path):
    dataset(["a", "b"], names=["positive", "negative"]).save_to_disk(str(tmp_path / "saved"))
    loaded = load_records("saved", base_folder=tmp_path)
    assert values(loaded) == [{"text": "a", "label": 0}, {"text": "b", "label": 1}]
    assert loaded.class_names == {"label": ["positive", "negative"]}
    (digest,) = loaded.info.files.values()
    assert len(digest) == 64


def test_a_saved_dataset_dict_is_read_split_by_split(tmp_path):
    both = datasets.DatasetDict({"train": dataset(["a", "b"]), "validation": dataset(["c"])})
    both.save_to_disk(str(tmp_path / "saved"))
    loaded = load_records("saved", base_folder=tmp_path)
    assert values(loaded, "validation") == [{"text": "c", "label": 0}]
    assert loaded.rows_read == {"train": 2, "validation": 1}


def test_a_damaged_saved_dataset_is_an_error(tmp_path):
    dataset(["a", "b"]).save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "saved" / "dataset_info.json").write_text("{")
    with pytest.raises(DataError, match="not readable as a saved data set"):
        load_records("saved", base_folder=tmp_path)


def test_a_hub_id_is_loaded_with_subset_and_revision(monkeypatch, tmp_path):
    asked = {}

    def load_dataset(path, **options):
        asked.update(path=path, **options)
        found = dataset(["a", "b"])
        found.info.download_checksums = {f"hf://datasets/glue@{'a1' * 20}/sst2/train.parquet": {}}
        found.info.license = "cc-by-4.0"
        return datasets.DatasetDict({"train": found})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    loaded = load_records("nyu-mll/glue", subset="sst2", revision="main", base_folder=tmp_path)
    assert asked == {"path": "nyu-mll/glue", "name": "sst2", "revision": "main"}
    assert (loaded.info.revision, loaded.info.licence) == ("a1" * 20, "cc-by-4.0")
    assert loaded.info.notes == ()
    unpinned = load_records("nyu-mll/glue", subset="sst2", base_folder=tmp_path)
    assert "no revision was pinned" in unpinned.info.notes[0]


@pytest.mark.parametrize(
    "error",
    [ConnectionError("offline"), ValueError("BuilderConfig 'x' not found"), FileNotFoundError("no such data set")],
)
def test_a_hub_failure_is_one_clear_error(monkeypatch, tmp_path, error):
    def load_dataset(path, **options):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError, match=r"glue \(x\) could not be loaded: .*no local file or folder either"):
        load_records("glue", subset="x", base_folder=tmp_path)


def test_the_sample_drops_weak_ratings_and_counts_them(monkeypatch, tmp_path):
    file = tmp_path / "ratings.tsv"
    file.write_bytes(b"1\t2.5\tgood one\r\n2\t-0.49\tmeh\r\n3\t-0.5\tbad one")
    monkeypatch.setattr(sources_module, "sample_data", lambda name: file)
    loaded = load_records("sample:movie-reviews")
    assert [(each["id"], each["text"], each["label"]) for each in values(loaded)] == [
        ("1", "good one", "positive"),
        ("3", "bad one", "negative"),
    ]
    assert loaded.rows_read == {"train": 3}
    assert loaded.dropped == {"train": {"weak_rating": 1}}
    assert loaded.info.licence == "MIT"


def test_an_unknown_sample_is_an_error():
    with pytest.raises(DataError, match="Known data samples: country-facts, movie-reviews"):
        load_records("sample:films")


def test_a_file_is_only_data(tmp_path):
    """Nothing in a row is ever run or read as a path or template."""
    rows = [{"text": "__import__('os').system('false') {0.__class__}", "label": "../../x"}]
    assert values(load_records(str(write_jsonl(tmp_path / "a.jsonl", rows)))) == json.loads(json.dumps(rows))
