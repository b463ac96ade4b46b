"""Every kind of file is read by one reader, compressed or not, and never beyond what was named."""

import gzip
import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from labelled_files import labelled, write_jsonl

from tutelage.data import RowRules, load_records, open_source
from tutelage.data import files as files_module
from tutelage.errors import DataError

ROWS = [{"text": f"film {number}", "label": number % 2} for number in range(6)]
CONTENTS = {
    ".jsonl": "".join(json.dumps(row) + "\n" for row in ROWS),
    ".json": json.dumps(ROWS),
    ".data.json": json.dumps({"version": 1, "data": ROWS}),
    ".lines.json": "".join(json.dumps(row) + "\n" for row in ROWS),
    ".csv": "text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in ROWS),
    ".tsv": "text\tlabel\n" + "".join(f"{row['text']}\t{row['label']}\n" for row in ROWS),
}


def rows_of(loaded, split="train"):
    return [{**record.values, "label": int(record.values["label"])} for record in loaded.splits[split]]


def compressed(content, kind):
    if kind == "gz":
        return gzip.compress(content)
    return pa.compress(content, codec="zstd", asbytes=True) if kind == "zst" else content


@pytest.mark.parametrize("compression", ["", "gz", "zst"])
@pytest.mark.parametrize("ending", list(CONTENTS))
def test_the_same_rows_come_out_of_every_kind_of_file(tmp_path, ending, compression):
    name = f"rows{ending}" + (f".{compression}" if compression else "")
    (tmp_path / name).write_bytes(compressed(("\ufeff" + CONTENTS[ending]).encode(), compression))
    assert rows_of(load_records(name, base_folder=tmp_path)) == ROWS


def test_a_damaged_archive_is_an_error(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(CONTENTS[".jsonl"].encode())[:-12])
    (tmp_path / "b.jsonl.zst").write_bytes(compressed(CONTENTS[".jsonl"].encode(), "zst")[:-6])
    for name in ("a.jsonl.gz", "b.jsonl.zst"):
        with pytest.raises(DataError, match=f"{name} cannot be read"):
            load_records(name, base_folder=tmp_path)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-16-le"])
@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".tsv", ".json", ".txt"])
def test_utf_16_is_named_with_the_remedy(tmp_path, encoding, ending):
    (tmp_path / f"a{ending}").write_bytes(CONTENTS.get(ending, "a\tb\n").encode(encoding))
    with pytest.raises(DataError, match=r"is UTF-16.*iconv -f UTF-16"):
        list(open_source(f"a{ending}", base_folder=tmp_path).splits["train"]())


def test_texts_of_a_plain_file_stand_between_blank_lines_or_on_lines(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n\n\nthree\n")
    (tmp_path / "b.txt").write_text("one\ntwo, with\ta tab\n")
    for name, texts, note in (
        ("a.txt", ["one\ntwo", "three"], "between blank lines"),
        ("b.txt", ["one", "two, with\ta tab"], "every line"),
    ):
        loaded = load_records(name, base_folder=tmp_path)
        assert [record.values["text"] for record in loaded.splits["train"]] == texts
        assert note in loaded.info.notes[0]


def test_bad_lines_are_all_counted_or_kept_as_problems(tmp_path):
    (tmp_path / "a.jsonl").write_text(CONTENTS[".jsonl"] + "{\n[1]\n{\n{\n{\n")
    with pytest.raises(
        DataError,
        match=r"a\.jsonl:7, .*a\.jsonl:9, .*a\.jsonl:10 and 1 more row is not valid JSON.*a\.jsonl:8 holds a list",
    ):
        load_records("a.jsonl", base_folder=tmp_path)
    loaded = load_records("a.jsonl", base_folder=tmp_path, rules=RowRules(skip_bad=True))
    assert sum(record.problem is not None for record in loaded.splits["train"]) == 5


def hub_table(names=("neg", "pos"), rows=ROWS):
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=list(names))})
    return datasets.Dataset.from_list(rows, features=features)


def test_class_names_in_the_schema_of_a_parquet_file_are_read(tmp_path):
    hub_table().to_parquet(str(tmp_path / "a.parquet"))
    loaded = load_records("a.parquet", base_folder=tmp_path)
    assert loaded.class_names == {"label": ["neg", "pos"]}
    assert rows_of(loaded) == ROWS


def test_a_folder_as_on_a_hub_is_read_by_every_kind_of_task(tmp_path):
    (tmp_path / "data").mkdir()
    for number in range(2):
        hub_table(rows=ROWS[3 * number :][:3]).to_parquet(str(tmp_path / f"data/train-0000{number}-of-00002.parquet"))
    hub_table(rows=ROWS[:2]).to_parquet(str(tmp_path / "data/test-00000-of-00001-0123456789abcdef.parquet"))
    (tmp_path / "README.md").write_text("# About\n")
    loaded = load_records(str(tmp_path))
    assert rows_of(loaded) == ROWS
    assert rows_of(loaded, "test") == ROWS[:2]
    assert loaded.class_names == {"label": ["neg", "pos"]}
    assert "data/train-00000-of-00002.parquet" in loaded.info.files


@pytest.mark.parametrize(
    "names",
    [
        {"train": ["train-00000.jsonl", "train-00001.jsonl"], "test": ["test.jsonl"]},
        {"train": ["reviews_train.jsonl"], "test": ["reviews_test.jsonl"]},
        {"train": ["train/part-0.jsonl", "train/part-1.jsonl"], "validation": ["validation/part-0.jsonl"]},
        {"train": ["part-0.jsonl", "part-1.jsonl"]},
        {"train": ["train.jsonl"], "dev_matched": ["dev_matched.jsonl"], "dev_mismatched": ["dev_mismatched.jsonl"]},
    ],
)
def test_file_names_tell_their_split(tmp_path, names):
    for split, files in names.items():
        for file in files:
            write_jsonl(tmp_path / file, [{"text": split, "label": 0}])
    loaded = load_records(str(tmp_path))
    assert {split: len(records) for split, records in loaded.splits.items()} == {
        split: len(files) for split, files in names.items()
    }
    assert all(record.values["text"] == split for split, records in loaded.splits.items() for record in records)


README = """---
configs:
- config_name: en
  data_files:
  - {split: train, path: text/en-*.jsonl}
  - split: test
    path: [text/held.jsonl]
- config_name: de
  data_files: text/de.jsonl
dataset_info:
- config_name: en
  features:
  - name: label
    dtype:
      class_label:
        names: {'0': bad, '1': good}
---
# Reviews
"""


def test_a_readme_says_which_files_and_which_classes(tmp_path):
    for name in ("en-0", "en-1", "held", "de"):
        write_jsonl(tmp_path / "text" / f"{name}.jsonl", [{"text": name, "label": 1}])
    (tmp_path / "README.md").write_text(README)
    english = load_records(str(tmp_path), subset="en")
    assert [record.values["text"] for record in english.splits["train"]] == ["en-0", "en-1"]
    assert [record.values["text"] for record in english.splits["test"]] == ["held"]
    assert english.class_names == {"label": ["bad", "good"]}
    assert [each.values["text"] for each in load_records(str(tmp_path), subset="de").splits["train"]] == ["de"]
    with pytest.raises(DataError, match=r"subsets en, de\. Name one"):
        load_records(str(tmp_path))


@pytest.mark.parametrize("pattern", ["../other.jsonl", "/etc/hostname", "linked.jsonl"])
def test_nothing_outside_of_a_folder_is_read(tmp_path, pattern):
    write_jsonl(tmp_path / "other.jsonl", labelled(2))
    folder = tmp_path / "folder"
    write_jsonl(folder / "train.jsonl", labelled(2))
    (folder / "linked.jsonl").symlink_to(tmp_path / "other.jsonl")
    (folder / "README.md").write_text(f"---\nconfigs:\n- data_files: [{pattern}]\n---\n")
    with pytest.raises(DataError, match="outside of the folder"):
        load_records(str(folder))


def test_links_inside_the_hubs_own_cache_are_followed(tmp_path):
    write_jsonl(tmp_path / "blobs" / "abc", labelled(3))
    (tmp_path / "snapshots" / "1").mkdir(parents=True)
    (tmp_path / "snapshots" / "1" / "train.jsonl").symlink_to("../../blobs/abc")
    assert len(load_records(str(tmp_path / "snapshots" / "1")).splits["train"]) == 3


def test_a_saved_folder_that_names_files_elsewhere_is_refused(tmp_path):
    for name in ("out", "saved"):
        hub_table().save_to_disk(str(tmp_path / name))
    (arrow,) = (tmp_path / "out").glob("*.arrow")
    state = json.loads((tmp_path / "saved/state.json").read_text())
    for path in (f"../out/{arrow.name}", str(arrow)):
        (tmp_path / "saved/state.json").write_text(json.dumps(state | {"_data_files": [{"filename": path}]}))
        with pytest.raises(DataError, match="outside of the folder"):
            load_records("saved", base_folder=tmp_path)


def test_a_split_with_too_many_rows_is_refused_before_it_is_read(tmp_path, monkeypatch):
    pq.write_table(pa.table({"text": ["x"] * 30, "label": [1] * 30}), tmp_path / "a.parquet")
    monkeypatch.setattr(files_module, "parquet_rows", lambda path: pytest.fail("the rows were read"))
    with pytest.raises(DataError, match=r"a\.parquet has 30 rows\. At most 20 are read.*`max_rows`"):
        load_records("a.parquet", base_folder=tmp_path, rules=RowRules(max_rows=20))
    write_jsonl(tmp_path / "a.jsonl", labelled(30))
    with pytest.raises(DataError, match="has more than 20 rows"):
        load_records("a.jsonl", base_folder=tmp_path, rules=RowRules(max_rows=20))


def test_a_long_read_says_how_far_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(files_module, "PROGRESS_ROWS", 10)
    load_records(str(write_jsonl(tmp_path / "a.jsonl", labelled(25))))
    assert capsys.readouterr().err.count("rows read") == 2
