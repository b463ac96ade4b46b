"""items.parquet: same items, same bytes; nothing wrong is read."""

import dataclasses
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tutelage.errors import DataError, IntegrityError
from tutelage.evaluate import Items, items_from_scores, read_items, write_items


def make_items(number: int = 50, *, texts: bool = True, logprobs: bool = True) -> Items:
    rng = np.random.default_rng(0)
    items = items_from_scores(
        np.log(rng.dirichlet([1, 1], size=number)),
        item_keys=[f"movie-reviews/{index}" for index in range(number)],
        gold_B=rng.integers(0, 2, size=number),
        valid_B=rng.random(number) < 0.9,
        labels=("negative", "positive"),
        cluster_keys=[f"c{index // 3}" for index in range(number)],
        texts=[f'a "quoted" text é {index}\n' for index in range(number)] if texts else None,
    )
    return items if logprobs else dataclasses.replace(items, logprobs_BC=None)


def assert_same(first: Items, second: Items) -> None:
    for field in dataclasses.fields(Items):
        one, two = getattr(first, field.name), getattr(second, field.name)
        assert type(one) is type(two), field.name
        np.testing.assert_array_equal(one, two, err_msg=field.name)
        if isinstance(one, np.ndarray):
            assert one.dtype == two.dtype, field.name


@pytest.mark.parametrize("texts", [True, False])
@pytest.mark.parametrize("logprobs", [True, False])
def test_items_come_back_as_they_were_written(tmp_path, texts, logprobs):
    items = make_items(texts=texts, logprobs=logprobs)
    write_items(tmp_path / "items.parquet", items)
    assert_same(read_items(tmp_path / "items.parquet"), items)


def test_equal_items_give_equal_bytes_and_leave_nothing_else(tmp_path):
    for name in ("a", "b"):
        write_items(tmp_path / name, make_items())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]
    changed = make_items()
    changed.score_B[7] = 1 - changed.score_B[7]
    write_items(tmp_path / "b", changed)
    assert (tmp_path / "a").read_bytes() != (tmp_path / "b").read_bytes()


def test_the_columns_are_those_of_the_documented_contract(tmp_path):
    write_items(tmp_path / "items.parquet", make_items())
    schema = pq.read_schema(tmp_path / "items.parquet")
    assert {field.name: str(field.type) for field in schema} == {
        "item_key": "string",
        "cluster_key": "string",
        "gold": "int64",
        "prediction": "int64",
        "score": "double",
        "confidence": "double",
        "valid": "bool",
        "logprob_negative": "double",
        "logprob_positive": "double",
        "text": "string",
    }


@pytest.mark.parametrize("texts", [True, False])
def test_a_flipped_bit_is_an_integrity_error_or_changes_no_value(tmp_path, texts):
    path = tmp_path / "items.parquet"
    items = make_items(20, texts=texts)
    write_items(path, items)
    original = path.read_bytes()
    rng = random.Random(0)
    num_refused = 0
    for offset in range(0, len(original), 7):
        flipped = bytearray(original)
        flipped[offset] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        try:
            assert_same(read_items(path), items)  # Parquet's own statistics and unused header fields
        except IntegrityError:
            num_refused += 1
    assert num_refused > 0.4 * len(original) / 7


def test_a_truncated_file_is_an_integrity_error(tmp_path):
    path = tmp_path / "items.parquet"
    write_items(path, make_items())
    original = path.read_bytes()
    for length in (*range(0, len(original), 50), len(original) - 1):
        path.write_bytes(original[:length])
        with pytest.raises(IntegrityError, match=r"items\.parquet"):
            read_items(path)


def test_a_missing_file_and_a_foreign_one_are_named(tmp_path):
    path = tmp_path / "items.parquet"
    with pytest.raises(IntegrityError, match=r"items\.parquet does not exist"):
        read_items(path)
    path.write_text("not parquet")
    with pytest.raises(IntegrityError, match="cannot be read as Parquet"):
        read_items(path)
    pq.write_table(pa.table({"item_key": ["a"]}), path)
    with pytest.raises(IntegrityError, match="items format None with the labels None, expected 1"):
        read_items(path)


def test_wrong_columns_are_listed_with_what_was_expected(tmp_path):
    path = tmp_path / "items.parquet"
    write_items(path, make_items())
    table = pq.read_table(path)
    wrong = table.drop_columns(["gold", "score"]).append_column("score", table["score"].cast(pa.float32()))
    wrong = wrong.append_column("new", table["gold"])
    pq.write_table(wrong.replace_schema_metadata(table.schema.metadata), path)
    with pytest.raises(IntegrityError) as caught:
        read_items(path)
    for part in (
        "gold is missing, expected int64",
        "score is float, expected double",
        "new is int64, expected no such",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "header", [b"{", b"[]", b"{}", b'{"format_version": 1}', b'{"format_version": 1, "labels": 3}', b"\xff"]
)
def test_a_header_that_makes_no_sense_is_an_integrity_error(tmp_path, header):
    path = tmp_path / "items.parquet"
    write_items(path, make_items())
    pq.write_table(pq.read_table(path).replace_schema_metadata({b"tutelage": header}), path)
    with pytest.raises(IntegrityError):
        read_items(path)


def test_missing_values_are_an_integrity_error(tmp_path):
    path = tmp_path / "items.parquet"
    write_items(path, make_items(3))
    table = pq.read_table(path)
    index = table.column_names.index("gold")
    holes = table.set_column(index, "gold", pa.array([0, None, 1], pa.int64()))
    pq.write_table(holes.replace_schema_metadata(table.schema.metadata), path)
    with pytest.raises(IntegrityError, match="gold has 1 missing"):
        read_items(path)


def test_parts_of_different_length_cannot_be_one_evaluation():
    with pytest.raises(DataError, match="differ in length"):
        dataclasses.replace(make_items(), item_keys=("a",))
