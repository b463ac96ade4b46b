"""Every file of a workspace compared with its manifest.

In: a workspace, or any folder in it. Out: what was read, and what is not as it was committed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tutelage.errors import DataError, IntegrityError
from tutelage.store import DAMAGED_FOLDER, MANIFEST, verify_artifact


@dataclass(frozen=True)
class Verified:
    """What the comparison found."""

    num_folders: int
    num_bytes: int
    damaged: dict[Path, str]  # folder -> what is wrong with it


def verify_workspace(workspace: Path, *, show: Callable[[str], None]) -> Verified:
    """Read every committed file below a folder.

    What was set aside as damaged, and what is not finished (no ``MANIFEST.json``), is left out.

    Raises:
        DataError: If the folder does not exist or holds nothing that was committed.
    """
    if not workspace.is_dir():
        raise DataError(f"{workspace} is no folder. Expected a workspace, such as `runs`, or a folder in it.")
    folders = sorted(path.parent for path in workspace.rglob(MANIFEST) if _counts(path.relative_to(workspace)))
    if not folders:
        raise DataError(f"{workspace} holds nothing that was committed. Expected a workspace such as `runs`.")
    num_bytes, damaged, shown = 0, {}, 0
    for number, folder in enumerate(folders, start=1):
        try:
            manifest = verify_artifact(folder)
            num_bytes += sum(entry["bytes"] for entry in manifest.files.values())
        except IntegrityError as error:
            damaged[folder] = str(error)
        if 10 * number // len(folders) > shown:
            shown = 10 * number // len(folders)
            show(f"  {number:,}/{len(folders):,} folders, {num_bytes / 2**30:.1f} GiB")
    return Verified(len(folders), num_bytes, damaged)


def _counts(path: Path) -> bool:
    return DAMAGED_FOLDER not in path.parts and not any(".tmp." in part for part in path.parts)
