"""What of a workspace nothing refers to any more.

In: a workspace. Out: folders that may be deleted, each with the reason. Runs are never among them.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tutelage.errors import LockedError
from tutelage.experiment.teach import FACTS_FILE
from tutelage.store import DAMAGED_FOLDER, Manifest, folder_bytes, folder_lock, read_manifest, sweep_temporaries

STAGE_FOLDERS = ("prepare", "teach", "shrink")
SHARED = ("cache", "models")


@dataclass(frozen=True)
class Garbage:
    """A folder that nothing refers to."""

    folder: Path
    reason: str
    num_bytes: int


def find_garbage(workspace: Path) -> list[Garbage]:
    """List what neither a run nor the newest result of a stage refers to, and what was set aside as damaged.

    The newest result of every stage and subject stays although no run has read it: the next run will. Results of an
    earlier version do not say what they read; beside them everything of their experiment and every model stays.
    """
    kept, old = _kept(workspace)
    found = [*_damaged(workspace)]
    for experiment in _experiments(workspace):
        if experiment in old:
            continue
        stages = [folder for stage in STAGE_FOLDERS for folder in _artifacts(experiment / stage)]
        found += [_garbage(folder, "no run reads it") for folder in stages if folder not in kept]
    if not old:
        models = _artifacts(workspace / "models")
        found += [_garbage(folder, "nothing was taught by it") for folder in models if folder not in kept]
    taught = {_fingerprint(folder) for folder in kept if folder.parent.name == "teach"}
    caches = sorted(path for path in (workspace / "cache").glob("*") if path.is_dir() and not path.name.startswith("."))
    found += [_garbage(folder, "no teach stage names it") for folder in caches if not old and folder.name not in taught]
    return found


def collect_garbage(workspace: Path) -> tuple[list[Garbage], list[str]]:
    """Delete what :func:`find_garbage` finds, and what dead processes left; experiments that run now are left alone.

    Returns:
        What was deleted, and what was left with the reason.
    """
    left: list[str] = []
    for experiment in _experiments(workspace):
        try:
            with folder_lock(experiment):
                sweep_temporaries(experiment)
        except LockedError as error:
            left.append(str(error))
    if left:
        return [], left
    found = find_garbage(workspace)
    for each in found:
        shutil.rmtree(each.folder)
    return found, left


def _kept(workspace: Path) -> tuple[set[Path], set[Path]]:
    """Return the folders that runs and newest stages refer to, and the experiments that do not say what they read."""
    kept: set[Path] = set()
    old: set[Path] = set()
    for experiment in _experiments(workspace):
        roots = [path.parent for path in experiment.glob("*/run.json")]
        for stage in STAGE_FOLDERS:
            newest: dict[str, Path] = {}
            for folder in sorted(_artifacts(experiment / stage), key=lambda path: path.stat().st_mtime_ns):
                newest[folder.name.rpartition(".")[0]] = folder
            roots += newest.values()
        for folder in roots:
            manifest = read_manifest(folder)
            if manifest is not None and "inputs" not in manifest.fields:
                old.add(experiment)
            kept |= set(_reached(workspace, folder, manifest))
    return kept, old


def _reached(workspace: Path, folder: Path, manifest: Manifest | None) -> Iterator[Path]:
    """Yield a folder and everything that it was made from."""
    yield folder
    if manifest is None:
        return
    for name in manifest.fields.get("inputs", {}).values():
        below = workspace / name
        yield from _reached(workspace, below, read_manifest(below))


def _experiments(workspace: Path) -> list[Path]:
    if not workspace.is_dir():
        return []
    return sorted(path for path in workspace.iterdir() if path.is_dir() and path.name not in SHARED)


def _artifacts(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        path for path in folder.iterdir() if path.is_dir() and path.name != DAMAGED_FOLDER and path.name[0] != "."
    )


def _damaged(workspace: Path) -> list[Garbage]:
    return [_garbage(path, "set aside as damaged") for path in sorted(workspace.rglob(DAMAGED_FOLDER)) if path.is_dir()]


def _garbage(folder: Path, reason: str) -> Garbage:
    return Garbage(folder, reason, folder_bytes(folder))


def _fingerprint(folder: Path) -> str:
    try:
        return str(json.loads((folder / FACTS_FILE).read_text(encoding="utf-8"))["fingerprint"])
    except (OSError, ValueError, KeyError):
        return ""
