"""Turn the lines of ``metrics.jsonl`` and ``evaluations.jsonl`` into curves over steps, averaged over seeds.

In: history records of the runs of one arm. Out: plain lists that a figure can draw.
"""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from tutelage.report.arms import Arm

MAX_POINTS = 60  # a curve in a figure of report width cannot show more


def arm_curves(arm: Arm, *, metric: str) -> dict[str, Any] | None:
    """Return the loss per target and the validation metric by step; None when nothing was logged.

    Each curve is ``{"step": [..], "mean": [..], "low": [..], "high": [..]}`` with the smallest and largest
    seed as band; a validation metric that was taken once is no curve. Losses are averaged within equal bins of
    steps, at most 60.
    """
    losses = [[(row["step"], row["loss_nats"]) for row in run.steps if "loss_nats" in row] for run in arm.runs.values()]
    validation = [
        [(float(row["step"]), row[metric]) for row in run.evaluations if metric in row] for run in arm.runs.values()
    ]
    loss_curve, validation_curve = _loss_curve(losses), _band(validation, least=2)
    if loss_curve is None and validation_curve is None:
        return None
    return {"loss": loss_curve, "validation": validation_curve}


def _loss_curve(seeds: Sequence[Sequence[tuple[int, float]]]) -> dict[str, list[float]] | None:
    last = max((step for points in seeds for step, _ in points), default=0)
    width = max(1, -(-last // MAX_POINTS))
    binned = []
    for points in seeds:
        bins: dict[int, list[tuple[int, float]]] = {}
        for step, loss in points:
            bins.setdefault((step - 1) // width, []).append((step, loss))
        # The bin's nominal middle, not the mean of its steps: seeds that stop early must share the grid.
        binned.append(
            [(index * width + (width + 1) / 2, fmean(loss for _, loss in rows)) for index, rows in sorted(bins.items())]
        )
    return _band(binned)


def _band(seeds: Sequence[Sequence[tuple[float, float]]], *, least: int = 1) -> dict[str, list[float]] | None:
    values: dict[float, list[float]] = {}
    for points in seeds:
        for step, value in points:
            values.setdefault(step, []).append(value)
    # A step that only some seeds reached would make the mean jump.
    shared = sorted(step for step, found in values.items() if len(found) == len([s for s in seeds if s]))
    if len(shared) < least:
        return None
    return {
        "step": shared,
        "mean": [fmean(values[step]) for step in shared],
        "low": [min(values[step]) for step in shared],
        "high": [max(values[step]) for step in shared],
    }
