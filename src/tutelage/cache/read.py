"""Read a column by key and position: memory-mapped, decoded in one go, checked at every read.

In: row keys and logit positions. Out: a dict of tensors over the positions laid end to end.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from tutelage.cache.column import Column, TensorDict
from tutelage.cache.layout import column_folder, column_folders, shard_folders
from tutelage.cache.shard import Shard, open_shard, scan_shards
from tutelage.errors import CacheError
from tutelage.types import ROW_KEY_BYTES

KEY_DTYPE = np.dtype(f"S{ROW_KEY_BYTES}")  # compares as 16 raw bytes; V16 cannot be sorted


@dataclass(frozen=True)
class StoredRow:
    """A row as one shard holds it."""

    column: Column
    checksum: int
    coverage: np.ndarray  # bool [row_length]
    block: np.ndarray  # uint8 [bytes]: all of the row's positions


@dataclass
class Gathered:
    """Rows out of one stored column, on the way to being decoded together."""

    blocks: list[np.ndarray] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    places: list[np.ndarray] = field(default_factory=list)  # the wanted among the stored positions laid end to end
    targets: list[np.ndarray] = field(default_factory=list)  # where they go in the answer
    num_stored: int = 0

    def add(self, row: StoredRow, positions: np.ndarray, num_read: int) -> None:
        """Take the wanted positions of a row; ``num_read`` positions come before them in the answer."""
        self.blocks.append(row.block)
        self.counts.append(int(row.coverage.sum()))
        self.places.append(self.num_stored + np.cumsum(row.coverage)[positions] - 1)
        self.targets.append(np.arange(num_read, num_read + len(positions)))
        self.num_stored += self.counts[-1]

    def decode(self, column: Column) -> TensorDict:
        """Decode the wanted positions in the order in which they were added."""
        return column.decode_places(self.blocks, np.array(self.counts, dtype=np.int64), np.concatenate(self.places))


class CacheReader:
    """Everything that can answer a request for ``column``: its own shards, then those that serve it.

    A key in several shards is read from the first that covers the wanted positions.
    """

    def __init__(self, root: Path, teacher: str, column: Column) -> None:
        """Open all shards.

        Raises:
            CacheError: If a shard of ``column`` is damaged; a folder that was never committed is
                passed over, and so are damaged shards of other columns (``passed_over``).
        """
        self.column = column
        self.folder = column_folder(root, teacher, column)
        self.shards, self.passed_over = open_serving_shards(root, teacher, column)
        keys = [np.ascontiguousarray(shard.index["key"]).view(KEY_DTYPE) for shard in self.shards]
        all_keys = np.concatenate(keys) if keys else np.empty(0, dtype=KEY_DTYPE)
        order = np.argsort(all_keys, kind="stable")  # equal keys stay in the order of preference
        self._keys = all_keys[order]
        self._shard_numbers = np.repeat(np.arange(len(keys)), [len(part) for part in keys])[order]
        self._row_numbers = np.concatenate([np.arange(len(part)) for part in keys] or [np.empty(0, np.int64)])[order]

    def keys(self) -> list[bytes]:
        """List the stored rows' keys, sorted, each once."""
        return sorted({key for shard in self.shards for key in shard.keys})

    def read(self, keys: Sequence[bytes], positions: Sequence[np.ndarray]) -> TensorDict:
        """Read positions of rows.

        Args:
            keys: One per row.
            positions: The wanted logit positions of each row, int [P].

        Returns:
            The column's tensors on the CPU over the N = sum of P positions, in the given order.

        Raises:
            CacheError: If a row is damaged, missing, or does not cover the positions.
        """
        gathered: dict[Column, Gathered] = {}
        num_read = 0
        for row, where in zip(self._find(keys, positions), positions, strict=True):
            gathered.setdefault(row.column, Gathered()).add(row, where, num_read)
            num_read += len(where)
        if not gathered:
            return self.column.decode_rows([], np.empty(0, dtype=np.int64))
        parts = [stored.narrow(found.decode(stored), self.column) for stored, found in gathered.items()]
        if len(parts) == 1:
            return parts[0]
        back = torch.from_numpy(np.argsort(np.concatenate([np.concatenate(g.targets) for g in gathered.values()])))
        return {name: torch.cat([part[name] for part in parts])[back] for name in parts[0]}

    def digest(self, keys: Sequence[bytes], positions: Sequence[np.ndarray]) -> str:
        """Hash what :meth:`read` reads, as 64 hex digits: each row's key and checksum, in the order of the keys.

        Rows of other runs that share the cache, and the cut into shards, do not enter.

        Raises:
            CacheError: If a row is damaged, missing, or does not cover the positions.
        """
        found = zip(keys, self._find(keys, positions), strict=True)
        checksums = {key: row.checksum.to_bytes(8, "little") for key, row in found}
        return hashlib.sha256(b"".join(key + checksums[key] for key in sorted(checksums))).hexdigest()

    def _find(self, keys: Sequence[bytes], positions: Sequence[np.ndarray]) -> Iterator["StoredRow"]:
        wanted = np.array(list(keys), dtype=KEY_DTYPE)
        starts = np.searchsorted(self._keys, wanted, side="left")
        stops = np.searchsorted(self._keys, wanted, side="right")
        for key, where, start, stop in zip(keys, positions, starts, stops, strict=True):
            yield self._find_row(key, where, int(start), int(stop))

    def _find_row(self, key: bytes, positions: np.ndarray, start: int, stop: int) -> "StoredRow":
        for candidate in range(start, stop):
            shard, number = self.shards[self._shard_numbers[candidate]], int(self._row_numbers[candidate])
            coverage, block = shard.read_row(number)
            if covers(coverage, positions):
                return StoredRow(shard.column, int(shard.index["checksum"][number]), coverage, block)
        if start == stop:
            found = f"holds {len(self._keys)} rows, but not row {key.hex()}"
        else:
            found = f"holds row {key.hex()}, but not all of its positions {np.asarray(positions).tolist()[:8]}"
        damaged = f" Damaged and passed over: {', '.join(map(str, self.passed_over))}." if self.passed_over else ""
        raise CacheError(
            f"The teacher cache {self.folder} {found}.{damaged} Run the teach stage again with the rows of this run; "
            "only what is missing is computed. Where the stage counts as finished, `tutelage cache verify --repair "
            "RECIPE` does it."
        )


def covers(coverage: np.ndarray, positions: np.ndarray) -> bool:
    """Say whether every wanted position is among the stored ones."""
    inside = positions.size == 0 or (int(positions.min()) >= 0 and int(positions.max()) < coverage.shape[0])
    return inside and bool(coverage[positions].all())


def open_serving_shards(root: Path, teacher: str, column: Column) -> tuple[list[Shard], list[Path]]:
    """Open the shards of ``column``, then those of every other column that serves it.

    Returns:
        The shards, and the damaged ones of other columns, which were passed over.

    Raises:
        CacheError: If a shard of ``column`` itself is damaged.
    """
    own, *others = serving_folders(root, teacher, column)
    shards, damaged = scan_shards(own)
    if damaged:
        raise CacheError("\n".join(damaged.values()))
    passed_over: list[Path] = []
    for folder in others:
        found, damaged = scan_shards(folder)
        shards.extend(found)
        passed_over.extend(damaged)
    return shards, passed_over


def serving_folders(root: Path, teacher: str, column: Column) -> list[Path]:
    """List the column folders that can answer a request for ``column``, its own first."""
    own = column_folder(root, teacher, column)
    others = [
        column_folder(root, teacher, stored)
        for stored in stored_columns(root, teacher)
        if type(stored) is type(column) and stored != column and stored.serves(column)
    ]
    return [own, *others]


def stored_columns(root: Path, teacher: str) -> list[Column]:
    """List the columns of a teacher that hold at least one good shard, sorted by folder name."""
    found = (first_column(folder) for folder in column_folders(root, teacher))
    return [column for column in found if column is not None]


def first_column(folder: Path) -> Column | None:
    """Read off the first good shard of a folder which column it holds."""
    for path in shard_folders(folder):
        try:
            return open_shard(path).column
        except CacheError:
            continue
    return None
