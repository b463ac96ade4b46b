"""What a cache holds and what it costs: one record per column, for people who decide what to store.

In: a cache's folder. Out: the teachers in it; rows, positions and bytes of a column, by part.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tutelage.cache.column import Column
from tutelage.cache.layout import INDEX, PAYLOAD, column_folder, head_folder
from tutelage.cache.read import stored_columns
from tutelage.cache.report import bytes_per_position, covered_mass
from tutelage.cache.shard import scan_shards
from tutelage.cache.topk import TopKColumn
from tutelage.errors import DataError
from tutelage.store import folder_bytes

BY_LOGIT_POSITION = (
    "final_hidden",
    "topk",
    "sampled",
)  # kinds that a task with every token supervised stores per token
CACHE_FOLDER = "cache"  # of a workspace
SHARD_FILES = (INDEX, PAYLOAD)  # either marks a shard, damaged ones included; other artifacts have manifests too


@dataclass(frozen=True)
class TeacherCache:
    """One teacher's cache."""

    root: Path
    teacher: str  # fingerprint

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.root / self.teacher


@dataclass(frozen=True)
class ColumnFigures:
    """One column on disk, damaged shards left out."""

    teacher: str
    column: str
    kind: str
    num_rows: int  # stored rows; a key in two shards counts twice
    num_positions: int
    num_tokens: int  # ids of the stored rows
    num_bytes: int
    parts: dict[str, float]  # bytes per position: ids, values, ..., metadata
    covered_mass: dict[float, float] = field(default_factory=dict)  # by temperature, top-k only
    num_damaged: int = 0

    @property
    def bytes_per_position(self) -> float:
        """All parts together."""
        return sum(self.parts.values())

    def forecast(self, num_tokens: float) -> dict[str, float]:
        """Extrapolate to ``num_tokens`` ids.

        Returns:
            Bytes ``as_here``, with as large a share of positions; for signals by supervised position also
            ``every_token``, where every token is one.
        """
        found = {"as_here": self.num_bytes / max(self.num_tokens, 1) * num_tokens}
        if self.kind in BY_LOGIT_POSITION:
            found["every_token"] = self.bytes_per_position * num_tokens
        return found


def find_caches(folder: Path) -> list[TeacherCache]:
    """List the teachers below a folder: a cache's root, a workspace that holds one, or one teacher's folder.

    Raises:
        DataError: If there is none.
    """
    for root in (folder, folder / CACHE_FOLDER):
        teachers = sorted({path.parents[2].name for name in SHARD_FILES for path in root.glob(f"*/*/*/{name}")})
        if teachers:
            return [TeacherCache(root, name) for name in teachers]
    absolute = folder.resolve()
    if any(any(absolute.glob(f"*/*/{name}")) for name in SHARD_FILES):
        return [TeacherCache(absolute.parent, absolute.name)]
    raise DataError(
        f"{folder} holds no teacher cache. Expected a recipe, a workspace, its `{CACHE_FOLDER}` folder, or a teacher's "
        "folder in it; `tutelage run RECIPE --until teach` makes one."
    )


def cache_figures(cache: TeacherCache) -> list[ColumnFigures]:
    """Describe every column of a teacher, in the order of their names."""
    return [column_figures(cache.root, cache.teacher, column) for column in stored_columns(cache.root, cache.teacher)]


def column_figures(root: Path, teacher: str, column: Column) -> ColumnFigures:
    """Count a column's rows, positions and bytes; every row is read and its hash checked.

    Raises:
        CacheError: If a row is damaged although its shard's manifest and index are not.
    """
    shards, damaged = scan_shards(column_folder(root, teacher, column))
    indices = np.concatenate([shard.index for shard in shards])
    is_covering = isinstance(column, TopKColumn) and not damaged
    return ColumnFigures(
        teacher=teacher,
        column=column.name,
        kind=column.kind,
        num_rows=len(indices),
        num_positions=int(indices["num_positions"].sum()),
        num_tokens=int(indices["row_length"].sum(dtype=np.int64)),
        num_bytes=sum(folder_bytes(shard.folder) for shard in shards),
        parts=bytes_per_position(root, teacher, column),
        covered_mass=covered_mass(root, teacher, column) if is_covering else {},  # type: ignore[arg-type]
        num_damaged=len(damaged),
    )


def head_bytes(cache: TeacherCache) -> int:
    """Count the bytes of the copy of the teacher's head; 0 without one."""
    return folder_bytes(head_folder(cache.root, cache.teacher))
