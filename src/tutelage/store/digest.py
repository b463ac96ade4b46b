"""Keys of things: a stable hash of plain values and of files.

In: JSON-like values, paths. Out: hex digests.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def value_digest(value: Any, *, length: int = 16) -> str:
    """Hash a JSON-like value; equal values give equal digests, whatever the order of their keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def file_sha256(path: Path) -> str:
    """Hash a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def files_digest(paths: Iterable[Path], *, length: int = 16) -> str:
    """Hash the names and bytes of several files; neither their order nor their folder matters."""
    return value_digest(sorted((path.name, file_sha256(path)) for path in paths), length=length)
