"""Texts are read row by row from files, folders of shards, saved data sets and hub ids."""

import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from text_files import write_rows, write_texts

from tutelage.data import open_source
from tutelage.errors import DataError

ROWS = [{"text": f"film {number}"} for number in range(5)]


def texts_of(source, split="train"):
    return [record.values["text"] for record in source.splits[split]()]


def test_jsonl_parquet_json_and_tsv_give_the_same_rows(tmp_path):
    write_rows(tmp_path / "a.jsonl", ROWS)
    (tmp_path / "a.json").write_text(json.dumps(ROWS))
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    (tmp_path / "a.tsv").write_text("id\ttext\n" + "".join(f"{n}\t{row['text']}\n" for n, row in enumerate(ROWS)))
    for name in ("a.jsonl", "a.json", "a.parquet", "a.tsv"):
        source = open_source(name, base_folder=tmp_path)
        assert texts_of(source) == [row["text"] for row in ROWS]
        assert texts_of(source) == texts_of(source), "a split can be read again"
        assert list(source.info.files) == [name]


def test_a_folder_of_shards_is_read_in_order_and_split_names_count(tmp_path):
    write_texts(tmp_path / "part-1.jsonl", count=2, word="one")
    write_texts(tmp_path / "part-0.jsonl", count=2, word="zero")
    write_texts(tmp_path / "validation-00000.jsonl", count=1, word="held")
    (tmp_path / "README.md").write_text("read me")
    source = open_source(str(tmp_path))
    assert texts_of(source) == ["zero 0", "zero 1", "one 0", "one 1"]
    assert texts_of(source, "validation") == ["held 0"]
    assert source.info.notes == ("files of other kinds were passed over: README.md",)
    assert set(source.info.files) == {"part-0.jsonl", "part-1.jsonl", "validation-00000.jsonl"}


def test_data_dir_names_a_folder_inside_the_source(tmp_path):
    write_texts(tmp_path / "python" / "a.jsonl", count=1, word="python")
    write_texts(tmp_path / "rust" / "a.jsonl", count=1, word="rust")
    assert texts_of(open_source(str(tmp_path), data_dir="rust")) == ["rust 0"]
    with pytest.raises(DataError, match="is not a folder"):
        open_source(str(tmp_path), data_dir="go")


def test_a_saved_data_set_keeps_its_splits(tmp_path):
    saved = datasets.DatasetDict(
        {"train": datasets.Dataset.from_list(ROWS), "test": datasets.Dataset.from_list(ROWS[:1])}
    )
    saved.save_to_disk(str(tmp_path / "saved"))
    source = open_source("saved", base_folder=tmp_path)
    assert texts_of(source) == [row["text"] for row in ROWS]
    assert texts_of(source, "test") == ["film 0"]
    assert all(name.endswith(".arrow") for name in source.info.files)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_hub_id_is_asked_for_with_all_its_settings(monkeypatch, streaming):
    asked = {}

    def load_dataset(source, **settings):
        asked.update(source=source, **settings)
        table = datasets.Dataset.from_list(ROWS)
        return {"train": table.to_iterable_dataset() if streaming else table}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = open_source("org/chats", subset="en", data_dir="d", revision="abc", streaming=streaming)
    assert texts_of(source) == [row["text"] for row in ROWS]
    assert {**asked, "streaming": asked.get("streaming", False)} == {
        "source": "org/chats", "name": "en", "data_dir": "d", "revision": "abc", "streaming": streaming,
    }  # fmt: skip
    assert source.info.revision == "abc"


def test_a_hub_id_without_a_revision_is_noted(monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: {"train": datasets.Dataset.from_list(ROWS)})
    assert "no revision was pinned" in open_source("org/chats").info.notes[0]


def test_what_cannot_be_read_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.docx").write_text("text\n")
    (tmp_path / "object.json").write_text("{}")
    (tmp_path / "broken.json").write_text("[")
    (tmp_path / "numbers.json").write_text("[1]")
    (tmp_path / "broken.parquet").write_text("no")
    write_texts(tmp_path / "a.jsonl", count=1)
    with pytest.raises(DataError, match=r"holds none of train\.tsv"):
        open_source("empty", base_folder=tmp_path)
    with pytest.raises(DataError, match=r"ends in \.docx"):
        open_source("a.docx", base_folder=tmp_path)
    with pytest.raises(DataError, match="does not exist or is not a file"):
        open_source("b.jsonl", base_folder=tmp_path)
    with pytest.raises(DataError, match="Expected sample:NAME"):
        open_source("./no/such/place", base_folder=tmp_path)
    for name, message in (
        ("object.json", "has no 'data', only nothing"),
        ("broken.json", "not valid JSON"),
        ("broken.parquet", "not a readable Parquet"),
    ):
        with pytest.raises(DataError, match=message):
            list(open_source(name, base_folder=tmp_path).splits["train"]())
