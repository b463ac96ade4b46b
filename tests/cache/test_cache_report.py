"""Figures of a cache, the refusal of too little mass, and the choice of a column."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from random_signals import TEACHER, num_positions, random_rows, random_tensors

from tutelage.cache import (
    ClassScoresColumn,
    FinalHiddenColumn,
    ShardWriter,
    TopKColumn,
    bytes_per_position,
    covered_mass,
    find_column,
    require_covered_mass,
)
from tutelage.cache.column import TensorDict
from tutelage.errors import CacheError, CapabilityError
from tutelage.types import TeacherRow

Filled = Callable[..., tuple[Path, list[TeacherRow], TensorDict]]


def test_bytes_per_position_add_up_to_the_bytes_on_disk(filled: Filled) -> None:
    column = TopKColumn(5, (1, 2), 97)
    root, rows, _ = filled(30, column)
    parts = bytes_per_position(root, TEACHER, column)
    total = sum(file.stat().st_size for file in root.rglob("*") if file.is_file())
    assert parts["ids"] == 10
    assert parts["values"] == 20
    assert parts["log_z"] == 4
    assert sum(parts.values()) * num_positions(rows) == pytest.approx(total)
    assert bytes_per_position(root, TEACHER, FinalHiddenColumn(8)) == {}


def test_covered_mass_equals_the_mass_of_the_kept_entries(filled: Filled) -> None:
    column = TopKColumn(5, (0.5, 1, 2), 97)
    root, _, tensors = filled(30, column)
    found = covered_mass(root, TEACHER, column)
    logprobs_NK = tensors["logprobs_NK"].double()
    assert found[1.0] == pytest.approx(logprobs_NK.exp().sum(dim=1).mean().item(), rel=1e-6)
    for place, temperature in enumerate((0.5, 2.0)):
        mass_N = (logprobs_NK / temperature - tensors["log_z_NT"][:, place, None].double()).exp().sum(dim=1)
        assert found[temperature] == pytest.approx(mass_N.mean().item(), rel=1e-6)
    assert found[0.5] > found[1.0] > found[2.0]


def test_covered_mass_is_one_when_k_equals_the_vocabulary(filled: Filled) -> None:
    column = TopKColumn(97, (1, 4), 97)
    root, _, _ = filled(10, column)
    assert covered_mass(root, TEACHER, column) == pytest.approx({1.0: 1.0, 4.0: 1.0}, abs=1e-5)


def test_covered_mass_of_a_smaller_k_is_that_of_the_cut(filled: Filled) -> None:
    root, _, tensors = filled(30, TopKColumn(5, (1, 2), 97))
    found = covered_mass(root, TEACHER, TopKColumn(2, (1,), 97))
    assert found == {1.0: pytest.approx(tensors["logprobs_NK"][:, :2].exp().sum(dim=1).mean().item(), rel=1e-5)}


def test_covered_mass_reads_a_bounded_number_of_positions(filled: Filled, monkeypatch: pytest.MonkeyPatch) -> None:
    column = TopKColumn(97, (1,), 97)
    root, _, _ = filled(30, column)
    monkeypatch.setattr("tutelage.cache.report.MAX_POSITIONS", 3)
    assert covered_mass(root, TEACHER, column)[1.0] == pytest.approx(1.0, abs=1e-5)


def test_less_than_half_of_the_mass_is_refused_and_final_hidden_is_named(filled: Filled) -> None:
    root, _, _ = filled(30, TopKColumn(10, (1, 8), 97))
    assert require_covered_mass(root, TEACHER, TopKColumn(10, (1,), 97))[1.0] > 0.5
    with pytest.raises(CapabilityError, match=r"% at T = 8 .*final_hidden"):
        require_covered_mass(root, TEACHER, TopKColumn(10, (1, 8), 97))


def test_covered_mass_of_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="is empty"):
        covered_mass(tmp_path, TEACHER, TopKColumn(2, (1,), 97))


def write(root: Path, column: TopKColumn | FinalHiddenColumn | ClassScoresColumn) -> None:
    rows = random_rows(1)
    narrow = [TeacherRow(row.ids, column.positions_of(row)) for row in rows]
    ShardWriter(root, TEACHER, column).write_shard(narrow, random_tensors(column, num_positions(narrow)))


def test_the_parts_of_records_of_one_size_are_counted_without_reading_them(tmp_path: Path, monkeypatch) -> None:
    write(tmp_path, FinalHiddenColumn(8))
    expected = bytes_per_position(tmp_path, TEACHER, FinalHiddenColumn(8))
    monkeypatch.setattr("tutelage.cache.shard.Shard.read_row", None)
    assert bytes_per_position(tmp_path, TEACHER, FinalHiddenColumn(8)) == expected


def test_find_column_fills_in_what_the_cache_knows(tmp_path: Path) -> None:
    for column in (FinalHiddenColumn(8), TopKColumn(4, (1, 2), 97), TopKColumn(9, (1, 4), 97, "fp16")):
        write(tmp_path, column)
    assert find_column(tmp_path, TEACHER, kind="final_hidden") == FinalHiddenColumn(8)
    assert find_column(tmp_path, TEACHER, kind="topk", k=3) == TopKColumn(3, (1,), 97)
    assert find_column(tmp_path, TEACHER, kind="topk", temperatures=[2]) == TopKColumn(4, (2,), 97)
    assert find_column(tmp_path, TEACHER, kind="topk", k=5, temperatures=[4]) == TopKColumn(5, (4,), 97, "fp16")
    assert find_column(tmp_path, TEACHER, kind="topk", dtype="fp16") == TopKColumn(9, (1,), 97, "fp16")


def test_find_column_names_the_stored_temperatures(tmp_path: Path) -> None:
    write(tmp_path, TopKColumn(4, (1, 2), 97))
    with pytest.raises(CapabilityError, match=r"no log_z for T in \[4.0\]; stored temperatures: \[1.0, 2.0\]"):
        find_column(tmp_path, TEACHER, kind="topk", k=4, temperatures=[1, 4])


def test_find_column_says_what_is_held_when_the_signal_is_not(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="holds nothing; expected a final_hidden"):
        find_column(tmp_path, TEACHER, kind="final_hidden")
    write(tmp_path, TopKColumn(4, (1,), 97))
    with pytest.raises(CacheError, match=r"k = \[4\]; expected at least 5"):
        find_column(tmp_path, TEACHER, kind="topk", k=5)
    with pytest.raises(CacheError, match="holds topk-k4-v97-t1-fp32; expected a final_hidden"):
        find_column(tmp_path, TEACHER, kind="final_hidden", dtype="bf16")


def test_random_tensors_of_this_suite_are_distributions() -> None:
    column = TopKColumn(97, (2,), 97)
    tensors = random_tensors(column, 5)
    mass_N = (tensors["logprobs_NK"] / 2 - tensors["log_z_NT"]).exp().sum(dim=1)
    assert torch.allclose(mass_N, torch.ones(5), atol=1e-5)
