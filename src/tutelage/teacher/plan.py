"""Decide which shards to write: a pure function of the rows, the columns and what is stored.

In: teacher rows, columns, committed shards. Out: jobs, one per shard; nothing is computed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tutelage.align import check_ids, check_key
from tutelage.cache.column import Column
from tutelage.cache.layout import INDEX_DTYPE, coverage_bytes, shard_name
from tutelage.cache.read import covers, serving_folders
from tutelage.cache.shard import Shard, open_shard, scan_shards
from tutelage.errors import AlignmentError, CacheError
from tutelage.types import TeacherRow

MANIFEST_BYTES = 4096  # generous: a manifest with its provenance


@dataclass(frozen=True)
class ShardJob:
    """One planned shard: the rows that each column still lacks, apart from this shard's own work.

    ``wanted`` does not depend on how far this job got before a kill, so neither do the shard's
    name and the shapes of its batches; ``finished`` does.
    """

    plan: str
    rows: tuple[TeacherRow, ...]  # the union over the columns, sorted by key
    wanted: dict[Column, tuple[TeacherRow, ...]]
    finished: frozenset[Column]

    @property
    def open_columns(self) -> list[Column]:
        """Columns that must be written, in the given order."""
        return [column for column, rows in self.wanted.items() if rows and column not in self.finished]

    @property
    def forecast_bytes(self) -> int:
        """Bytes that the open columns will take on disk."""
        return sum(
            MANIFEST_BYTES + sum(row_bytes(row, column) for row in self.wanted[column]) for column in self.open_columns
        )


def row_bytes(row: TeacherRow, column: Column) -> int:
    """Count the bytes of one stored row with its index entry."""
    return (
        INDEX_DTYPE.itemsize + coverage_bytes(row.ids.shape[0]) + math.ceil(row.positions.shape[0] * column.max_bytes)
    )


def merge_rows(rows: Sequence[TeacherRow], *, keep_empty: bool = False) -> list[TeacherRow]:
    """Give every key once, sorted by key; the positions of equal keys are united, rows without any dropped.

    Raises:
        AlignmentError: If rows with one key have different ids.
    """
    positions: dict[bytes, list[np.ndarray]] = {}
    ids: dict[bytes, np.ndarray] = {}
    for row in rows:
        positions.setdefault(row.key, []).append(row.positions)
        if not np.array_equal(ids.setdefault(row.key, row.ids), row.ids):
            raise AlignmentError(f"Two teacher rows share the key {row.key.hex()} but not their ids.")
    united = {key: np.unique(np.concatenate(parts)).astype(np.int64) for key, parts in positions.items()}
    return [TeacherRow(ids[key], united[key], key) for key in sorted(ids) if keep_empty or united[key].size]


def narrow_rows(rows: Sequence[TeacherRow], column: Column) -> list[TeacherRow]:
    """Keep of every row the positions that ``column`` stores, then merge."""
    return merge_rows([TeacherRow(row.ids, column.positions_of(row), row.key) for row in rows])


def planned_rows(rows: Sequence[TeacherRow], columns: Sequence[Column]) -> list[TeacherRow]:
    """Give every row once, sorted by key, of which a column stores something.

    A row without wanted positions has no logits to keep, but hidden states.
    """
    merged = merge_rows(rows, keep_empty=True)
    return [row for row in merged if row.positions.size or any(column.positions_of(row).size for column in columns)]


def check_rows(rows: Sequence[TeacherRow], *, num_ids: int) -> None:
    """Refuse rows that the teacher cannot read.

    Raises:
        AlignmentError: If a row's key is not that of its ids, an id is foreign to the teacher, or a position is outside
            of its row.
    """
    for row in rows:
        check_key(row)
        check_ids(row.ids, num_ids, f"teacher row {row.key.hex()}")
        positions = row.positions
        outside = positions.size and (positions.min() < 0 or positions.max() >= len(row.ids))
        if outside or (np.diff(positions) <= 0).any():
            raise AlignmentError(
                f"Teacher row {row.key.hex()} has {len(row.ids)} ids and the logit positions {positions.tolist()[:8]}. "
                "Expected them sorted, unique and inside of the row."
            )


def distinct_columns(columns: Sequence[Column]) -> list[Column]:
    """Drop the columns that another one of the list serves, such as a smaller k."""
    kept: list[Column] = []
    for column in columns:
        if not any(other.serves(column) for other in kept):
            kept = [other for other in kept if not column.serves(other)] + [column]
    return kept


def plan_jobs(
    rows: Sequence[TeacherRow], columns: Sequence[Column], stored: dict[Column, list[Shard]], *, shard_rows: int
) -> list[ShardJob]:
    """Order the rows by key, cut them into shards, and leave out what other shards cover."""
    merged = planned_rows(rows, columns)
    parts = [merged[start : start + shard_rows] for start in range(0, len(merged), shard_rows)]
    plans = {row.key: plan for part in parts for plan in [shard_name(part)] for row in part}
    jobs: dict[str, dict[Column, list[TeacherRow]]] = {plan: {} for plan in dict.fromkeys(plans.values())}
    for column in columns:
        narrowed = narrow_rows(rows, column)
        elsewhere = covered_elsewhere(column, narrowed, stored[column], plans)
        for row in narrowed:
            if row.key not in elsewhere:
                jobs[plans[row.key]].setdefault(column, []).append(row)
    return [make_job(plan, wanted, stored) for plan, wanted in jobs.items()]


def make_job(plan: str, wanted: dict[Column, list[TeacherRow]], stored: dict[Column, list[Shard]]) -> ShardJob:
    """Build one job; a column is finished when the very shard that it would write is committed."""
    finished = frozenset(
        column
        for column, rows in wanted.items()
        if any(shard.folder.name == shard_name(rows) and shard.column == column for shard in stored[column])
    )
    union = merge_rows([row for rows in wanted.values() for row in rows])
    return ShardJob(plan, tuple(union), {column: tuple(rows) for column, rows in wanted.items()}, finished)


def without_committed(job: ShardJob, folders: dict[Column, Path]) -> ShardJob:
    """Add what another process has committed since the plan was made to the finished columns.

    Args:
        job: A claimed shard.
        folders: Of the columns.
    """
    committed = [
        column for column in job.open_columns if is_committed(folders[column] / shard_name(job.wanted[column]))
    ]
    return replace(job, finished=job.finished.union(committed))


def is_committed(folder: Path) -> bool:
    """Say whether a good shard is there; its rows are checked when they are read."""
    try:
        open_shard(folder)
    except CacheError:
        return False
    return True


def covered_elsewhere(
    column: Column, rows: Sequence[TeacherRow], shards: Sequence[Shard], plans: dict[bytes, str]
) -> set[bytes]:
    """Find the rows that a shard covers which is not the work of the row's own planned shard."""
    positions = {row.key: row.positions for row in rows}
    found: set[bytes] = set()
    for shard in shards:
        for number, key in enumerate(shard.keys):
            if key not in positions or key in found or (shard.plan == plans[key] and shard.column == column):
                continue
            if covers(shard.read_row(number)[0], positions[key]):
                found.add(key)
    return found


def intact_shards(root: Path, teacher: str, column: Column) -> tuple[list[Shard], list[Path]]:
    """Open every shard that serves ``column`` and read all of its rows.

    Returns:
        The good shards, and the folders of the damaged ones among the column's own.
    """
    good: list[Shard] = []
    bad: list[Path] = []
    own, *others = serving_folders(root, teacher, column)
    for folder in (own, *others):
        shards, damaged = scan_shards(folder)
        for shard in shards:
            try:
                shard.check_rows()
            except CacheError as error:
                damaged[shard.folder] = str(error)
            else:
                good.append(shard)
        if folder == own:
            bad = sorted(damaged)
    return good, bad
