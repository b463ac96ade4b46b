"""Keys of things: a stable hash of plain values and of files.

In: JSON-like values, paths. Out: hex digests.
"""

import hashlib
import json
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import xxhash

CHUNK_BYTES = 2**20


def value_digest(value: Any, *, length: int = 16) -> str:
    """Hash a JSON-like value; equal values give equal digests, whatever the order of their keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def file_sha256(path: Path) -> str:
    """Hash a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def file_digests(stream: BinaryIO) -> dict[str, str]:
    """Read a file once and return its SHA-256 and its XXH3 (128 bits)."""
    sha256, xxh3 = hashlib.sha256(), xxhash.xxh3_128()
    while chunk := stream.read(CHUNK_BYTES):
        sha256.update(chunk)
        xxh3.update(chunk)
    return {"sha256": sha256.hexdigest(), "xxh3": xxh3.hexdigest()}


def known_sha256(path: Path) -> str:
    """Hash a file of the user's; read again only when its size or its time of change is another."""
    found = path.stat()
    return _known_sha256(path.resolve(), found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=4096)
def _known_sha256(path: Path, num_bytes: int, modified_ns: int) -> str:
    return file_sha256(path)


def files_digest(paths: Iterable[Path], *, length: int = 16) -> str:
    """Hash the names and bytes of several files; neither their order nor their folder matters."""
    return value_digest(sorted((path.name, known_sha256(path)) for path in paths), length=length)
