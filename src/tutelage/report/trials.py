"""List the trials of the search and mark the chosen ones.

In: trial runs and the reported arms. Out: plain records, and grids of two settings for a heat map.
"""

from collections.abc import Sequence
from typing import Any

from tutelage.report.arms import Arm
from tutelage.report.collect import Run

# The grid that a reader expects on these axes, whatever the order of the recipe's keys.
PREFERRED_AXES = ("temperature", "alpha")


def list_trials(trials: Sequence[Run], arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """Return every trial with its settings and validation metric, grouped by method, the best first.

    ``chosen`` marks the trial whose settings the reported runs use; if none has them, the best one.
    """
    records = [
        {
            "method": run.record["method"],
            "run_id": run.run_id,
            "seed": run.seed,
            "settings": run.record.get("settings") or {},
            "validation": _validation(run),
            "tokens": run.record.get("tokens"),
            "chosen": False,
        }
        for run in trials
    ]
    order = {arm.method: index for index, arm in reversed(list(enumerate(arms)))}
    records.sort(
        key=lambda trial: (
            order.get(trial["method"], len(order)),
            trial["method"],
            -(trial["validation"] or 0.0),
            trial["run_id"],
        )
    )
    reported = {arm.method: arm.first.record.get("settings") or {} for arm in arms if arm.role != "control"}
    for method in dict.fromkeys(trial["method"] for trial in records):
        own = [trial for trial in records if trial["method"] == method]
        used = [trial for trial in own if method in reported and _same_settings(trial["settings"], reported[method])]
        (used or own)[0]["chosen"] = True
    return records


def _validation(run: Run) -> float | None:
    metrics = (run.record.get("metrics") or {}).get("validation") or {}
    return metrics.get(run.record.get("primary_metric", "accuracy"))


def _same_settings(trial: dict[str, Any], reported: dict[str, Any]) -> bool:
    return all(key in reported and reported[key] == value for key, value in trial.items())


def heat_map_grids(trials: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one grid per method whose trials vary in two settings: axes, values [row][column], chosen cell.

    With more than two varying settings the two of T x alpha are kept, and a cell holds its best trial.
    """
    grids = []
    for method in dict.fromkeys(trial["method"] for trial in trials):
        own = [trial for trial in trials if trial["method"] == method and trial["validation"] is not None]
        axes = _grid_axes(own)
        if axes is not None:
            grids.append({"method": method, **_fill_grid(own, *axes)})
    return sorted(grids, key=lambda grid: (grid["row_setting"] not in PREFERRED_AXES, grid["method"]))


def _grid_axes(trials: Sequence[dict[str, Any]]) -> tuple[str, str] | None:
    values: dict[str, set[Any]] = {}
    for trial in trials:
        for key, value in trial["settings"].items():
            if isinstance(value, int | float | str):
                values.setdefault(key, set()).add(value)
    varying = sorted(key for key, found in values.items() if len(found) > 1)
    preferred = [key for name in PREFERRED_AXES for key in varying if key.rpartition(".")[2] == name]
    if len(preferred) == len(PREFERRED_AXES):
        return preferred[0], preferred[1]
    return (varying[0], varying[1]) if len(varying) == len(PREFERRED_AXES) else None


def _fill_grid(trials: Sequence[dict[str, Any]], row_setting: str, column_setting: str) -> dict[str, Any]:
    def ordered(setting: str) -> list[Any]:
        found = {trial["settings"][setting] for trial in trials if setting in trial["settings"]}
        return sorted(found, key=lambda value: (isinstance(value, str), value))

    rows, columns = ordered(row_setting), ordered(column_setting)
    cells: list[list[float | None]] = [[None] * len(columns) for _ in rows]
    chosen = None
    for trial in trials:
        if row_setting not in trial["settings"] or column_setting not in trial["settings"]:
            continue
        i, j = rows.index(trial["settings"][row_setting]), columns.index(trial["settings"][column_setting])
        best = cells[i][j]
        cells[i][j] = trial["validation"] if best is None else max(best, trial["validation"])
        chosen = [i, j] if trial["chosen"] else chosen
    return {
        "row_setting": row_setting,
        "column_setting": column_setting,
        "rows": rows,
        "columns": columns,
        "cells": cells,
        "chosen": chosen,
    }
