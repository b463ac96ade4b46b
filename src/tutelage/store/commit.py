"""The one way in which anything is written: all of it, or none of it.

In: bytes, or a function that fills a folder. Out: a file or a folder with ``MANIFEST.json``.
"""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tutelage.errors import IntegrityError
from tutelage.store.crash import crash_point
from tutelage.store.digest import file_digests
from tutelage.store.disk import disk_errors, make_folder, remove, sync_folder
from tutelage.store.manifest import MANIFEST, Manifest, content_digest, manifest_text, to_json
from tutelage.store.temporaries import temporary_name


def write_file(path: Path, content: bytes | str, *, point: str = "file") -> None:
    """Replace ``path`` atomically and durably; readers see the old file or the new one.

    Raises:
        DiskError: If the disk is full; the file is the old one, or the new one in full.
    """
    content = content.encode() if isinstance(content, str) else content
    make_folder(path.parent)
    temporary = temporary_name(path)
    with disk_errors(path):
        try:
            with temporary.open("wb") as stream:
                crash_point(f"{point}.before_write")
                middle = len(content) // 2
                stream.write(memoryview(content)[:middle])
                stream.flush()  # so that a crash here leaves a torn file, as it would in real life
                crash_point(f"{point}.mid_write")
                stream.write(memoryview(content)[middle:])
                stream.flush()
                crash_point(f"{point}.before_fsync")
                os.fsync(stream.fileno())
            crash_point(f"{point}.before_rename")
            temporary.replace(path)
            crash_point(f"{point}.after_rename")
            sync_folder(path.parent)
        except BaseException:
            remove(temporary)
            raise


def write_json(path: Path, content: Any, *, point: str = "file") -> None:
    """Write ``content`` as stable, human-readable JSON through :func:`write_file`."""
    write_file(path, to_json(content), point=point)


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

    Every file and subfolder is fsynced, ``MANIFEST.json`` (bytes and SHA-256 of each file,
    ``fields``) is written last, the folder is renamed into place and its parent fsynced. What is
    already at ``path`` is replaced only then, and put back if that fails.

    Raises:
        DiskError: If the disk is full, also when the body raised it in a library's own words.
        IntegrityError: If the folder holds a symbolic link.
    """
    make_folder(path.parent)
    temporary = temporary_name(path)
    with disk_errors(path):
        try:
            make_folder(temporary)
            crash_point(f"{point}.before_body")
            yield temporary
            _seal(temporary, kind, format_version, fields or {}, point)
            _publish(temporary, path, point)
        except BaseException:
            remove(temporary)
            raise


def _seal(temporary: Path, kind: str, format_version: int, fields: dict[str, Any], point: str) -> None:
    """Make every file durable and as readable as its folder, then write the manifest that declares them."""
    crash_point(f"{point}.before_fsync")
    # Some libraries write files that only their owner may read; the umask decided for the folder.
    mode = stat.S_IMODE(temporary.stat().st_mode) & 0o666
    files = {}
    for entry in sorted(temporary.rglob("*")):
        name = entry.relative_to(temporary).as_posix()
        if entry.is_symlink():
            raise IntegrityError(f"{entry} is a symbolic link; an artifact holds its files itself. Copy the file.")
        if entry.is_dir():
            sync_folder(entry)
        elif name != MANIFEST:  # one that was copied in with other files is replaced below
            with entry.open("rb") as stream:
                os.fchmod(stream.fileno(), mode)
                os.fsync(stream.fileno())
                digests = file_digests(stream)
            files[name] = {"bytes": entry.stat().st_size, **digests}
            crash_point(f"{point}.after_file_fsync")
    crash_point(f"{point}.before_manifest")
    manifest = Manifest(kind, format_version, files, content_digest(files), fields)
    write_file(temporary / MANIFEST, manifest_text(manifest), point=f"{point}.manifest")


def _publish(temporary: Path, path: Path, point: str) -> None:
    """Rename the sealed folder into place; the old one goes once the new one is durable."""
    crash_point(f"{point}.before_rename")
    aside = temporary_name(path, aside=True)
    try:
        if path.exists():  # a folder cannot be replaced in one call; the old one steps aside first
            path.rename(aside)
            crash_point(f"{point}.between_renames")
        temporary.rename(path)
    except BaseException:
        if aside.exists() and not path.exists():
            aside.rename(path)
        raise
    crash_point(f"{point}.after_rename")
    sync_folder(path.parent)
    crash_point(f"{point}.before_cleanup")
    if aside.exists():
        remove(aside)
