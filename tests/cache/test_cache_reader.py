"""Reading gives what was written, in any order, subset and mixture of shards."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from random_signals import TEACHER, num_positions, random_rows, random_tensors

from tutelage.cache import CacheReader, ClassScoresColumn, FinalHiddenColumn, ShardWriter, TopKColumn, stored_columns
from tutelage.cache.column import Column, TensorDict
from tutelage.cache.layout import PAYLOAD, column_folder
from tutelage.errors import CacheError
from tutelage.types import TeacherRow

Filled = Callable[..., tuple[Path, list[TeacherRow], TensorDict]]


@pytest.mark.parametrize("column", [FinalHiddenColumn(8, "fp32"), TopKColumn(5, (1, 2), 97)], ids=lambda c: c.kind)
def test_reading_all_rows_gives_what_was_written(filled: Filled, column: Column) -> None:
    root, rows, tensors = filled(30, column)
    found = CacheReader(root, TEACHER, column).read([row.key for row in rows], [row.positions for row in rows])
    assert set(found) == set(tensors)
    assert all(found[name].equal(tensors[name]) for name in tensors)


def test_any_order_subset_and_repetition_of_positions_is_read(filled: Filled, hidden: FinalHiddenColumn) -> None:
    root, rows, tensors = filled()
    reader = CacheReader(root, TEACHER, hidden)
    starts = np.cumsum([0, *(len(row.positions) for row in rows)])
    generator = np.random.default_rng(3)
    for _ in range(20):
        chosen = generator.choice(len(rows), size=7, replace=True)
        places = [
            np.sort(generator.choice(len(rows[i].positions), size=1 + i % len(rows[i].positions))) for i in chosen
        ]
        found = reader.read(
            [rows[i].key for i in chosen], [rows[i].positions[place] for i, place in zip(chosen, places, strict=True)]
        )
        expected = np.concatenate([starts[i] + place for i, place in zip(chosen, places, strict=True)])
        assert found["hidden_NE"].equal(tensors["hidden_NE"][torch.from_numpy(expected)])


def test_keys_are_listed_once_and_sorted(filled: Filled, hidden: FinalHiddenColumn) -> None:
    root, rows, _ = filled()
    ShardWriter(root, TEACHER, hidden).write_shard(rows[:2], random_tensors(hidden, num_positions(rows[:2])))
    assert CacheReader(root, TEACHER, hidden).keys() == [row.key for row in rows]


def test_reading_nothing_gives_empty_tensors(filled: Filled, hidden: FinalHiddenColumn) -> None:
    root, _, _ = filled()
    assert CacheReader(root, TEACHER, hidden).read([], [])["hidden_NE"].shape == (0, 8)


def test_an_empty_cache_opens_and_says_what_to_do(tmp_path: Path, hidden: FinalHiddenColumn) -> None:
    reader = CacheReader(tmp_path, TEACHER, hidden)
    assert reader.keys() == []
    with pytest.raises(CacheError, match="teach stage"):
        reader.read([b"k" * 16], [np.array([0])])


def test_keys_that_end_in_zero_bytes_are_told_apart(tmp_path: Path, hidden: FinalHiddenColumn) -> None:
    keys = [b"a" + b"\0" * 15, b"a" * 15 + b"\0", b"a" * 16, b"\0" * 16]
    rows = [TeacherRow(np.array([1], np.int32), np.array([0]), key) for key in sorted(keys)]
    tensors = random_tensors(hidden, 4)
    ShardWriter(tmp_path, TEACHER, hidden).write_shard(rows, tensors)
    reader = CacheReader(tmp_path, TEACHER, hidden)
    assert reader.keys() == sorted(keys)
    for number, row in enumerate(rows):
        assert reader.read([row.key], [row.positions])["hidden_NE"][0].equal(tensors["hidden_NE"][number])


@pytest.mark.parametrize("positions", [[0, 3], [4], [-1], [100]])
def test_positions_that_are_not_stored_are_named(
    tmp_path: Path, hidden: FinalHiddenColumn, positions: list[int]
) -> None:
    row = TeacherRow(np.arange(5, dtype=np.int32), np.array([0, 1, 2]))
    ShardWriter(tmp_path, TEACHER, hidden).write_shard([row], random_tensors(hidden, 3))
    with pytest.raises(CacheError, match=rf"{row.key.hex()}, but not all of its positions \[{positions[0]}"):
        CacheReader(tmp_path, TEACHER, hidden).read([row.key], [np.array(positions)])


def test_of_duplicate_rows_one_that_covers_is_read(tmp_path: Path, hidden: FinalHiddenColumn) -> None:
    ids = np.arange(9, dtype=np.int32)
    first, second = TeacherRow(ids, np.array([1, 2])), TeacherRow(ids, np.array([2, 5, 8]))
    writer = ShardWriter(tmp_path, TEACHER, hidden)
    stored = [random_tensors(hidden, 2, seed=1), random_tensors(hidden, 3, seed=2)]
    for row, tensors in zip((first, second), stored, strict=True):
        writer.write_shard([row], tensors)
    reader = CacheReader(tmp_path, TEACHER, hidden)
    assert reader.read([first.key], [np.array([1])])["hidden_NE"][0].equal(stored[0]["hidden_NE"][0])
    assert reader.read([first.key], [np.array([5, 8])])["hidden_NE"].equal(stored[1]["hidden_NE"][1:])
    with pytest.raises(CacheError, match="not all of its positions"):
        reader.read([first.key], [np.array([1, 5])])


def test_a_smaller_k_is_cut_from_a_larger_one_also_within_one_batch(tmp_path: Path) -> None:
    large, small, wanted = TopKColumn(9, (1, 2, 4), 97), TopKColumn(3, (1, 4), 97), TopKColumn(2, (1, 4), 97)
    rows = random_rows(6)
    tensors = random_tensors(large, num_positions(rows))
    ends = np.cumsum([len(row.positions) for row in rows])
    for column, chosen in ((large, [0, 2, 3]), (small, [1, 4, 5])):
        places = np.concatenate([np.arange(ends[i] - len(rows[i].positions), ends[i]) for i in chosen])
        part = {name: tensor[torch.from_numpy(places)] for name, tensor in tensors.items()}
        ShardWriter(tmp_path, TEACHER, column).write_shard([rows[i] for i in chosen], large.narrow(part, column))
    found = CacheReader(tmp_path, TEACHER, wanted).read([row.key for row in rows], [row.positions for row in rows])
    assert found["ids_NK"].equal(tensors["ids_NK"][:, :2])
    assert found["logprobs_NK"].equal(tensors["logprobs_NK"][:, :2])
    assert found["log_z_NT"].equal(tensors["log_z_NT"][:, 1:])


def test_damage_in_another_column_that_could_serve_is_passed_over_and_named(tmp_path: Path) -> None:
    large, small = TopKColumn(9, (1,), 97), TopKColumn(3, (1,), 97)
    rows = random_rows(4)
    ShardWriter(tmp_path, TEACHER, large).write_shard(rows[:2], random_tensors(large, num_positions(rows[:2])))
    damaged = ShardWriter(tmp_path, TEACHER, large).write_shard(
        rows[2:], random_tensors(large, num_positions(rows[2:]))
    )
    ShardWriter(tmp_path, TEACHER, small).write_shard(rows[:2], random_tensors(small, num_positions(rows[:2])))
    (damaged / PAYLOAD).write_bytes(b"short")
    reader = CacheReader(tmp_path, TEACHER, small)
    reader.read([rows[0].key], [rows[0].positions])
    with pytest.raises(CacheError, match=f"passed over: .*{damaged.name}"):
        reader.read([rows[3].key], [rows[3].positions])


def test_stored_columns_are_listed_and_damaged_ones_left_out(tmp_path: Path) -> None:
    columns = [ClassScoresColumn((1, 2)), FinalHiddenColumn(8), TopKColumn(3, (1,), 97)]
    rows = random_rows(2)
    for column in columns:
        narrow = [TeacherRow(row.ids, column.positions_of(row)) for row in rows]
        ShardWriter(tmp_path, TEACHER, column).write_shard(narrow, random_tensors(column, num_positions(narrow)))
    assert stored_columns(tmp_path, TEACHER) == columns
    assert stored_columns(tmp_path, "nobody") == []
    shard = next(path for path in column_folder(tmp_path, TEACHER, columns[1]).iterdir() if path.is_dir())
    (shard / PAYLOAD).unlink()
    assert stored_columns(tmp_path, TEACHER) == [columns[0], columns[2]]
    shutil.rmtree(tmp_path / TEACHER)
    assert stored_columns(tmp_path, TEACHER) == []
