"""What every benchmark prints: one record per ratio.

In: a ratio, its target, what was measured. Out: ``{id, ratio, target, met, details}``.
"""

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Turns:
    """Seconds by name, one per round: on the clock, and of this process's processor time, all threads together."""

    wall: dict[str, list[float]]
    processor: dict[str, list[float]]


def clock_in_turns(calls: Mapping[str, Callable[[], Any]], *, rounds: int = ROUNDS, warm: bool = True) -> Turns:
    """Time each call once a round, forwards and backwards in turns, after one untimed call each where ``warm``.

    Processor time leaves out the other processes of a busy machine, and waiting for a disk.
    """
    for call in calls.values() if warm else ():
        call()
    _finish_device_work()
    turns = Turns({name: [] for name in calls}, {name: [] for name in calls})
    for number in range(rounds):
        order = list(calls)[:: 1 if number % 2 == 0 else -1]
        for name in order:
            began, worked = time.perf_counter(), time.process_time()
            calls[name]()
            _finish_device_work()
            turns.wall[name].append(time.perf_counter() - began)
            turns.processor[name].append(time.process_time() - worked)
    return turns


def _finish_device_work() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def time_in_turns(calls: Mapping[str, Callable[[], Any]], *, rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Give the seconds on the clock of :func:`clock_in_turns`, by name, one per round."""
    return clock_in_turns(calls, rounds=rounds).wall


def spread(seconds: Mapping[str, list[float]]) -> dict[str, list[float]]:
    """Give minimum, median and maximum of each."""
    return {
        name: [round(value, 5) for value in (min(each), statistics.median(each), max(each))]
        for name, each in seconds.items()
    }


def median_ratio(seconds: Mapping[str, list[float]], over: str, under: str) -> float:
    """Divide the median of ``over`` by that of ``under``."""
    return statistics.median(seconds[over]) / statistics.median(seconds[under])
