"""Texts are cut into splits: shares exact, copies kept once, clusters whole, every record accounted for."""

import json
from collections import Counter

import pytest
from text_files import FORMS, TASK, write_rows, write_texts

from tutelage.data import RowRules, TextCuts, TextPart, prepare_texts, read_prepared, write_prepared
from tutelage.data.sources import load_records
from tutelage.errors import DataError

SPLITS = ("train", "adapt", "validation", "test")


def prepare(folder, *parts, **settings):
    cuts = {name: settings.pop(name) for name in TextCuts.__dataclass_fields__ if name in settings}
    sources = [TextPart(part) if isinstance(part, str) else part for part in parts]
    return prepare_texts(TASK, sources, TextCuts(**cuts), base_folder=folder, **settings)


def sizes(prepared):
    return {name: len(prepared.splits[name]) for name in SPLITS}


def words(prepared, split="train"):
    """Count a split's texts by their first word, which tells the source."""
    return Counter(item.text.split()[0] for item in prepared.splits[split])


@pytest.fixture
def three(tmp_path):
    for name, count in (("a", 300), ("b", 200), ("c", 100)):
        write_texts(tmp_path / f"{name}.jsonl", count=count, word=name)
    return tmp_path


def test_one_source_is_cut_like_every_other_task(tmp_path):
    write_texts(tmp_path / "a.jsonl", count=100)
    prepared = prepare(tmp_path, "a.jsonl", validation_rows=10, adapt_rows=5, limit=40)
    assert sizes(prepared) == {"train": 40, "adapt": 5, "validation": 10, "test": 20}
    assert prepared.info["dropped"] == {"not_used": 25}
    other = prepare(tmp_path, "a.jsonl", validation_rows=10, adapt_rows=5, limit=40, seed=1)
    assert other.splits["test"] == prepared.splits["test"], "test rows do not depend on the seed"
    assert other.splits["train"] != prepared.splits["train"]


def test_every_split_of_a_mixture_has_the_exact_shares(three):
    parts = [TextPart("a.jsonl", weight=5), TextPart("b.jsonl", weight=3), TextPart("c.jsonl", weight=2)]
    prepared = prepare(three, *parts, rows=101, validation_rows=20, test_rows=30, adapt_rows=7)
    assert words(prepared) == {"a": 51, "b": 30, "c": 20}  # quotas 50.5, 30.3, 20.2
    assert words(prepared, "validation") == {"a": 10, "b": 6, "c": 4}
    assert words(prepared, "test") == {"a": 15, "b": 9, "c": 6}
    assert words(prepared, "adapt") == {"a": 4, "b": 2, "c": 1}  # quotas 3.5, 2.1, 1.4


def test_weights_count_without_a_number_of_rows_too(three):
    parts = [TextPart("a.jsonl", weight=1), TextPart("b.jsonl", weight=1), TextPart("c.jsonl", weight=2)]
    prepared = prepare(three, *parts, validation_rows=20, test_rows=20)
    assert words(prepared) == {"a": 40, "b": 40, "c": 80}, "c is the smallest for its weight: 100 = 80 + 10 + 10"
    assert prepared.info["dropped"] == {"not_used": 250 + 150}


def test_weights_count_when_streaming_and_the_stream_is_read_no_further_than_needed(three):
    parts = [TextPart("a.jsonl", weight=2), TextPart("b.jsonl", weight=1)]
    settings = {"rows": 60, "validation_rows": 9, "test_rows": 6, "streaming": True, "shuffle_buffer": 16}
    prepared = prepare(three, *parts, **settings)
    assert words(prepared) == {"a": 40, "b": 20}
    assert words(prepared, "test") == {"a": 4, "b": 2}
    assert prepared.info["rows_read"] == {"a.jsonl:train": 50, "b.jsonl:train": 25}
    assert prepare(three, *parts, **settings) == prepared
    assert prepare(three, *parts, **settings, seed=1).splits["train"] != prepared.splits["train"]


def test_a_cap_is_on_the_rows_of_one_source(three):
    parts = [TextPart("a.jsonl", limit=30), TextPart("b.jsonl")]
    prepared = prepare(three, *parts, test_rows=10, validation_rows=0)
    assert words(prepared) == {"a": 25, "b": 25}
    with pytest.raises(DataError, match=r"a\.jsonl runs dry: .* has 30 to use \(its limit is 30\), so 25 are missing"):
        prepare(three, *parts, rows=100, test_rows=10)


def test_a_source_that_runs_dry_repeats_in_the_training_rows_when_it_may(three):
    parts = [TextPart("a.jsonl"), TextPart("c.jsonl")]
    for streaming in (False, True):
        with pytest.raises(DataError, match=r"c\.jsonl runs dry: its share is 10 test, 250 train .* 160 are missing"):
            prepare(three, *parts, rows=500, test_rows=20, streaming=streaming)
        prepared = prepare(three, *parts, rows=500, test_rows=20, streaming=streaming, repeat=True)
        assert words(prepared) == {"a": 250, "c": 250}
        times = Counter(item.text for item in prepared.splits["train"] if item.text.startswith("c"))
        assert set(times.values()) == {2, 3}
        assert len({item.item_key for item in prepared.splits["train"]}) == 500
        assert "160 training rows are repeats" in prepared.info["notes"]
        assert set(words(prepared, "test").values()) == {10}, "held-out rows do not repeat"


def test_held_out_rows_that_are_missing_are_not_made_up_by_repeats(three):
    with pytest.raises(DataError, match="runs dry"):
        prepare(three, "c.jsonl", rows=10, test_rows=101, repeat=True)


def test_copies_are_kept_once_and_never_straddle_a_split_whatever_source_they_are_in(tmp_path):
    write_texts(tmp_path / "a.jsonl", count=60)
    rows = [{"text": f"film {number}"} for number in (*range(60, 100), *range(30), *range(60, 80))]
    write_rows(tmp_path / "b.jsonl", rows)
    prepared = prepare(tmp_path, "a.jsonl", "b.jsonl", validation_rows=10)
    texts = [item.text for name in SPLITS for item in prepared.splits[name]]
    assert len(set(texts)) == len(texts)
    assert prepared.info["dropped"]["duplicate"] == 50


def test_equal_texts_stop_with_how_many_are_copies(tmp_path):
    write_rows(tmp_path / "a.jsonl", [{"text": "the same film"}] * 20)
    with pytest.raises(DataError, match=r"19 of 20 rows are left out \(95%: 19 duplicate\), allowed are 5%"):
        prepare(tmp_path, "a.jsonl", rules=RowRules(max_left_out=0.05))


def test_rows_of_one_cluster_stay_together(tmp_path):
    rows = [{"text": f"film {number}", "cluster": number // 5} for number in range(100)]
    write_rows(tmp_path / "a.jsonl", rows)
    prepared = prepare(tmp_path, "a.jsonl", validation_rows=10, test_rows=20)
    found = {name: {item.cluster_key for item in prepared.splits[name]} for name in SPLITS}
    assert [len(found[name]) for name in ("validation", "test")] == [2, 4]
    assert not found["train"] & found["test"]
    assert not found["train"] & found["validation"]
    assert not found["validation"] & found["test"]


def test_texts_that_differ_in_case_alone_never_straddle_a_split(tmp_path):
    rows = [{"text": text} for number in range(50) for text in (f"film {number}", f"FILM  {number}")]
    prepared = prepare(write_rows(tmp_path / "a.jsonl", rows).parent, "a.jsonl", validation_rows=20)
    place = {item.text.lower().replace("  ", " "): name for name in SPLITS for item in prepared.splits[name]}
    assert all(place[" ".join(item.text.lower().split())] == name for name in SPLITS for item in prepared.splits[name])


def test_the_official_validation_split_is_the_test_set_and_its_texts_are_not_learnt(tmp_path):
    write_texts(tmp_path / "d" / "train.jsonl", count=50)
    write_rows(tmp_path / "d" / "validation.jsonl", [{"text": f"Film {number}"} for number in range(45, 60)])
    for settings in ({}, {"validation": "validation"}):
        prepared = prepare(tmp_path, "d", validation_rows=5, **settings)
        assert sizes(prepared) == {"train": 40, "adapt": 0, "validation": 5, "test": 15}
        assert prepared.info["dropped"] == {"overlap_with_test": 5}
        assert prepared.info["test_split"] == "validation"
    assert sizes(prepare(tmp_path, "d", validation_rows=5, test_rows=4))["test"] == 4
    with pytest.raises(DataError, match="is the split that is trained on"):
        prepare(tmp_path, "d", validation="train")


def test_another_file_may_be_the_official_set_of_a_mixture(three):
    write_texts(three / "gold.jsonl", count=12, word="gold")
    prepared = prepare(three, "a.jsonl", "b.jsonl", validation="gold.jsonl", validation_rows=10, rows=50)
    assert words(prepared, "test") == {"gold": 12}
    assert words(prepared) == {"a": 25, "b": 25}


def test_empty_rows_are_left_out_and_counted_and_wrong_ones_are_named(tmp_path):
    write_rows(tmp_path / "a.jsonl", [{"text": ""}, *({"text": f"film {number}"} for number in range(30))])
    assert prepare(tmp_path, "a.jsonl").info["dropped"] == {"empty": 1}
    write_rows(tmp_path / "b.jsonl", [{"text": "film"}, {"text": 1}, {"words": "film"}])
    with pytest.raises(DataError, match=r"b\.jsonl:2: column 'text' holds a int.*b\.jsonl:3: the columns are 'words'"):
        prepare(tmp_path, "b.jsonl")
    write_rows(tmp_path / "c.jsonl", [{"text": " "}, {"text": None}])
    with pytest.raises(DataError, match=r"holds nothing to learn from \(2 empty\)"):
        prepare(tmp_path, "c.jsonl")
    write_rows(tmp_path / "d.jsonl", [{"question": "q"}])
    with pytest.raises(DataError, match=r"d\.jsonl:1 has the columns 'question', which are no known form"):
        prepare(tmp_path, "d.jsonl")


def test_a_split_that_a_source_lacks_is_refused_with_those_it_has(three):
    with pytest.raises(DataError, match=r"no split 'dev'\. It has: train"):
        prepare(three, TextPart("a.jsonl", split="dev"))


def test_cuts_that_leave_nothing_are_refused(tmp_path):
    write_texts(tmp_path / "a.jsonl", count=10)
    with pytest.raises(DataError, match=r"a\.jsonl runs dry|no rows are left for train"):
        prepare(tmp_path, "a.jsonl", validation_rows=10)
    write_rows(tmp_path / "b.jsonl", [{"text": f"film {number}", "cluster": "one"} for number in range(10)])
    with pytest.raises(DataError, match="Rows with one cluster stay together"):
        prepare(tmp_path, "b.jsonl", validation_rows=1)


def test_the_manifest_names_every_source_with_licence_revision_counts_and_hashes(three):
    parts = [TextPart("a.jsonl", weight=2, licence="MIT"), TextPart("b.jsonl", licence="CC0")]
    info = prepare(three, *parts, rows=30, validation_rows=3).info
    assert info["licence"] == "MIT, CC0"
    assert [(each["source"], each["weight"], each["form"]) for each in info["sources"]] == [
        ("a.jsonl", 2, "text"),
        ("b.jsonl", 1, "text"),
    ]
    assert info["sources"][0]["rows"] == {"test": 5, "validation": 2, "adapt": 0, "train": 20}
    assert all(len(digest) == 64 for each in info["sources"] for digest in each["files"].values())
    assert info["rows_read"] == {"a.jsonl:train": 300, "b.jsonl:train": 200}


@pytest.mark.parametrize("form", list(FORMS))
def test_every_form_survives_the_prepared_folder(tmp_path, form):
    rows = [json.loads(json.dumps(FORMS[form]).replace("film", f"film {number}")) for number in range(20)]
    write_rows(tmp_path / "a.jsonl", rows)
    prepared = prepare(tmp_path, "a.jsonl", validation_rows=2)
    (tmp_path / "prepared").mkdir()
    write_prepared(tmp_path / "prepared", prepared)
    assert read_prepared(tmp_path / "prepared") == prepared
    assert prepared.info["sources"][0]["form"] == form


def test_data_of_other_tasks_are_still_read_as_before(tmp_path):
    write_texts(tmp_path / "a.jsonl", count=2)
    assert [record.values["text"] for record in load_records("a.jsonl", base_folder=tmp_path).splits["train"]] == [
        "film 0",
        "film 1",
    ]
