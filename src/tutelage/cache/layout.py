"""Where a teacher's cache lies, and how its shards are named.

In: a root folder, a teacher's fingerprint, a column, rows. Out: paths and names.
"""

import hashlib
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from tutelage.cache.column import Column
from tutelage.store import safe_name
from tutelage.types import ROW_KEY_BYTES, TeacherRow

INDEX = "index.npy"
PAYLOAD = "payload.bin"
HEAD_FOLDER = "head"
SHARD_KIND = "cache-shard"
HEAD_KIND = "teacher-head"
FORMAT_VERSION = 1
SHARD_POINT = "cache.shard"  # prefix of the crash points of a shard's commit
HEAD_POINT = "cache.head"
TEMPORARY_MARK = ".tmp."  # store.commit names its temporaries NAME.tmp.PID.RANDOM
INDEX_DTYPE = np.dtype(
    [
        ("key", f"V{ROW_KEY_BYTES}"),
        ("offset", "<u8"),
        ("nbytes", "<u4"),
        ("row_length", "<u4"),
        ("num_positions", "<u4"),
        ("checksum", "<u8"),
    ]
)
TWO_COUNTS = struct.Struct("<qq")
Lengths = TypeVar("Lengths", int, np.ndarray)


def teacher_folder(root: Path, teacher: str) -> Path:
    """Return the folder of one teacher's cache; ``teacher`` is its fingerprint."""
    return root / safe_name(teacher, what="teacher fingerprint")


def column_folder(root: Path, teacher: str, column: Column) -> Path:
    """Return the folder that holds the shards of one column."""
    return teacher_folder(root, teacher) / safe_name(column.name, what="column")


def head_folder(root: Path, teacher: str) -> Path:
    """Return the folder of the copied output head."""
    return teacher_folder(root, teacher) / HEAD_FOLDER


def column_folders(root: Path, teacher: str) -> list[Path]:
    """List the column folders of a teacher, sorted by name; folders of locks begin with a dot."""
    folder = teacher_folder(root, teacher)
    if not folder.is_dir():
        return []
    return sorted(
        path for path in folder.iterdir() if path.is_dir() and path.name != HEAD_FOLDER and path.name[0] != "."
    )


def shard_folders(folder: Path) -> list[Path]:
    """List the folders of a column that were renamed into place, whatever they hold, sorted by name."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and TEMPORARY_MARK not in path.name)


def shard_name(rows: Sequence[TeacherRow]) -> str:
    """Name a shard by what is in it.

    Returns:
        32 hex digits: SHA-256 over each row's key, number of ids, number of positions and the
        positions as little-endian int64, in the given order.
    """
    parts = [
        part
        for row in rows
        for part in (row.key, TWO_COUNTS.pack(len(row.ids), len(row.positions)), row.positions.astype("<i8").tobytes())
    ]
    return hashlib.sha256(b"".join(parts)).hexdigest()[:32]


def joined_positions(rows: Sequence[TeacherRow]) -> np.ndarray:
    """Lay the rows' positions end to end, int64."""
    return np.concatenate([row.positions for row in rows] or [np.empty(0)]).astype(np.int64, copy=False)


def coverage_bytes(row_length: Lengths) -> Lengths:
    """Count the bytes of a row's coverage bitset: one bit per id."""
    return (row_length + 7) // 8
