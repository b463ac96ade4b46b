"""Durable folders, and what a full disk becomes.

In: paths. Out: folders whose mode follows the umask, entries that survive a power cut, :class:`DiskError`.
"""

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from tutelage.errors import DiskError, TutelageError

FREE_SPACE_FACTOR = 1.1  # RELIABILITY R5: refuse when free < 1.1 x need
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
# Libraries that lose the errno on the way: Rust (safetensors, tokenizers) raises its own class, numpy's
# tofile and save raise "N requested and M written".
DISK_FULL_TEXTS = ("No space left on device", "Disk quota exceeded", " requested and ")


def make_folder(path: Path) -> Path:
    """Create ``path`` and its parents durably; their mode follows the umask, existing folders keep theirs.

    Raises:
        DiskError: If the disk is full.
    """
    missing = []
    folder = path
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    with disk_errors(path):
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)
            sync_folder(folder.parent)
    return path


def is_writable(folder: Path) -> bool:
    """Say whether this process may make files in an existing folder."""
    return os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids)


def sync_folder(path: Path) -> None:
    """Make the entries of a folder durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Delete a file or a folder, as far as possible; what is left is a temporary for the next sweep."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def walk(folder: Path) -> Iterator[Path]:
    """Yield everything below a folder; what other processes take away meanwhile is passed over.

    ``Path.rglob`` raises instead when a folder vanishes between being listed and being entered.
    """
    for parent, folders, files in os.walk(folder):
        yield from (Path(parent, name) for name in (*folders, *files))


def folder_bytes(folder: Path) -> int:
    """Add up the sizes of the files below a folder, links left out."""
    total = 0
    for path in walk(folder):
        with contextlib.suppress(FileNotFoundError):
            found = path.lstat()
            total += found.st_size if stat.S_ISREG(found.st_mode) else 0
    return total


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk into :class:`DiskError`, exit code 4; other errors pass unchanged."""
    try:
        yield
    except BaseException as error:
        if _is_disk_full(error):
            raise DiskError(
                f"No space left while writing {path} ({error}). Nothing half-written was kept; free some space "
                "(see `tutelage ls`) and run the same command again."
            ) from error
        raise


def _is_disk_full(error: BaseException) -> bool:
    if isinstance(error, TutelageError):
        return False
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in DISK_FULL
    return any(text in str(error) for text in DISK_FULL_TEXTS)


def require_free_space(path: Path, needed_bytes: int) -> None:
    """Refuse to start a write that the disk cannot hold.

    Raises:
        DiskError: If less than 1.1 x ``needed_bytes`` is free at ``path``.
    """
    folder = path
    while not folder.exists():
        folder = folder.parent
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < FREE_SPACE_FACTOR * needed_bytes:
        raise DiskError(
            f"{path} needs about {needed_bytes / 2**20:,.0f} MiB but only {free_bytes / 2**20:,.0f} MiB are free. "
            "Free some space or point `workspace` at a larger disk."
        )
