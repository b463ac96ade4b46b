"""Defects of other caches, put back into ours one at a time: each is caught. And the page that lists them is true."""

import ast
import dataclasses
import functools
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from random_signals import TEACHER, num_positions, random_rows, random_tensors

from tutelage.cache import (
    CacheReader,
    ClassScoresColumn,
    FinalHiddenColumn,
    HiddenColumn,
    SampledColumn,
    ShardWriter,
    TopKColumn,
    quantise,
    topk,
)
from tutelage.cache import read as read_module
from tutelage.cache import write as write_module
from tutelage.cache.column import Column, TensorDict
from tutelage.cache.layout import PAYLOAD, column_folder, shard_folders
from tutelage.cache.overview import TeacherCache, cache_figures
from tutelage.cache.read import StoredRow
from tutelage.cache.sampled import SampledColumn as SampledKind
from tutelage.cache.shard import Shard, split_row
from tutelage.errors import CacheError, TutelageError
from tutelage.types import TeacherRow

HIDDEN = FinalHiddenColumn(8, "fp32")
Patch = pytest.MonkeyPatch
Defect = Callable[[Patch], None]
Check = Callable[[Path], None]


def written(root: Path, rows: Sequence[TeacherRow], column: Column = HIDDEN, *, size: int = 10) -> TensorDict:
    """Store random signals of rows, ``size`` rows to a shard."""
    tensors, done = random_tensors(column, num_positions(list(rows))), 0
    for start in range(0, len(rows), size):
        part = list(rows[start : start + size])
        stop = done + num_positions(part)
        ShardWriter(root, TEACHER, column).write_shard(part, {name: t[done:stop] for name, t in tensors.items()})
        done = stop
    return tensors


def read(root: Path, rows: Sequence[TeacherRow], column: Column = HIDDEN) -> TensorDict:
    return CacheReader(root, TEACHER, column).read([row.key for row in rows], [row.positions for row in rows])


def equal_shapes(count: int) -> list[TeacherRow]:
    """Rows that only their ids tell apart."""
    ids = np.random.default_rng(0).integers(0, 97, size=(count, 9)).astype(np.int32)
    return sorted([TeacherRow(row, np.array([6, 7])) for row in ids], key=lambda row: row.key)


# Checks: what must hold. Each passes as the package is, and fails with the defects that it is paired with.


def check_shuffled_rows_keep_their_signal(root: Path) -> None:
    rows = equal_shapes(24)
    stored_RPE = written(root, rows)["hidden_NE"].reshape(24, 2, 8)
    order = np.random.default_rng(1).permutation(24)
    reader = CacheReader(root, TEACHER, HIDDEN)
    for batch in np.split(order, 6):
        found_NE = reader.read([rows[i].key for i in batch], [rows[i].positions for i in batch])["hidden_NE"]
        assert torch.equal(found_NE, stored_RPE[torch.from_numpy(batch)].flatten(0, 1))


def check_micro_batches_of_a_step_read_their_own_rows(root: Path) -> None:
    rows = equal_shapes(24)
    stored_RPE = written(root, rows)["hidden_NE"].reshape(24, 2, 8)
    reader = CacheReader(root, TEACHER, HIDDEN)
    for start in range(0, 24, 4):  # in the order of the files: only accumulation is in the way
        found_NE = reader.read([row.key for row in rows[start : start + 4]], [row.positions for row in rows[:4]])
        assert torch.equal(found_NE["hidden_NE"], stored_RPE[start : start + 4].flatten(0, 1))


def check_ids_come_back(root: Path) -> None:
    for column in (TopKColumn(5, (1,), 151_936), TopKColumn(5, (1,), 151_936, "q8")):
        rows = random_rows(4)
        stored = written(root, rows, column)
        assert torch.equal(read(root, rows, column)["ids_NK"], stored["ids_NK"])
        assert stored["ids_NK"].max() > 2**17


def check_the_tail_keeps_its_mass(root: Path) -> None:
    column = TopKColumn(12, (1,), 97, "q8")
    rows = random_rows(6)
    stored, found = written(root, rows, column), read(root, rows, column)
    tails = [1 - tensors["logprobs_NK"].double().exp().sum(dim=1) for tensors in (found, stored)]
    assert tails[1].mean() > 0.05
    assert ((tails[0] - tails[1]).abs() <= 2e-3 * (1 - tails[1]) + 1e-6).all()


def check_a_damaged_row_is_refused(root: Path) -> None:
    rows = random_rows(10)
    written(root, rows)
    path = shard_folders(column_folder(root, TEACHER, HIDDEN))[0] / PAYLOAD
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)
    require_refusal(lambda: read(root, rows), "hash differs")


def check_rows_of_a_lost_shard_are_named(root: Path) -> None:
    rows = equal_shapes(20)
    written(root, rows)
    shutil.rmtree(shard_folders(column_folder(root, TEACHER, HIDDEN))[1])
    require_refusal(lambda: read(root, rows), "but not row")


def check_an_uncommitted_folder_is_no_shard(root: Path) -> None:
    rows = random_rows(10)
    written(root, rows)
    (column_folder(root, TEACHER, HIDDEN) / ("0" * 32)).mkdir()
    read(root, rows)


def check_counts_are_those_of_what_is_there(root: Path) -> None:
    rows = random_rows(20)
    written(root, rows)
    (figures,) = cache_figures(TeacherCache(root, TEACHER))
    assert (figures.num_rows, figures.num_positions) == (20, num_positions(rows))
    assert len(CacheReader(root, TEACHER, HIDDEN).keys()) == 20


def check_every_draw_counts(root: Path) -> None:
    column = SampledColumn(12, 1.0, 0, 97)
    rows = random_rows(6)
    stored, found = written(root, rows, column), read(root, rows, column)
    assert (found["counts_NK"].sum(dim=1) == 12).all()
    assert torch.equal(found["counts_NK"], stored["counts_NK"])
    assert stored["counts_NK"].max() > 1


def check_class_scores_are_those_of_the_first_position(root: Path) -> None:
    row = TeacherRow(np.arange(9, dtype=np.int32), np.array([3, 4, 5]))
    assert ClassScoresColumn((1, 2)).positions_of(row).tolist() == [3]


def require_refusal(action: Callable[[], object], words: str) -> None:
    """Say that an action ends with one of our errors, in these words."""
    try:
        action()
    except TutelageError as error:
        assert words in str(error), error  # noqa: PT017 - the words are part of the check
        return
    raise AssertionError("nothing was refused")


# Defects: each puts one back.


def aligned_by_batch_index(patch: Patch) -> None:
    """Give the i-th row of a batch the i-th stored row, whatever its ids."""

    def find(reader: CacheReader, keys: Sequence[bytes], positions: Sequence[np.ndarray]) -> Iterator[StoredRow]:
        yield from stored_rows(reader, range(len(keys)))

    patch.setattr(CacheReader, "_find", find)


def addressed_by_row_and_step(patch: Patch) -> None:
    """Count optimizer steps through the file; a step's second micro-batch reads the first one's rows."""
    num_calls = 0

    def find(reader: CacheReader, keys: Sequence[bytes], positions: Sequence[np.ndarray]) -> Iterator[StoredRow]:
        nonlocal num_calls
        step, num_calls = num_calls // 2, num_calls + 1
        yield from stored_rows(reader, range(step * len(keys), (step + 1) * len(keys)))

    patch.setattr(CacheReader, "_find", find)


def stored_rows(reader: CacheReader, numbers: Sequence[int]) -> Iterator[StoredRow]:
    """Rows by their number through the shards, as a reader without keys has them."""
    places = [(shard, number) for shard in reader.shards for number in range(len(shard.index))]
    for number in numbers:
        shard, row = places[number % len(places)]
        coverage, block = shard.read_row(row)
        yield StoredRow(shard.column, 0, coverage, block)


def ids_in_two_bytes(patch: Patch) -> None:
    """Store every id as ``uint16``."""
    patch.setattr(TopKColumn, "id_dtype", property(lambda column: torch.uint16))


def compressed_ids_in_two_bytes(patch: Patch) -> None:
    """Store every compressed id in two bytes, whatever the vocabulary."""
    patch.setattr(topk, "byte_width", lambda num_values: 2)


def kept_entries_renormalised_by_the_codec(patch: Patch) -> None:
    """Give back kept entries that sum to 1: the tail is gone."""

    def restore(coded: quantise.LevelCodes) -> np.ndarray:
        whole_N = np.full_like(coded.mass_N, quantise.EMPTY_TAIL)
        return quantise.restore_levels(dataclasses.replace(coded, mass_N=whole_N))

    patch.setattr(topk, "restore_levels", restore)


def rows_read_unchecked(patch: Patch) -> None:
    """Trust the bytes on the disk."""

    def read_row(shard: Shard, number: int) -> tuple[np.ndarray, np.ndarray]:
        entry = shard.index[number]
        start = int(entry["offset"])
        return split_row(shard.payload[start : start + int(entry["nbytes"])].tobytes(), int(entry["row_length"]))

    patch.setattr(Shard, "read_row", read_row)


def missing_rows_passed_over(patch: Patch) -> None:
    """Believe that all chunks are there; leave out what is not."""
    find = CacheReader._find

    def find_or_guess(
        reader: CacheReader, keys: Sequence[bytes], positions: Sequence[np.ndarray]
    ) -> Iterator[StoredRow]:
        known = set(reader.keys())
        for key, where in zip(keys, positions, strict=True):
            yield from find(reader, [key], [where]) if key in known else stored_rows(reader, [0])

    patch.setattr(CacheReader, "_find", find_or_guess)


def folders_trusted_because_they_exist(patch: Patch) -> None:
    """Open every folder as a shard."""

    def scan(folder: Path) -> tuple[list[Shard], dict[Path, str]]:
        return [read_module.open_shard(path) for path in shard_folders(folder)], {}

    patch.setattr(read_module, "scan_shards", scan)


def metadata_that_counts_a_row_too_many(patch: Patch) -> None:
    """Write one more row into the manifest than there is."""
    seal = write_module.seal_fields
    patch.setattr(write_module, "seal_fields", lambda fields: seal({**fields, "num_rows": fields["num_rows"] + 1}))


def every_drawn_id_counted_once(patch: Patch) -> None:
    """Store the set of drawn ids and forget how often each came."""
    encode = SampledKind._encode_row

    def encode_row(column: SampledColumn, ids_PK: np.ndarray, counts_PK: np.ndarray, logprobs_PK: np.ndarray) -> bytes:
        return encode(column, ids_PK, np.minimum(counts_PK, 1), logprobs_PK)

    patch.setattr(SampledKind, "_encode_row", encode_row)


def class_scores_of_the_last_position(patch: Patch) -> None:
    """Read the verbalisers where the end token is predicted."""
    patch.setattr(ClassScoresColumn, "positions_of", lambda column, row: row.positions[-1:])


CAUGHT: list[tuple[Defect, Check]] = [
    (aligned_by_batch_index, check_shuffled_rows_keep_their_signal),
    (addressed_by_row_and_step, check_micro_batches_of_a_step_read_their_own_rows),
    (ids_in_two_bytes, check_ids_come_back),
    (compressed_ids_in_two_bytes, check_ids_come_back),
    (kept_entries_renormalised_by_the_codec, check_the_tail_keeps_its_mass),
    (rows_read_unchecked, check_a_damaged_row_is_refused),
    (missing_rows_passed_over, check_rows_of_a_lost_shard_are_named),
    (folders_trusted_because_they_exist, check_an_uncommitted_folder_is_no_shard),
    (every_drawn_id_counted_once, check_every_draw_counts),
    (class_scores_of_the_last_position, check_class_scores_are_those_of_the_first_position),
]
CHECKS = [*dict.fromkeys(check for _, check in CAUGHT), check_counts_are_those_of_what_is_there]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_what_must_hold_does(tmp_path: Path, check: Check) -> None:
    check(tmp_path)


@pytest.mark.parametrize(("defect", "check"), CAUGHT, ids=lambda part: part.__name__)
def test_a_defect_of_the_cache_is_caught(tmp_path: Path, monkeypatch: Patch, defect: Defect, check: Check) -> None:
    defect(monkeypatch)
    with pytest.raises((AssertionError, CacheError)):
        check(tmp_path)


def test_metadata_that_lies_about_its_rows_is_read_by_nobody(tmp_path: Path, monkeypatch: Patch) -> None:
    metadata_that_counts_a_row_too_many(monkeypatch)
    check_counts_are_those_of_what_is_there(tmp_path)


def test_lists_of_floats_take_several_times_the_bytes_of_every_format(tmp_path: Path) -> None:
    """The defect: hidden states as lists of float32."""
    values_NE = torch.randn(400, 64)
    lists = pa.table({"hidden": values_NE.tolist()}, schema=pa.schema([("hidden", pa.list_(pa.float32()))]))
    pq.write_table(lists, tmp_path / "lists.parquet", compression="zstd")
    per_value = (tmp_path / "lists.parquet").stat().st_size / values_NE.numel()
    rows = [TeacherRow(np.arange(400, dtype=np.int32), np.arange(400))]
    for dtype, share in (("bf16", 0.6), ("int8", 0.35), ("fp8", 0.35)):
        column = HiddenColumn(3, 64, dtype)
        folder = ShardWriter(tmp_path, TEACHER, column).write_shard(rows, {"hidden_NE": values_NE})
        size = sum(file.stat().st_size for file in folder.iterdir()) / values_NE.numel()
        assert size <= share * per_value, (dtype, size, per_value)


# The page.

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "footguns.md"
SECTION = "## The teacher cache"
NAMED_TEST = re.compile(r"`(?:tests/)?([\w/]+\.py)::(\w+)(?:\[(\w+)\])?`")


def cache_section() -> list[str]:
    text = PAGE.read_text(encoding="utf-8")
    lines = [line for line in text.split(SECTION)[1].splitlines() if line.startswith("| ")]
    return [line for line in lines[1:] if not line.startswith("| **")]  # headings of groups


@functools.cache
def names_in(path: Path) -> set[str]:
    """Every function and string of a module: tests, defects, and the names of cases."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    functions = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    return functions | {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def test_every_defect_of_the_page_names_a_test_that_exists() -> None:
    lines = cache_section()
    assert len(lines) >= 30
    for line in lines:
        cell = line.split(" | ")[-1]
        named = NAMED_TEST.findall(cell)
        assert len(named) == cell.count("`") // 2 > 0, f"no test, or something else: {line}"
        for file, test, case in named:
            names = names_in(ROOT / "tests" / file)
            assert test in names, f"tests/{file}::{test}"
            assert not case or case in names, f"tests/{file}::{test}[{case}]"


def test_every_defect_that_is_put_back_here_is_on_the_page() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for file in ("cache/test_cache_defects.py", "teacher/test_teacher_defects.py"):
        tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
        tables = [
            node for node in tree.body if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "CAUGHT"
        ]
        (table,) = tables
        assert isinstance(table.value, ast.List)
        for row in table.value.elts:
            assert isinstance(row, ast.Tuple)
            assert f"[{ast.unparse(row.elts[0])}]" in page, f"{file}: {ast.unparse(row.elts[0])}"
