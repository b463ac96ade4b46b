"""What every benchmark prints: one record per ratio.

In: a ratio, its target, what was measured. Out: ``{id, ratio, target, met, details}``.
"""

import os
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

ROUNDS = 7


def record(
    id_: str, what: str, ratio: float, target: float | None, *, at_most: bool = False, **details: Any
) -> dict[str, Any]:
    """Make a record; ``at_most`` says that a smaller ratio is better. Without a target, nothing can be met."""
    met = None if target is None else ratio <= target if at_most else ratio >= target
    shared = {"what": what, "threads": torch.get_num_threads(), "load_average": os.getloadavg()}
    return {
        "id": id_,
        "ratio": round(ratio, 4),
        "target": target,
        "better": "smaller" if at_most else "larger",
        "met": met,
        "details": {**shared, **details},
    }


def time_in_turns(calls: Mapping[str, Callable[[], Any]], *, rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Time each call once a round, forwards and backwards in turns, after one untimed call each.

    Returns:
        Seconds by name, one per round.
    """
    for call in calls.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds):
        order = list(calls)[:: 1 if number % 2 == 0 else -1]
        for name in order:
            began = time.perf_counter()
            calls[name]()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def spread(seconds: Mapping[str, list[float]]) -> dict[str, list[float]]:
    """Give minimum, median and maximum of each."""
    return {
        name: [round(value, 5) for value in (min(each), statistics.median(each), max(each))]
        for name, each in seconds.items()
    }


def median_ratio(seconds: Mapping[str, list[float]], over: str, under: str) -> float:
    """Divide the median of ``over`` by that of ``under``."""
    return statistics.median(seconds[over]) / statistics.median(seconds[under])
