"""What a workspace holds: every finished run, read from its ``run.json``.

In: a workspace folder. Out: plain rows for a table, or one run's record.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.errors import DataError, IntegrityError
from tutelage.store import read_manifest


@dataclass(frozen=True)
class ListedRun:
    """One finished run."""

    experiment: str
    run_id: str
    folder: Path
    content_digest: str
    record: dict[str, Any]

    @property
    def split(self) -> str:
        """Where its main metric comes from: trials are never scored on the test set."""
        return "test" if "test" in self.record["metrics"] else "validation"

    @property
    def metric(self) -> float | None:
        """The primary metric on that split."""
        return self.record["metrics"].get(self.split, {}).get(self.record["primary_metric"])


def list_runs(workspace: Path) -> list[ListedRun]:
    """List the finished runs of every experiment below ``workspace``, in the order of their names.

    Folders without a valid manifest are unfinished and left out.

    Raises:
        IntegrityError: If a committed ``run.json`` cannot be read.
    """
    runs = []
    for path in sorted(workspace.glob("*/*/run.json")):
        manifest = read_manifest(path.parent)
        if manifest is None:
            continue
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            runs.append(
                ListedRun(path.parent.parent.name, record["run_id"], path.parent, manifest.content_digest, record)
            )
        except (ValueError, KeyError) as error:
            raise IntegrityError(f"{path} cannot be read ({error}). Delete {path.parent} and run again.") from error
    return runs


def show_run(workspace: Path, name: str) -> ListedRun:
    """Return the run called ``RUN_ID`` or ``EXPERIMENT/RUN_ID``.

    Raises:
        DataError: If there is none, or several.
    """
    runs = list_runs(workspace)
    found = [run for run in runs if name in (run.run_id, f"{run.experiment}/{run.run_id}")]
    if len(found) == 1:
        return found[0]
    if found:
        where = ", ".join(f"{run.experiment}/{run.run_id}" for run in found)
        raise DataError(f"Several runs are called {name!r}: {where}. Name one of these.")
    known = ", ".join(run.run_id for run in runs[:8]) or "none"
    raise DataError(
        f"No finished run is called {name!r} in {workspace}. There are: {known}{' ...' if len(runs) > 8 else ''}"
    )
