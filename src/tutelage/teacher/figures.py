"""What a teach stage did and what it cost.

In: the finished passes, the cache. Out: a ``TeachReport``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tutelage.cache.column import Column
from tutelage.cache.layout import column_folder
from tutelage.cache.read import CacheReader
from tutelage.cache.report import bytes_per_position, covered_mass
from tutelage.cache.topk import TopKColumn
from tutelage.store import folder_bytes
from tutelage.teacher.passes import TeacherPass
from tutelage.teacher.plan import narrow_rows, planned_rows
from tutelage.types import TeacherRow


@dataclass(frozen=True)
class TeachReport:
    """What a teach stage did and what it cost; per column by ``Column.name``."""

    num_rows: int  # distinct rows asked for
    num_positions: int
    computed: int  # rows that went through the teacher in this process now
    reused: int  # all others: stored before, or made by another process meanwhile
    bytes: int  # on disk, all asked-for columns
    seconds: float
    tokens_per_second: float  # real tokens through the teacher, padding not counted; 0 when all was reused
    bytes_per_position: dict[str, dict[str, float]] = field(default_factory=dict)
    covered_mass: dict[str, dict[float, float]] = field(default_factory=dict)
    stored_positions: dict[str, int] = field(default_factory=dict)  # of these rows; hidden states have their own
    digests: dict[str, str] = field(default_factory=dict)  # of what a reader gets for these rows
    repaired: tuple[str, ...] = ()  # folders that were damaged and were made anew


def make_report(
    passes: TeacherPass,
    rows: Sequence[TeacherRow],
    columns: Sequence[Column],
    root: Path,
    fingerprint: str,
    seconds: float,
    repaired: Sequence[Path],
) -> TeachReport:
    """Gather the figures of a finished teach stage."""
    merged = planned_rows(rows, columns)
    folders = [column_folder(root, fingerprint, column) for column in columns]
    stored = {column: sum(len(row.positions) for row in narrow_rows(rows, column)) for column in columns}
    topk = [column for column in columns if isinstance(column, TopKColumn) and stored[column]]
    return TeachReport(
        num_rows=len(merged),
        num_positions=sum(len(row.positions) for row in merged),
        computed=passes.num_computed,
        reused=len(merged) - passes.num_computed,
        bytes=sum(map(folder_bytes, folders)),
        seconds=seconds,
        tokens_per_second=passes.tokens_per_second,
        bytes_per_position={column.name: bytes_per_position(root, fingerprint, column) for column in columns},
        covered_mass={column.name: covered_mass(root, fingerprint, column) for column in topk},
        stored_positions={column.name: count for column, count in stored.items()},
        digests={column.name: rows_digest(rows, column, root, fingerprint) for column in columns},
        repaired=tuple(str(path.relative_to(root)) for path in repaired),
    )


def rows_digest(rows: Sequence[TeacherRow], column: Column, root: Path, fingerprint: str) -> str:
    """Hash what a reader gets for these rows; see ``CacheReader.digest``."""
    narrowed = narrow_rows(rows, column)
    reader = CacheReader(root, fingerprint, column)
    return reader.digest([row.key for row in narrowed], [row.positions for row in narrowed])
