"""Write a shard: encode, lay out, commit as one artifact.

In: teacher rows and tensors over their positions. Out: a committed shard folder.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from tutelage.cache.column import Column, TensorDict
from tutelage.cache.layout import (
    FORMAT_VERSION,
    INDEX,
    INDEX_DTYPE,
    PAYLOAD,
    SHARD_KIND,
    SHARD_POINT,
    column_folder,
    coverage_bytes,
    joined_positions,
    shard_folders,
    shard_name,
)
from tutelage.cache.shard import seal_fields
from tutelage.errors import NumericsError
from tutelage.store import MANIFEST, crash_point, make_folder, new_artifact, sweep_temporaries
from tutelage.types import TeacherRow

WRITE_BUFFER = 2**20  # rows of a few hundred bytes are handed to the system by the thousand


class ShardWriter:
    """The writer of one column; what earlier, dead writers left half-done is swept away first."""

    def __init__(self, root: Path, teacher: str, column: Column, *, provenance: dict[str, Any] | None = None) -> None:
        self.teacher = teacher
        self.column = column
        self.folder = make_folder(column_folder(root, teacher, column))
        self.provenance = json.loads(json.dumps(provenance or {}))  # as it will be read back
        sweep_temporaries(self.folder)
        for path in shard_folders(self.folder):
            if not (path / MANIFEST).exists():  # commits are atomic: this was never one
                shutil.rmtree(path)

    def write_shard(self, rows: Sequence[TeacherRow], tensors: TensorDict, *, plan: str | None = None) -> Path:
        """Commit the rows as one shard, all or nothing.

        Args:
            rows: The rows with the positions that ``tensors`` hold, in shard order, at least one.
            tensors: What ``column.encode`` takes, over the rows' positions laid end to end.
            plan: Name of the planned shard; by default that of ``rows``.

        Raises:
            NumericsError: If a position is not a distribution or not finite; the row is named.
            DiskError: If the disk is full; nothing is left behind.
        """
        index, stored = lay_out(rows, encode_rows(self.column, rows, tensors))
        name = shard_name(rows)
        fields = seal_fields(
            {
                "teacher": self.teacher,
                "column": json.loads(json.dumps(self.column.spec)),
                "shard": name,
                "plan": plan or name,
                "num_rows": len(rows),
                "num_positions": int(index["num_positions"].sum()),
                "provenance": self.provenance,
            }
        )
        path = self.folder / name
        with new_artifact(
            path, kind=SHARD_KIND, format_version=FORMAT_VERSION, fields=fields, point=SHARD_POINT
        ) as folder:
            crash_point(f"{SHARD_POINT}.before_payload")
            with (folder / PAYLOAD).open("wb", buffering=WRITE_BUFFER) as stream:
                stream.writelines(stored)
            crash_point(f"{SHARD_POINT}.before_index")
            np.save(folder / INDEX, index, allow_pickle=False)
        return path


def encode_rows(column: Column, rows: Sequence[TeacherRow], tensors: TensorDict) -> list[bytes]:
    """Encode the positions of ``rows``: one block per row.

    Raises:
        NumericsError: If a position must not be stored; its row and position are named.
    """
    counts = np.array([len(row.positions) for row in rows], dtype=np.int64)
    ends = np.cumsum(counts)
    problem = column.first_problem(tensors)
    if problem is not None:
        number = int(np.searchsorted(ends, problem[0], side="right"))
        row = rows[number]
        position = int(row.positions[problem[0] - int(ends[number])])
        raise NumericsError(
            f"The teacher's {column.kind} signal is refused: {problem[1]} at position {position} of row "
            f"{row.key.hex()} ({row.ids.shape[0]} ids). Expected finite values of a distribution; nothing of this "
            "shard was written. Check the teacher's weights and dtype."
        )
    assert all(tensor.shape[0] == ends[-1] for tensor in tensors.values()), (ends[-1], column.name)
    return column.encode_rows(tensors, counts)


def lay_out(rows: Sequence[TeacherRow], blocks: Sequence[bytes]) -> tuple[np.ndarray, list[bytes]]:
    """Build a shard's index and the rows of its payload: each its coverage bitset, then the column's block."""
    stored = [coverage + block for coverage, block in zip(pack_coverage(rows), blocks, strict=True)]
    index = np.zeros(len(rows), dtype=INDEX_DTYPE)
    index["key"] = np.frombuffer(b"".join(row.key for row in rows), dtype=INDEX_DTYPE["key"])
    index["nbytes"] = list(map(len, stored))
    index["offset"][1:] = np.cumsum(index["nbytes"][:-1], dtype=np.uint64)
    index["row_length"] = [len(row.ids) for row in rows]
    index["num_positions"] = [len(row.positions) for row in rows]
    index["checksum"] = list(map(xxhash.xxh3_64_intdigest, stored))
    return index, stored


def pack_coverage(rows: Sequence[TeacherRow]) -> list[bytes]:
    """Set one bit per stored position, least significant bit first: whole bytes for each row."""
    lengths = np.array([len(row.ids) for row in rows], dtype=np.int64)
    sizes = coverage_bytes(lengths)
    ends = np.cumsum(sizes)
    counts = np.array([len(row.positions) for row in rows], dtype=np.int64)
    positions = joined_positions(rows)
    assert ((positions >= 0) & (positions < np.repeat(lengths, counts))).all(), "a position outside of its row"
    covered = np.zeros(8 * sizes.sum(), dtype=bool)
    covered[np.repeat(8 * (ends - sizes), counts) + positions] = True
    packed = np.packbits(covered, bitorder="little").tobytes()
    return [packed[end - size : end] for end, size in zip(ends.tolist(), sizes.tolist(), strict=True)]
