"""Committed folders that another stage reads: every file is compared with the manifest before it is believed.

In: a committed folder. Out: its manifest, or an error that names the file and the stage; what is damaged steps aside.
"""

from collections.abc import Callable
from pathlib import Path

from tutelage.errors import IntegrityError
from tutelage.store.disk import sync_folder
from tutelage.store.manifest import Manifest, compare_file, require_manifest

DAMAGED_FOLDER = "damaged"  # beside what was damaged; `tutelage runs gc` empties it

# A file is read for its hash once per process, and again when its size or time of change is another.
_compared: dict[tuple[Path, str], tuple[int, int]] = {}


def check_inputs(folder: Path, *, read: Callable[[str], bool] | None = None) -> Manifest:
    """Compare the files of a committed folder with its manifest, once per process.

    Args:
        folder: Of a finished stage or run.
        read: Tells by its name which files will be read; default all.

    Raises:
        IntegrityError: If there is no valid manifest or a file is not what was committed.
    """
    manifest = require_manifest(folder)
    for name, entry in manifest.files.items():
        if read is not None and not read(name):
            continue
        found = (folder / name).stat()
        place, state = (folder.absolute(), f"{name} {entry['sha256']}"), (found.st_size, found.st_mtime_ns)
        if _compared.get(place) != state:
            compare_file(folder, name, manifest, quick=True)
            _compared[place] = state
    return manifest


def read_input(folder: Path, name: str) -> bytes:
    """Return the bytes of one file of a committed folder, compared with its manifest.

    Raises:
        IntegrityError: If the folder has no such file, or it is not what was committed.
    """
    manifest = check_inputs(folder, read=lambda each: each == name)
    if name not in manifest.files:
        raise IntegrityError(f"{folder} holds no {name}. It was made by another version; delete it and run again.")
    return (folder / name).read_bytes()


def set_aside(folder: Path) -> Path:
    """Move a damaged folder out of the way, so that it can be made anew; return where it lies now."""
    place = folder.parent / DAMAGED_FOLDER
    place.mkdir(exist_ok=True)
    number = 1
    while (target := place / f"{folder.name}.{number}").exists():
        number += 1
    folder.rename(target)
    sync_folder(place)
    sync_folder(folder.parent)
    return target
