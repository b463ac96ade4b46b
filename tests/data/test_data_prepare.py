import hashlib
import json

import datasets
import pytest
from labelled_files import labelled, write_jsonl

from tutelage.data import prepare_task, read_prepared, write_prepared
from tutelage.data import sources as sources_module
from tutelage.data.examples import cluster_key
from tutelage.errors import DataError, IntegrityError


def keys(prepared, split):
    return [example.item_key for example in prepared.splits[split]]


def texts(prepared, split):
    return [example.fields["text"] for example in prepared.splits[split]]


@pytest.fixture
def prepare(task, tmp_path):
    def run(rows, *, of=task, **options):
        source = write_jsonl(tmp_path / "rows.jsonl", rows)
        return prepare_task(of, source=str(source), base_folder=tmp_path, **options)

    return run


def test_every_row_is_in_one_split_or_counted_as_dropped(prepare):
    prepared = prepare(labelled(100), test_rows=20, validation_rows=10, adapt_rows=15, limit=30)
    assert prepared.info["rows"] == {"train": 30, "adapt": 15, "validation": 10, "test": 20}
    assert prepared.info["dropped"] == {"limit": 25}
    every = [key for split in prepared.splits for key in keys(prepared, split)]
    assert len(set(every)) == 75
    assert sum(prepared.info["classes"]["train"].values()) == 30
    assert prepared.info["classes"]["test"].keys() == {"negative", "positive"}


def test_test_rows_do_not_depend_on_the_seed_and_the_others_do(prepare):
    first, second = (prepare(labelled(100), test_rows=20, validation_rows=10, adapt_rows=15, seed=s) for s in (0, 1))
    assert keys(first, "test") == keys(second, "test")
    for split in ("train", "adapt", "validation"):
        assert keys(first, split) != keys(second, split)


def test_cuts_do_not_depend_on_the_order_in_the_file(prepare):
    rows = labelled(100)
    options = {"test_rows": 20, "validation_rows": 10, "adapt_rows": 15}
    assert prepare(rows, **options).splits == prepare(rows[::-1], **options).splits


def test_test_rows_are_the_first_by_digest_of_the_item_key(prepare):
    prepared = prepare([row | {"id": index} for index, row in enumerate(labelled(50))], test_rows=10)
    ordered = sorted(map(str, range(50)), key=lambda key: hashlib.sha256(key.encode()).hexdigest())
    for label in (0, 1):  # eight of the first ten are of one class, so the cut is made class by class
        assert [key for key in keys(prepared, "test") if int(key) % 2 == label] == [
            key for key in ordered if int(key) % 2 == label
        ][:5]


def test_equal_texts_never_straddle_a_split(prepare):
    rows = [
        {"text": variant, "label": "positive"}
        for index in range(40)
        for variant in (f"film  {index}", f"FILM {index} ", f"film {index}")
    ]
    prepared = prepare(rows, test_rows=31, validation_rows=20, adapt_rows=20)
    where = {}
    for split, examples in prepared.splits.items():
        for example in examples:
            where.setdefault(example.cluster_key, set()).add(split)
    assert all(len(splits) == 1 for splits in where.values())
    assert prepared.info["rows"] == {"train": 54, "adapt": 18, "validation": 18, "test": 30}


def test_a_cluster_that_does_not_fit_is_passed_over(prepare):
    rows = [*({"text": "same", "label": 1} for _ in range(20)), *labelled(30)]
    assert len(prepare(rows, test_rows=10, validation_rows=5).splits["test"]) == 10


def test_clusters_ignore_case_and_spacing_only():
    assert cluster_key("A  b\n") == cluster_key("a B")
    assert cluster_key("a b") != cluster_key("ab")


def test_item_keys_are_ids_where_they_are_unique_and_content_otherwise(prepare):
    assert keys(prepare([row | {"id": f"x{n}"} for n, row in enumerate(labelled(9))], test_rows=1), "test")[0][0] == "x"
    repeated = prepare([row | {"id": 1} for row in labelled(9)], test_rows=1)
    assert len(keys(repeated, "test")[0]) == 32
    twins = prepare([*labelled(9), *labelled(9)], test_rows=4)
    every = [key for split in twins.splits for key in keys(twins, split)]
    assert len(set(every)) == 18
    assert sum(key.endswith("-1") for key in every) == 9


def test_the_official_validation_set_is_the_test_set(task, tmp_path):
    write_jsonl(tmp_path / "train.jsonl", labelled(40))
    write_jsonl(tmp_path / "validation.jsonl", labelled(20, start=100))
    write_jsonl(tmp_path / "test.jsonl", [{"text": "hidden", "label": -1}])
    prepared = prepare_task(task, source=str(tmp_path), validation_rows=10)
    assert sorted(texts(prepared, "test")) == sorted(row["text"] for row in labelled(20, start=100))
    assert prepared.info["test_split"] == "validation"
    assert prepared.info["unused_splits"] == ["test"]
    assert prepared.info["rows"] == {"train": 30, "adapt": 0, "validation": 10, "test": 20}
    capped = prepare_task(task, source=str(tmp_path), validation_rows=10, test_rows=5)
    assert set(keys(capped, "test")) < set(keys(prepared, "test"))
    assert capped.info["dropped"] == {"test_rows": 15}


def test_a_separate_file_can_be_the_official_set(task, tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [row | {"id": n} for n, row in enumerate(labelled(20))])
    write_jsonl(tmp_path / "b.jsonl", [row | {"id": n} for n, row in enumerate(labelled(10, start=50))])
    prepared = prepare_task(task, source="a.jsonl", validation="b.jsonl", base_folder=tmp_path)
    assert len(prepared.splits["test"]) == 10
    assert set(keys(prepared, "test")).isdisjoint(keys(prepared, "train"))
    assert set(prepared.info["files"]) == {"a.jsonl", "b.jsonl:b.jsonl"}
    assert prepared.info["rows_read"] == {"a.jsonl:train": 20, "b.jsonl:train": 10}


def test_a_named_split_can_be_the_official_set(task, tmp_path):
    write_jsonl(tmp_path / "train.jsonl", labelled(20))
    write_jsonl(tmp_path / "dev.jsonl", labelled(5, start=50))
    write_jsonl(tmp_path / "test.jsonl", labelled(6, start=80))
    assert len(prepare_task(task, source=str(tmp_path), validation="test").splits["test"]) == 6
    with pytest.raises(DataError, match=r"neither a split of .*\(train, dev, test\)"):
        prepare_task(task, source=str(tmp_path), validation="devel")
    with pytest.raises(DataError, match="the training split itself"):
        prepare_task(task, source=str(tmp_path), validation="train")


def test_train_rows_whose_text_is_in_the_official_test_set_are_dropped_and_counted(task, tmp_path):
    write_jsonl(tmp_path / "train.jsonl", labelled(20))
    write_jsonl(tmp_path / "dev.jsonl", [{"text": "FILM  number 3", "label": 1}, *labelled(5, start=50)])
    prepared = prepare_task(task, source=str(tmp_path), test_rows=1)
    assert prepared.info["dropped"]["overlap_with_test"] == 1
    assert "film number 3" not in texts(prepared, "train")


def test_without_an_official_set_a_fifth_is_the_default_test_set(prepare):
    assert len(prepare(labelled(100)).splits["test"]) == 20


@pytest.mark.parametrize("cuts", [{"test_rows": 60, "validation_rows": 30, "adapt_rows": 10}, {"test_rows": 100}])
def test_cuts_that_exceed_the_rows_are_refused_with_the_numbers(prepare, cuts):
    with pytest.raises(DataError, match=r"= 100, but there are 100 rows"):
        prepare(labelled(100), **cuts)


def test_a_cut_that_ends_up_empty_is_refused(prepare):
    rows = [{"text": text, "label": 1} for text in (*["same"] * 20, *"abcde")]
    with pytest.raises(DataError, match=r"no rows are left for validation.*25 rows with 6 of them"):
        prepare(rows, test_rows=5, validation_rows=3)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "", "label": 1}, r"rows\.jsonl:3: the text in column 'text' is empty"),
        ({"text": " \n", "label": 1}, r"rows\.jsonl:3: the text in column 'text' is empty"),
        ({"text": None, "label": 1}, r"rows\.jsonl:3: the text in column 'text' is empty"),
        ({"text": 7, "label": 1}, r"rows\.jsonl:3: the text in column 'text' is a int"),
        ({"text": "\ud800", "label": 1}, r"rows\.jsonl:3: column 'text' holds half of a surrogate pair"),
        ({"txt": "x", "label": 1}, r"rows\.jsonl:3: there is no column 'text', only 'txt', 'label'"),
        ({"text": "x"}, r"rows\.jsonl:3: the label in column 'label' is missing \(there are 'text'\)"),
        ({"text": "x", "label": None}, r"rows\.jsonl:3: the label in column 'label' is empty"),
        ({"text": "x", "label": "neutral"}, r"rows\.jsonl:3: the label is 'neutral', expected 'negative', 'positive'"),
        ({"text": "x", "label": -1}, r"rows\.jsonl:3: the label is -1.*GLUE hides"),
    ],
)
def test_a_bad_row_is_an_error_that_names_its_line(prepare, row, message):
    with pytest.raises(DataError, match=message):
        prepare([*labelled(2), row, *labelled(5)])


def test_many_bad_rows_are_counted_and_the_first_ones_shown(prepare):
    with pytest.raises(DataError, match=r"rows\.jsonl:3.*rows\.jsonl:5.*and 7 more rows") as caught:
        prepare([*labelled(2), *({"text": "", "label": 1} for _ in range(10))])
    assert "rows.jsonl:6" not in str(caught.value)


def test_class_names_of_a_saved_dataset_outrank_the_order_in_the_recipe(task, tmp_path):
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["positive", "negative"])}
    )
    rows = {"text": [f"good {n}" for n in range(10)], "label": [0] * 10}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "saved"))
    prepared = prepare_task(task, source="saved", base_folder=tmp_path)
    assert prepared.info["classes"]["train"] == {"negative": 0, "positive": 8}


def test_glue_columns_are_found_and_named_ones_obeyed(task, make_task, tmp_path):
    (tmp_path / "a.tsv").write_text("sentence\tlabel\n" + "".join(f"film {n} \t{n % 2}\n" for n in range(10)))
    prepared = prepare_task(task, source="a.tsv", base_folder=tmp_path)
    assert prepared.task.prompt(prepared.splits["test"][0]).count("film") == 1
    assert not prepared.splits["test"][0].fields["text"].endswith(" ")
    other = make_task(text_column="phrase")
    with pytest.raises(DataError, match="no column 'phrase', only 'sentence', 'label'"):
        prepare_task(other, source="a.tsv", base_folder=tmp_path)


def test_a_label_map_and_other_columns_are_used(prepare, make_task):
    rows = [{"text": f"t{n}", "title": f"T{n}", "label": "+-"[n % 2]} for n in range(10)]
    task = make_task(template="{title}: {text}")
    prepared = prepare(rows, of=task, label_map={"+": "positive", "-": "negative"})
    for example in (example for rows in prepared.splits.values() for example in rows):
        number = int(example.fields["text"][1:])
        assert example.gold == 1 - number % 2
        assert task.prompt(example) == f"T{number}: t{number}"


def test_texts_with_two_labels_are_counted(prepare):
    rows = [*labelled(10), {"text": "film number 3", "label": "negative"}]
    assert prepare(rows).info["conflicting_texts"] == 1


def test_what_is_written_is_read_back(prepare, tmp_path):
    prepared = prepare([*labelled(30), {"text": "odd \u2028 \x85 text", "label": 1}], validation_rows=5, adapt_rows=3)
    write_prepared(tmp_path, prepared)
    assert {path.name for path in tmp_path.iterdir()} >= {"train.jsonl", "adapt.jsonl", "task.json", "info.json"}
    again = read_prepared(tmp_path)
    assert again == prepared
    json.dumps(again.info)


# any JSON is a valid info.json; only the manifest of the folder guards its bytes
DAMAGES = [(name, content) for name in ("train.jsonl", "task.json") for content in (None, "{", '{"a": 1}\n')]


@pytest.mark.parametrize(("name", "content"), [*DAMAGES, ("info.json", None), ("info.json", "{")])
def test_a_damaged_prepared_task_is_refused(prepare, tmp_path, name, content):
    write_prepared(tmp_path, prepare(labelled(10)))
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(IntegrityError, match="not a readable prepared task"):
        read_prepared(tmp_path)


def test_the_sample_is_cut_by_the_digest_of_its_ids(monkeypatch, task, tmp_path):
    file = tmp_path / "ratings.tsv"
    file.write_text("".join(f"{n}\t{1 if n % 2 else -1}\tfilm {n}\n" for n in range(1, 41)), encoding="utf-8")
    monkeypatch.setattr(sources_module, "sample_data", lambda name: file)
    prepared = prepare_task(task, source="sample:movie-reviews", test_rows=8)
    ordered = sorted(
        (f"movie-reviews:{n}" for n in range(1, 41)), key=lambda key: hashlib.sha256(key.encode()).hexdigest()
    )
    assert keys(prepared, "test") == ordered[:8]
    assert prepared.info["licence"] == "MIT"


def test_a_mistake_that_many_rows_make_is_said_once():
    from tutelage.data.parse import raise_problems

    same = [f"a.csv:{number}: there is no column 'text'" for number in range(2, 102)]
    with pytest.raises(DataError) as caught:
        raise_problems([*same, "a.csv:200: the text is empty"])
    assert str(caught.value) == (
        "a.csv:2, a.csv:3, a.csv:4 and 97 more rows: there is no column 'text'; a.csv:200: the text is empty"
    )
    with pytest.raises(DataError, match=r"^r:1: one; r:2: two; r:3: three ... and 2 more rows\.$"):
        raise_problems(
            [f"r:{number}: {word}" for number, word in enumerate(("one", "two", "three", "four", "five"), 1)]
        )
