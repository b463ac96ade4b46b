"""B1: time of head and loss, forward and backward, ours against TRL, Liger and plain torch, in turns.

In: nothing. Out: two rows per shape: against the fastest bfloat16 peer, and against TRL's sparse loss in float32.

Every variant's error against float64 is printed to standard error before anything is timed. All peers run at the first
shape, the others are left to the few that matter there. About eight minutes of two cores.
"""

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any

import psutil
import torch

from benchmarks.head_variants import (
    FEW,
    OURS_FULL,
    OURS_KEPT,
    TRL_SPARSE,
    VARIANTS,
    WIDTH,
    K,
    Variant,
    head_problem,
    present,
    relative_errors,
)
from benchmarks.peer_losses import HeadProblem, absent, installed
from benchmarks.records import ROUNDS, Turns, clock_in_turns, median_ratio, record, spread

FULL_SHAPE = (1024, 49_152)
SHAPES = (FULL_SHAPE, (1024, 32_000), (1024, 128_000), (4096, 32_000), (4096, 49_152), (4096, 128_000))
LOW_TARGET, SPARSE_TARGET = 3.0, 5.0
CHECKED_POSITIONS = 32
# Ours in bfloat16, relative to float64. A bfloat16 product keeps 8 bits of each logit, here up to about 15.
TOLERANCE = {"value": 0.02, "gradient": 0.05}
LONG_CALL_SECONDS, FEWER_ROUNDS = 10.0, 3
COPIES = 5  # of [N, V] that a peer may hold at its peak; TRL's sparse loss holds 4 (B2)
PRODUCTS, PRODUCT_ROWS = "the head's two matrix products alone, bfloat16", 256
NOTES = (
    "Liger's loss computes the gradient of the head too; the others' heads are frozen",
    "no call can be faster than the products alone: a peer's time over theirs is the largest ratio that is possible",
)


def measure() -> list[dict[str, Any]]:
    """Time every shape."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the peers' imports and of the compiler
        return [row for shape in SHAPES for row in measure_shape(*shape)]


def measure_shape(num_positions: int, vocab_size: int) -> list[dict[str, Any]]:
    """Check, then time, the variants of one shape."""
    torch.compiler.reset()  # every shape is compiled; after eight of them torch would run a peer uncompiled
    is_full = (num_positions, vocab_size) == FULL_SHAPE
    variants, too_large = _fitting(present(list(VARIANTS.values()) if is_full else FEW), num_positions, vocab_size)
    problem = head_problem(num_positions, vocab_size)
    errors = {variant.name: _check(variant, problem) for variant in variants}
    turns, rounds = _time(variants, problem)
    shared = {
        "shape": {"N": num_positions, "D": WIDTH, "V": vocab_size, "K": K, "T": 1.0},
        "rounds": rounds,
        "seconds": spread(turns.wall),
        "processor_seconds": spread(turns.processor),
        "relative_error": errors,
        "versions": {"torch": torch.__version__, **installed()},
        "absent_peers": absent(),
        "left_out": too_large,
        "notes": NOTES,
    }
    where = f"N = {num_positions}, V = {vocab_size:,}"
    return [*_against_low(variants, turns, where, shared), *_against_sparse(variants, turns, where, shared)]


def _fitting(variants: Sequence[Variant], num_positions: int, vocab_size: int) -> tuple[list[Variant], list[str]]:
    """Leave out what would not fit into the free memory."""
    free = psutil.virtual_memory().available
    fits = [each.is_ours or COPIES * each.dtype.itemsize * num_positions * vocab_size < 0.8 * free for each in variants]
    kept = [variant for variant, does in zip(variants, fits, strict=True) if does]
    reason = f"would need about {COPIES} arrays of [N, V], more than the {free / 2**30:.0f} GiB that are free"
    return kept, [f"{variant.name}: {reason}" for variant, does in zip(variants, fits, strict=True) if not does]


def _check(variant: Variant, problem: HeadProblem) -> dict[str, float]:
    """Compare a few positions with float64; refuse to time ours when it is off."""
    errors = relative_errors(variant, problem.rows(0, CHECKED_POSITIONS))
    shown = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
    print(f"B1 {variant.name}: relative error against float64, {shown}", file=sys.stderr)
    if variant.is_ours and any(error > TOLERANCE[name] for name, error in errors.items()):
        raise SystemExit(f"B1: {variant.name} is off by {errors}, allowed {TOLERANCE}; nothing was timed")
    return errors


def _time(variants: Sequence[Variant], problem: HeadProblem) -> tuple[Turns, int]:
    problems = {dtype: problem.to(dtype) for dtype in {variant.dtype for variant in variants}}
    calls: dict[str, Callable[[], Any]] = {each.name: partial(each.call(), problems[each.dtype]) for each in variants}
    calls[PRODUCTS] = partial(_multiply_only, problem.to(torch.bfloat16))
    first = clock_in_turns(calls, rounds=1)
    rounds = ROUNDS if max(first.wall[name][0] for name in calls) <= LONG_CALL_SECONDS else FEWER_ROUNDS
    rest = clock_in_turns(calls, rounds=rounds - 1, warm=False)
    wall, processor = (
        {name: [*getattr(first, kind)[name], *getattr(rest, kind)[name]] for name in calls}
        for kind in ("wall", "processor")
    )
    return Turns(wall, processor), rounds


def _multiply_only(problem: HeadProblem) -> None:
    """Multiply by the head, and back; nothing else."""
    tile_MV = torch.empty(PRODUCT_ROWS, len(problem.head_VD), dtype=problem.head_VD.dtype)
    for hidden_MD in problem.student_ND.split(PRODUCT_ROWS):
        product_MV = torch.mm(hidden_MD, problem.head_VD.T, out=tile_MV[: len(hidden_MD)])
        torch.mm(product_MV, problem.head_VD)


def _against_low(
    variants: Sequence[Variant], turns: Turns, where: str, shared: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Compare each of our signals with the fastest bfloat16 peer that learns from the same one."""
    rows = []
    for ours in (OURS_KEPT, OURS_FULL):
        peers = {
            each.name: median(turns.wall[each.name])
            for each in variants
            if not each.is_ours and each.dtype == torch.bfloat16 and each.signal == ours.signal
        }
        if peers:
            fastest = min(peers, key=lambda name: peers[name])
            ratios = _ratios(turns, fastest, ours)
            what = f"{ours.name} against {fastest}, the fastest bfloat16 peer, {where}"
            rows.append(record("B1", what, ratios["clock"], LOW_TARGET, ratios=ratios, **shared))
    return rows


def _against_sparse(
    variants: Sequence[Variant], turns: Turns, where: str, shared: Mapping[str, Any]
) -> list[dict[str, Any]]:
    if TRL_SPARSE not in variants:
        return []
    ratios = _ratios(turns, TRL_SPARSE.name, OURS_KEPT)
    what = f"{OURS_KEPT.name} against {TRL_SPARSE.name} (float32 there, bfloat16 here), {where}"
    return [record("B1", what, ratios["clock"], SPARSE_TARGET, ratios=ratios, **shared)]


def _ratios(turns: Turns, peer: str, ours: Variant) -> dict[str, float]:
    return {
        "clock": median_ratio(turns.wall, peer, ours.name),
        "processor": median_ratio(turns.processor, peer, ours.name),
        "largest_possible": median_ratio(turns.wall, peer, PRODUCTS),
    }
