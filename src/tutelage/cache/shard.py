"""One committed shard: opened with its index checked, read with every row's hash checked.

In: a shard folder. Out: coverage and records of a row.
"""

import hashlib
import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from tutelage.cache.column import Column
from tutelage.cache.columns import column_from_spec
from tutelage.cache.layout import FORMAT_VERSION, INDEX, INDEX_DTYPE, PAYLOAD, SHARD_KIND, coverage_bytes, shard_folders
from tutelage.errors import CacheError
from tutelage.store import MANIFEST, Manifest, read_manifest, value_digest

REMEDY = "Delete that folder and run the teach stage again; only this shard is made anew."


@dataclass(frozen=True)
class Shard:
    """A shard whose manifest and index were checked at :func:`open_shard`; the payload is not read yet."""

    folder: Path
    column: Column
    plan: str  # name of the planned shard that it was made for
    content_digest: str
    index: np.ndarray  # INDEX_DTYPE [R]

    @cached_property
    def payload(self) -> np.ndarray:
        """Map the payload; nothing is read until a row is."""
        return np.memmap(self.folder / PAYLOAD, dtype=np.uint8, mode="r")

    @cached_property
    def keys(self) -> list[bytes]:
        """List the rows' keys in shard order."""
        return [bytes(key) for key in self.index["key"]]

    def read_row(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Read one row; its hash is checked on a private copy, every time.

        Returns:
            Coverage, bool [row_length], and the column's block, uint8 [bytes].

        Raises:
            CacheError: If the bytes are not those that were committed.
        """
        entry = self.index[number]
        start = int(entry["offset"])
        row = self.payload[start : start + int(entry["nbytes"])].tobytes()
        if xxhash.xxh3_64_intdigest(row) != int(entry["checksum"]):
            raise CacheError(
                f"Row {self.keys[number].hex()} in the shard {self.folder} is damaged: its hash differs. {REMEDY}"
            )
        return split_row(row, int(entry["row_length"]))

    def check_rows(self) -> None:
        """Read every row once.

        Raises:
            CacheError: At the first row that is damaged.
        """
        for number in range(len(self.index)):
            self.read_row(number)


def split_row(row: bytes, row_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Split a payload row into its coverage, bool [row_length], and the column's block."""
    stored = np.frombuffer(row, dtype=np.uint8)
    size = coverage_bytes(row_length)
    coverage = np.unpackbits(stored[:size], count=row_length, bitorder="little").astype(bool)
    return coverage, stored[size:]


def seal_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """Add a digest over the manifest's own fields; ``content_digest`` covers only the files."""
    return {**fields, "fields_digest": value_digest(fields, length=64)}


def open_shard(folder: Path) -> Shard:
    """Open a committed shard: manifest, file sizes, identity and the index's SHA-256 are checked.

    Raises:
        CacheError: If any of them does not fit.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        raise CacheError(f"The shard {folder} is damaged: its {MANIFEST} does not fit its files. {REMEDY}")
    column, plan = _identity(folder, manifest)
    index = _read_index(folder, manifest)
    _check_extent(folder, index, column, manifest.files[PAYLOAD]["bytes"])
    return Shard(folder, column, plan, manifest.content_digest, index)


def _identity(folder: Path, manifest: Manifest) -> tuple[Column, str]:
    fields = dict(manifest.fields)
    sealed = fields.pop("fields_digest", None)
    if manifest.kind != SHARD_KIND or sealed != value_digest(fields, length=64):
        raise CacheError(f"The shard {folder} is damaged: the fields of its {MANIFEST} were changed. {REMEDY}")
    if manifest.format_version != FORMAT_VERSION:
        raise CacheError(
            f"The shard {folder} has format version {manifest.format_version}; this version reads {FORMAT_VERSION}. "
            "Use the version that wrote it, or another cache folder."
        )
    if set(manifest.files) != {INDEX, PAYLOAD} or not {"teacher", "column", "shard", "plan"} <= fields.keys():
        raise CacheError(f"The shard {folder} lacks files or fields of the cache format. {REMEDY}")
    column = column_from_spec(fields["column"])
    found = (folder.parent.parent.name, folder.parent.name, folder.name)
    expected = (fields["teacher"], column.name, fields["shard"])
    if found != expected:
        raise CacheError(f"The shard {folder} was written as {'/'.join(expected)}: folders were moved. {REMEDY}")
    return column, fields["plan"]


def _read_index(folder: Path, manifest: Manifest) -> np.ndarray:
    stored = (folder / INDEX).read_bytes()
    if hashlib.sha256(stored).hexdigest() != manifest.files[INDEX]["sha256"]:
        raise CacheError(f"The index of the shard {folder} is damaged: its SHA-256 differs. {REMEDY}")
    try:
        index = np.load(io.BytesIO(stored), allow_pickle=False)
    except ValueError as error:
        raise CacheError(f"The index of the shard {folder} cannot be read: {error}. {REMEDY}") from error
    if index.dtype != INDEX_DTYPE or index.ndim != 1:
        raise CacheError(f"The index of the shard {folder} has dtype {index.dtype}, expected {INDEX_DTYPE}. {REMEDY}")
    return index


def _check_extent(folder: Path, index: np.ndarray, column: Column, payload_bytes: int) -> None:
    lengths, counts = index["row_length"].astype(np.int64), index["num_positions"].astype(np.int64)
    num_bytes = index["nbytes"].astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(num_bytes)])
    fits = column.fits(num_bytes - (lengths + 7) // 8, counts) and np.array_equal(offsets[:-1], index["offset"])
    if not fits or offsets[-1] != payload_bytes:
        raise CacheError(f"The index of the shard {folder} does not describe its payload. {REMEDY}")


def scan_shards(folder: Path) -> tuple[list[Shard], dict[Path, str]]:
    """Open every shard of a column folder, sorted by name.

    A folder without a manifest was never committed and is passed over.

    Returns:
        The good shards, and the damaged ones with the reason.
    """
    shards, damaged = [], {}
    for path in shard_folders(folder):
        if not (path / MANIFEST).exists():
            continue
        try:
            shards.append(open_shard(path))
        except CacheError as error:
            damaged[path] = str(error)
    return shards, damaged
