"""The one way in which anything is written: all of it, or none of it.

In: bytes, or a function that fills a folder. Out: a file or a folder with ``MANIFEST.json``.
"""

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tutelage.errors import DiskError, IntegrityError
from tutelage.store.crash import crash_point

MANIFEST = "MANIFEST.json"
MANIFEST_VERSION = 1
FOLDER_MODE = 0o700
FREE_SPACE_FACTOR = 1.1  # RELIABILITY R5: refuse when free < 1.1 x need
NOT_CONTENT = frozenset({MANIFEST, "provenance.json"})  # times and host: left out of the digest


@dataclass(frozen=True)
class Manifest:
    """What a committed folder holds: one entry per file, and what it was made from."""

    kind: str
    format_version: int
    files: dict[str, dict[str, Any]]  # name -> {"bytes": int, "sha256": hex}
    content_digest: str
    fields: dict[str, Any]


def make_folder(path: Path) -> Path:
    """Create ``path`` and its parents with mode 0700; existing folders keep theirs."""
    missing = []
    folder = path
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for folder in reversed(missing):
        with disk_errors(folder):
            folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
    return path


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk into :class:`DiskError`, exit code 4."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskError(
                f"No space left while writing {path}. Nothing half-written was kept; free some space "
                "(see `tutelage ls`) and run the same command again."
            ) from error
        raise


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


def write_file(path: Path, content: bytes | str, *, point: str = "file") -> None:
    """Replace ``path`` atomically and durably; readers see the old file or the new one.

    Raises:
        DiskError: If the disk is full; the old file is untouched.
    """
    content = content.encode() if isinstance(content, str) else content
    make_folder(path.parent)
    temporary = temporary_name(path)
    with disk_errors(path):
        try:
            with temporary.open("wb") as stream:
                crash_point(f"{point}.before_write")
                stream.write(content)
                stream.flush()
                crash_point(f"{point}.before_fsync")
                os.fsync(stream.fileno())
            crash_point(f"{point}.before_rename")
            temporary.replace(path)
            crash_point(f"{point}.after_rename")
            sync_folder(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def write_json(path: Path, content: Any, *, point: str = "file") -> None:
    """Write ``content`` as stable, human-readable JSON through :func:`write_file`."""
    write_file(path, to_json(content), point=point)


def to_json(content: Any) -> str:
    """Dump with sorted keys, two spaces, a final newline; NaN and infinity are refused."""
    return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


@contextlib.contextmanager
def new_artifact(
    path: Path,
    *,
    kind: str,
    format_version: int = 1,
    fields: dict[str, Any] | None = None,
    point: str = "artifact",
) -> Iterator[Path]:
    """Yield a temporary folder; on a clean exit commit it as ``path``, on an error leave no trace.

    Every file is fsynced, ``MANIFEST.json`` (bytes and SHA-256 of each file, ``fields``) is
    written last, the folder is renamed into place and its parent fsynced. A valid artifact that
    is already at ``path`` is replaced only then.

    Raises:
        DiskError: If the disk is full.
    """
    make_folder(path.parent)
    temporary = temporary_name(path)
    make_folder(temporary)
    with disk_errors(path):
        try:
            yield temporary
            _commit(temporary, path, kind, format_version, fields or {}, point)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def _commit(temporary: Path, path: Path, kind: str, format_version: int, fields: dict[str, Any], point: str) -> None:
    crash_point(f"{point}.before_fsync")
    files = {}
    for file in sorted(p for p in temporary.rglob("*") if p.is_file()):
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        files[file.relative_to(temporary).as_posix()] = {"bytes": file.stat().st_size, "sha256": digest}
    manifest = {
        "manifest_version": MANIFEST_VERSION,
        "kind": kind,
        "format_version": format_version,
        "files": files,
        "content_digest": content_digest(files),
        "fields": fields,
    }
    crash_point(f"{point}.before_manifest")
    write_file(temporary / MANIFEST, to_json(manifest), point=f"{point}.manifest")
    crash_point(f"{point}.before_rename")
    replaced = None
    if path.exists():  # a folder cannot be replaced in one call; the old one steps aside first
        replaced = temporary_name(path)
        path.rename(replaced)
        crash_point(f"{point}.between_renames")
    temporary.rename(path)
    crash_point(f"{point}.after_rename")
    sync_folder(path.parent)
    if replaced is not None:
        shutil.rmtree(replaced, ignore_errors=True)


def content_digest(files: dict[str, dict[str, Any]]) -> str:
    """Hash names, sizes and SHA-256 of the files; times and host (``provenance.json``) are left out."""
    content = {name: entry for name, entry in files.items() if Path(name).name not in NOT_CONTENT}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_manifest(path: Path) -> Manifest | None:
    """Return the manifest of an artifact, or None when nothing valid was committed there.

    Names and sizes of the files are compared; :func:`verify_artifact` also reads their content.
    """
    try:
        raw = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        manifest = Manifest(
            raw["kind"], raw["format_version"], raw["files"], raw["content_digest"], raw.get("fields", {})
        )
        if raw["manifest_version"] != MANIFEST_VERSION or manifest.content_digest != content_digest(manifest.files):
            return None
        complete = all((path / name).stat().st_size == entry["bytes"] for name, entry in manifest.files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return manifest if complete else None


def verify_artifact(path: Path) -> Manifest:
    """Read every file of an artifact and compare it with its manifest.

    Raises:
        IntegrityError: If there is no valid manifest, or a file differs from it.
    """
    manifest = read_manifest(path)
    if manifest is None:
        raise IntegrityError(f"{path} has no valid {MANIFEST}: it was never finished, or was changed. Delete it and run again.")
    for name, entry in manifest.files.items():
        with (path / name).open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != entry["sha256"]:
            raise IntegrityError(
                f"{path / name} is damaged: SHA-256 {found[:12]}..., its manifest says {entry['sha256'][:12]}... "
                f"Delete {path} and run again; only this part is made anew."
            )
    return manifest


def temporary_name(path: Path) -> Path:
    """Name a sibling of ``path`` that nobody else uses: ``NAME.tmp.PID.RANDOM``."""
    return path.with_name(f"{path.name}.tmp.{os.getpid()}.{secrets.token_hex(4)}")


def sweep_temporaries(folder: Path) -> int:
    """Delete temporaries below ``folder`` whose owner is dead; return how many went.

    A folder that stepped aside for its replacement is put back when the replacement never came.
    """
    swept = 0
    if not folder.is_dir():
        return 0
    for path in sorted(folder.rglob("*.tmp.*")):
        name, _, owner = path.name.rpartition(".tmp.")
        pid = owner.split(".")[0]
        if not path.exists() or not pid.isdigit() or psutil.pid_exists(int(pid)):
            continue
        if path.is_dir():
            target = path.with_name(name)
            if not target.exists() and read_manifest(path) is not None:
                path.rename(target)
            else:
                shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        swept += 1
    return swept


def sync_folder(path: Path) -> None:
    """Make the entries of a folder durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
