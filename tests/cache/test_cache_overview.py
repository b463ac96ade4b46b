"""What a cache holds, and where caches are found."""

from collections.abc import Callable
from pathlib import Path

import pytest
from random_signals import TEACHER, num_positions, random_rows, random_tensors

from tutelage.cache import ClassScoresColumn, FinalHiddenColumn, ShardWriter, TopKColumn
from tutelage.cache.column import TensorDict
from tutelage.cache.overview import TeacherCache, cache_figures, column_figures, find_caches, head_bytes
from tutelage.errors import DataError
from tutelage.store import new_artifact, write_json
from tutelage.types import TeacherRow

Filled = Callable[..., tuple[Path, list[TeacherRow], TensorDict]]


def test_the_figures_of_a_column_count_what_was_written(filled: Filled) -> None:
    column = TopKColumn(5, (1, 2), 97)
    root, rows, _ = filled(30, column)
    (found,) = cache_figures(TeacherCache(root, TEACHER))
    assert (found.num_rows, found.num_positions) == (30, num_positions(rows))
    assert found.num_tokens == sum(len(row.ids) for row in rows)
    assert found.num_bytes == sum(file.stat().st_size for file in root.rglob("*") if file.is_file())
    assert found.bytes_per_position * found.num_positions == pytest.approx(found.num_bytes)
    assert set(found.covered_mass) == {1.0, 2.0}
    assert found.num_damaged == 0


def test_a_forecast_extrapolates_by_tokens_and_by_positions(filled: Filled) -> None:
    root, rows, _ = filled(30)
    found = column_figures(root, TEACHER, FinalHiddenColumn(8, "fp32"))
    num_tokens = sum(len(row.ids) for row in rows)
    assert found.forecast(num_tokens)["as_here"] == pytest.approx(found.num_bytes)
    assert found.forecast(1000)["every_token"] == pytest.approx(1000 * found.bytes_per_position)


def test_a_signal_by_row_has_no_forecast_for_every_token(tmp_path: Path) -> None:
    column, rows = ClassScoresColumn((3, 4)), random_rows(3)
    narrow = [TeacherRow(row.ids, column.positions_of(row)) for row in rows]
    ShardWriter(tmp_path, TEACHER, column).write_shard(narrow, random_tensors(column, 3))
    assert set(column_figures(tmp_path, TEACHER, column).forecast(1000)) == {"as_here"}


def test_damaged_shards_are_counted_and_left_out(filled: Filled) -> None:
    root, _, _ = filled(30)
    index = sorted(root.rglob("index.npy"))[0]
    index.write_bytes(index.read_bytes()[:-1] + b"?")
    found = column_figures(root, TEACHER, FinalHiddenColumn(8, "fp32"))
    assert (found.num_rows, found.num_damaged) == (20, 1)


def test_caches_are_found_from_the_root_the_workspace_and_the_teachers_folder(tmp_path: Path) -> None:
    root = tmp_path / "runs" / "cache"
    column, rows = FinalHiddenColumn(8, "fp32"), random_rows(3)
    for teacher in (TEACHER, "fedcba9876543210"):
        ShardWriter(root, teacher, column).write_shard(rows, random_tensors(column, num_positions(rows)))
    with new_artifact(tmp_path / "runs" / "reviews" / "prepare" / "sentiment", kind="prepare") as folder:
        write_json(folder / "task.json", {})  # an experiment beside the cache is no teacher
    both = [TeacherCache(root, TEACHER), TeacherCache(root, "fedcba9876543210")]
    assert find_caches(root) == find_caches(tmp_path / "runs") == both
    (alone,) = find_caches(root / TEACHER)
    assert alone.folder == root / TEACHER


def test_a_folder_whose_only_shard_lost_its_manifest_is_still_found(filled: Filled) -> None:
    root, _, _ = filled(10)
    for manifest in root.rglob("MANIFEST.json"):
        manifest.unlink()
    assert find_caches(root) == [TeacherCache(root, TEACHER)]


def test_a_folder_without_a_cache_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no teacher cache"):
        find_caches(tmp_path)


def test_a_cache_without_a_head_has_none(filled: Filled) -> None:
    root, _, _ = filled(10)
    assert head_bytes(TeacherCache(root, TEACHER)) == 0
