"""Read finished runs.

In: a workspace, an experiment's folder or a recipe. Out: ``Results``, a sequence of runs that a notebook shows as a
table; torch is not imported.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

from typing_extensions import override

from tutelage.config import load_recipe
from tutelage.errors import DataError
from tutelage.experiment.listing import RUN_FILE, ListedRun, find_run, list_runs
from tutelage.experiment.notebook import html_table

SHOWN = ("experiment", "run", "role", "score", "metric", "settings that differ")


class Results(Sequence[ListedRun]):
    """Finished runs in the order of their names; ``results["RUN_ID"]`` finds one by its name.

    A run has ``run_id``, ``folder``, ``metric``, ``split``, ``record`` (all settings and scores) and ``damage``, which
    is empty unless the run is not to be believed.
    """

    def __init__(self, runs: Sequence[ListedRun]) -> None:
        self._runs = tuple(runs)

    @overload
    def __getitem__(self, index: int | str) -> ListedRun: ...

    @overload
    def __getitem__(self, index: slice) -> "Results": ...

    @override
    def __getitem__(self, index: int | str | slice) -> "ListedRun | Results":
        if isinstance(index, str):
            return find_run(self._runs, index, where="these results")
        return Results(self._runs[index]) if isinstance(index, slice) else self._runs[index]

    @override
    def __len__(self) -> int:
        return len(self._runs)

    @override
    def __iter__(self) -> Iterator[ListedRun]:
        return iter(self._runs)

    def records(self) -> list[dict[str, Any]]:
        """Return one flat dict per run, ready for ``pandas.DataFrame``: names, every metric of every split as
        ``test.accuracy``, the searched settings as ``settings.temperature``, the options of training.

        Damaged runs are left out.
        """
        return [_flat_record(run) for run in self._runs if not run.damage]

    def __str__(self) -> str:
        return "\n".join("  ".join(str(cell) for cell in run.cells if cell) for run in self._runs)

    def __repr__(self) -> str:
        return f"<Results: {len(self)} runs>"

    def _repr_html_(self) -> str:
        return html_table(SHOWN, [run.cells for run in self._runs])


def results(where: str | os.PathLike[str] = "runs") -> Results:
    """Read the finished runs of a workspace, of one experiment's folder, or of a recipe's experiment.

    Every run's record is compared with its manifest; one that is damaged is listed with ``damage`` and no scores.

    Raises:
        DataError: If there is no such folder.
        RecipeError: If it is a recipe that is not valid.
    """
    path = Path(where)
    if path.is_file():
        recipe = load_recipe(path, plugins=None).recipe
        path = Path(recipe.workspace) / recipe.name
    if not path.is_dir():
        raise DataError(
            f"{path} is no folder; expected a workspace such as `runs`, an experiment's folder, or a recipe"
        )
    if any(path.glob(f"*/{RUN_FILE}")):  # an experiment's own folder
        return Results([run for run in list_runs(path.parent) if run.experiment == path.name])
    return Results(list_runs(path))


def _flat_record(run: ListedRun) -> dict[str, Any]:
    names = ("run_id", "experiment", "method", "kind", "role", "task", "student", "seed", "parameters")
    flat = {name: run.record.get(name) for name in names} | {"folder": str(run.folder), "differs": run.differs}
    for split, metrics in run.record["metrics"].items():
        flat |= {f"{split}.{name}": value for name, value in metrics.items()}
    flat |= {f"settings.{name}": value for name, value in run.record["settings"].items()}
    return flat | {f"train.{name}": value for name, value in (run.record["train"] or {}).items()}
