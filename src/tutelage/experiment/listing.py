"""What a workspace holds: every finished run, read from its ``run.json`` after comparing that with the manifest.

In: a workspace folder. Out: plain rows for a table, one run's record, what distinguishes two runs.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tutelage.errors import DataError, IntegrityError
from tutelage.experiment.differences import changes, flat, made_of, varied_paths
from tutelage.experiment.identity import KEY_DIGITS
from tutelage.store import Manifest, damage_of, read_input, read_manifest

RUN_FILE = "run.json"


@dataclass(frozen=True)
class ListedRun:
    """One finished run; ``damage`` says what is wrong with one that cannot be believed, and its record is empty."""

    experiment: str
    run_id: str
    folder: Path
    content_digest: str
    record: dict[str, Any]
    made_of: dict[str, Any]
    damage: str = ""
    differs: str = ""  # from the other runs of this name

    @property
    def split(self) -> str:
        """Where its main metric comes from: trials are never scored on the test set."""
        return "test" if "test" in self.record.get("metrics", {}) else "validation"

    @property
    def metric(self) -> float | None:
        """The primary metric on that split."""
        return self.record.get("metrics", {}).get(self.split, {}).get(self.record.get("primary_metric"))

    @property
    def cells(self) -> tuple[str, ...]:
        """A row of a table of runs: experiment, folder, role, score, what was scored or damaged, what differs."""
        return (
            self.experiment,
            self.folder.name,
            self.record.get("role", "-"),
            "-" if self.metric is None else f"{self.metric:.4f}",
            self.damage or f"{self.split} {self.record['primary_metric']}",
            self.differs,
        )

    @property
    def names(self) -> tuple[str, ...]:
        """What a user may call it: its id or its folder's name, with or without the experiment."""
        own = dict.fromkeys((self.run_id, self.folder.name))
        return (*own, *(f"{self.experiment}/{name}" for name in own), str(self.folder))


def list_runs(workspace: Path) -> list[ListedRun]:
    """List the finished runs of every experiment below ``workspace``, in the order of their names.

    Folders without a manifest are unfinished and left out; damaged ones are listed as such. A folder that vanishes
    while it is read is left out.
    """
    runs = []
    for path in sorted(workspace.glob(f"*/*/{RUN_FILE}")):
        if ".tmp." not in path.parent.name and (found := _read(path.parent)) is not None:
            runs.append(found)
    return _with_differences(runs)


def show_run(workspace: Path, name: str) -> ListedRun:
    """Return the run called ``RUN_ID``, ``RUN_ID.KEY``, ``EXPERIMENT/..`` or by its folder's path.

    Raises:
        DataError: If there is none, or several.
        IntegrityError: If it is damaged.
    """
    return find_run(list_runs(workspace), name, where=str(workspace))


def find_run(runs: Sequence[ListedRun], name: str, *, where: str) -> ListedRun:
    """Return the run of that name, as :func:`show_run` does, out of runs that were listed before."""
    found = [run for run in runs if name.rstrip("/") in run.names]
    if len(found) > 1:
        raise DataError(
            f"Several runs are called {name!r}: "
            + "; ".join(f"{run.experiment}/{run.folder.name} ({run.differs or 'the same settings'})" for run in found)
            + ". Name one of these."
        )
    if not found:
        known = ", ".join(run.folder.name for run in runs[:8]) or "none"
        raise DataError(
            f"No finished run is called {name!r} in {where}. There are: {known}{' ...' if len(runs) > 8 else ''}"
        )
    if found[0].damage:
        raise IntegrityError(f"{found[0].folder}: {found[0].damage}. Run the recipe again: the run is made anew.")
    return found[0]


def compare_runs(workspace: Path, first: str, second: str) -> tuple[list[str], dict[str, tuple[Any, Any]]]:
    """Return what distinguishes two runs: settings and inputs in words, then their metrics side by side.

    Raises:
        DataError: If a name means none or several runs.
        IntegrityError: If a run is damaged.
    """
    old, new = show_run(workspace, first), show_run(workspace, second)
    before, after = (flat(run.record["metrics"]) for run in (old, new))
    scores = {name: (before.get(name), after.get(name)) for name in dict.fromkeys((*before, *after))}
    return changes(old.made_of, new.made_of), scores


def _read(folder: Path) -> ListedRun | None:
    experiment, run_id = folder.parent.name, folder.name
    manifest: Manifest | None = None
    try:
        manifest = read_manifest(folder)
        if manifest is None:
            damage = damage_of(folder)
            return ListedRun(experiment, run_id, folder, "", {}, {}, damage) if damage else None
        record = json.loads(read_input(folder, RUN_FILE))
        return ListedRun(experiment, record["run_id"], folder, manifest.content_digest, record, made_of(manifest))
    except FileNotFoundError:
        return None
    except IntegrityError:
        if not folder.exists() or manifest is None:
            return None
        return ListedRun(experiment, run_id, folder, manifest.content_digest, {}, {}, f"{RUN_FILE} is damaged")


def _with_differences(runs: list[ListedRun]) -> list[ListedRun]:
    """Say of runs with one name how each differs from the first of them."""
    named: dict[tuple[str, str], list[ListedRun]] = defaultdict(list)
    for run in runs:
        named[run.experiment, run.run_id].append(run)
    listed = []
    for run in runs:
        others = named[run.experiment, run.run_id]
        if len(others) > 1 and run.made_of and others[0].made_of:
            differs = _own_values(others, run)
            run = replace(run, differs=differs)
        listed.append(run)
    return listed


def _own_values(others: list[ListedRun], run: ListedRun) -> str:
    """Return the settings and inputs of a run that most runs of its name do not share."""
    settings = [flat(other.made_of.get("settings", {})) for other in others]
    reads = [other.made_of.get("reads", {}) for other in others]
    number = others.index(run)
    values = [
        f"{_short(path)} {_word(settings[number].get(path))}"
        for path in varied_paths(settings)
        if not _is_usual(path, settings, number)
    ]
    inputs = [
        f"{name} {str(reads[number].get(name))[:KEY_DIGITS]}"
        for name in dict.fromkeys(name for each in reads for name in each)
        if len({each.get(name) for each in reads}) > 1 and not _is_usual(name, reads, number)
    ]
    return ", ".join(values + inputs) or "as most of this name"


def _is_usual(path: str, values: list[dict[str, Any]], number: int) -> bool:
    """Say whether more than half of the runs have the value of this one."""
    equal = sum(each.get(path) == values[number].get(path) for each in values)
    return 2 * equal > len(values)


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _short(path: str) -> str:
    """Name a setting by its last part, with the one before where that is only ``kind``."""
    *_, section, name = ("", *path.split("."))
    return f"{section}.{name}" if name == "kind" else name
