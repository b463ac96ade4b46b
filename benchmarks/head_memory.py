"""B2: temporary memory of head and loss, forward and backward, of the variants that B1 times, and its growth with N.

In: nothing. Out: a row for the size and a row for the slope, per signal. Every figure is from a fresh process: the peak
of resident memory during one call, less what was resident before it; a call of 16 positions has loaded the libraries.
Linux with glibc only: the peak is reset through ``/proc/self/clear_refs``.
"""

import ctypes
import gc
import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from benchmarks.head_variants import OURS_FULL, OURS_KEPT, PEERS, VARIANTS, WIDTH, K, Variant, head_problem, present
from benchmarks.peer_losses import absent, installed
from benchmarks.records import record

VOCAB, SIZES = 49_152, (1024, 4096)
WARM_POSITIONS, AT_ONCE = 16, 2
TARGET, SLOPE_TARGET = 15.0, 0.05  # the slope relative to the peer's
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"
Weighed = dict[str, dict[int, int]]  # variant, N: bytes


def measure() -> list[dict[str, Any]]:
    """Weigh every eager variant that is installed, two processes at a time."""
    variants = [OURS_KEPT, OURS_FULL, *(peer for peer in present(PEERS) if not peer.compiled)]
    places = [(variant, size) for variant in variants for size in SIZES]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        sizes = list(pool.map(lambda place: weigh_in_process(*place), places))
    weighed: Weighed = {variant.name: {} for variant in variants}
    for (variant, num_positions), size in zip(places, sizes, strict=True):
        weighed[variant.name][num_positions] = size
    return [row for ours in (OURS_KEPT, OURS_FULL) for row in _rows(ours, variants, weighed)]


def weigh_in_process(variant: Variant, num_positions: int) -> int:
    """Run one call in a process of its own and return its temporary bytes."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.head_memory", variant.name, str(num_positions)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        raise SystemExit(f"B2: {variant.name} at N = {num_positions} failed:\n{ran.stderr[-2000:]}")
    return json.loads(ran.stdout.splitlines()[-1])


def weigh(variant: Variant, num_positions: int) -> int:
    """Measure the peak of resident memory during one call, less what is resident before."""
    problem = head_problem(num_positions, VOCAB).to(variant.dtype)
    call = variant.call()
    call(problem.rows(0, WARM_POSITIONS))
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is free but kept would hide the next call's memory
    before = resident("VmRSS")
    CLEAR.write_text(RESET_PEAK)
    call(problem)
    return resident("VmHWM") - before


def resident(field: str) -> int:
    """Read a line of this process's status, in bytes."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def _rows(ours: Variant, variants: Sequence[Variant], weighed: Weighed) -> list[dict[str, Any]]:
    """Compare with the peer of the same signal that needs least at the larger size."""
    peers = [each for each in variants if not each.is_ours and each.signal == ours.signal]
    if not peers:
        return []
    largest = SIZES[-1]
    least = min(peers, key=lambda peer: weighed[peer.name][largest])
    slopes = {name: round(_slope(sizes)) for name, sizes in weighed.items()}
    shared = {
        "shape": {"N": list(SIZES), "D": WIDTH, "V": VOCAB, "K": K},
        "temporary_bytes": weighed,
        "bytes_per_position": slopes,
        "versions": {"torch": torch.__version__, **installed()},
        "absent_peers": absent(),
    }
    ratios = {
        peer.name: {size: round(weighed[peer.name][size] / weighed[ours.name][size], 1) for size in SIZES}
        for peer in peers
    }
    what = f"{ours.name}: temporary memory at N = {largest}, against {least.name}, the smallest peer"
    ratio = weighed[least.name][largest] / weighed[ours.name][largest]
    what_slope = f"{ours.name}: bytes per further position, against {least.name}"
    slope_ratio = slopes[ours.name] / slopes[least.name]
    return [
        record("B2", what, ratio, TARGET, ratios=ratios, **shared),
        record("B2", what_slope, slope_ratio, SLOPE_TARGET, at_most=True, **shared),
    ]


def _slope(sizes: dict[int, int]) -> float:
    small, large = SIZES
    return (sizes[large] - sizes[small]) / (large - small)


if __name__ == "__main__":
    print(json.dumps(weigh(VARIANTS[sys.argv[1]], int(sys.argv[2]))))
