"""B1 and B2 on a CUDA device: time and temporary memory of head and loss, ours against TRL, Liger and plain torch.

In: nothing. Out: per shape, a row of time for each of our signals and a row of memory; the targets are those of two
processor cores, so none is stated. Peak memory is what torch's allocator gave out during one call, less what was out
before it.
"""

import gc
from collections.abc import Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any

import torch

from benchmarks.head_variants import OURS_FULL, OURS_KEPT, VARIANTS, K, Variant, head_problem, present, relative_errors
from benchmarks.peer_losses import HeadProblem, absent, installed
from benchmarks.records import ROUNDS, clock_in_turns, median_ratio, record, spread

SHAPES = ((8192, 128_256, 2048), (4096, 151_936, 4096))  # N, V, D: heads as of 1B and 8B models
CHECKED_POSITIONS = 256
MEBIBYTE = 2**20


def measure() -> list[dict[str, Any]]:
    """Time and weigh every variant at every shape."""
    if not torch.cuda.is_available():
        raise SystemExit("This benchmark needs a CUDA device; torch finds none here.")
    return [row for shape in SHAPES for row in measure_shape(*shape)]


def measure_shape(num_positions: int, vocab_size: int, width: int) -> list[dict[str, Any]]:
    """Compare with float64, then time and weigh."""
    problem = head_problem(num_positions, vocab_size, width=width, device="cuda")
    variants = [each for each in present(list(VARIANTS.values())) if each.dtype == torch.bfloat16]
    problem = problem.to(torch.bfloat16)
    turns = clock_in_turns({each.name: partial(each.call(), problem) for each in variants}, rounds=ROUNDS)
    memory = {each.name: temporary_bytes(each, problem) for each in variants}
    shared = {
        "shape": {"N": num_positions, "D": width, "V": vocab_size, "K": K, "T": 1.0},
        "device": torch.cuda.get_device_name(),
        "milliseconds": {name: [1e3 * value for value in each] for name, each in spread(turns.wall).items()},
        "temporary_mebibytes": {name: round(size / MEBIBYTE, 1) for name, size in memory.items()},
        "relative_error": {each.name: relative_errors(each, problem.rows(0, CHECKED_POSITIONS)) for each in variants},
        "versions": {"torch": torch.__version__, **installed()},
        "absent_peers": absent(),
    }
    where = f"N = {num_positions:,}, V = {vocab_size:,}, D = {width:,}"
    return [row for ours in (OURS_KEPT, OURS_FULL) for row in _rows(ours, variants, turns.wall, memory, where, shared)]


def temporary_bytes(variant: Variant, problem: HeadProblem) -> int:
    """Measure the peak of one call above what was allocated before it."""
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    variant.call()(problem)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _rows(
    ours: Variant,
    variants: Sequence[Variant],
    seconds: Mapping[str, list[float]],
    memory: Mapping[str, int],
    where: str,
    shared: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Compare one signal with the fastest and with the smallest peer of the same one."""
    peers = [each.name for each in variants if not each.is_ours and each.signal == ours.signal]
    fastest = min(peers, key=lambda name: median(seconds[name]))
    smallest = min(peers, key=lambda name: memory[name])
    time_what = f"{ours.name} against {fastest}, the fastest peer, on a GPU, {where}"
    memory_what = f"{ours.name}: temporary memory against {smallest}, the smallest peer, on a GPU, {where}"
    return [
        record("B1-gpu", time_what, median_ratio(seconds, fastest, ours.name), None, **shared),
        record("B2-gpu", memory_what, memory[smallest] / memory[ours.name], None, **shared),
    ]
