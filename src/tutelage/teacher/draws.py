"""Random draws from the teacher's distributions that depend on what is drawn for, and on nothing else.

In: relative probabilities [n, U], rows with positions. Out: drawn ids, and how often each was drawn.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tutelage.types import TeacherRow

BLOCK = 64  # ids whose probabilities are summed first: about the root of 2 x 128k / 25, where the two stages cost alike
MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
KEY_STEPS = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))
NUM_ROUNDS = 10
LOW = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)
DRAWS_TAG = b"tutelage-draws-1"


def philox(counters: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Turn counters into random words: Philox4x32 with 10 rounds.

    Args:
        counters: uint32 [4, M].
        keys: uint32 [2, M].

    Returns:
        uint32 [4, M]; a bijection of the counters for every key.

    Source:
        Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 4.3.
    """
    c0, c1, c2, c3 = counters.astype(np.uint64)
    k0, k1 = keys.astype(np.uint64)
    for _ in range(NUM_ROUNDS):
        first, second = MULTIPLIERS[0] * c0, MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (second >> HALF) ^ c1 ^ k0, second & LOW, (first >> HALF) ^ c3 ^ k1, first & LOW
        k0, k1 = (k0 + KEY_STEPS[0]) & LOW, (k1 + KEY_STEPS[1]) & LOW
    return np.stack([c0, c1, c2, c3]).astype(np.uint32)


def uniforms(rows: Sequence[TeacherRow], *, num_draws: int, temperature: float, seed: int) -> np.ndarray:
    """Give every position of the rows its own uniform numbers, float64 [N, num_draws] in [0, 1).

    They are a function of row key, position, temperature, seed and the number of the draw: batch order, packing, other
    rows and the process that computes them change nothing.
    """
    counts = [len(row.positions) for row in rows]
    positions = np.concatenate([row.positions for row in rows] or [np.empty(0, np.int64)]).astype(np.uint64)
    keys = np.array([_row_words(row.key, temperature, seed) for row in rows], dtype=np.uint32).reshape(-1, 2)
    num_calls = -(-num_draws // 2)  # four words are two numbers of 53 bits
    counters = np.zeros((4, len(positions), num_calls), dtype=np.uint32)
    counters[0] = (positions & LOW).astype(np.uint32)[:, None]
    counters[1] = np.arange(num_calls, dtype=np.uint32)
    spread = np.broadcast_to(np.repeat(keys, counts, axis=0).T[:, :, None], (2, len(positions), num_calls))
    words = philox(counters.reshape(4, -1), spread.reshape(2, -1)).astype(np.uint64)
    wide = np.stack([words[0] << HALF | words[1], words[2] << HALF | words[3]], axis=1)
    return ((wide >> np.uint64(11)) * 2.0**-53).reshape(len(positions), 2 * num_calls)[:, :num_draws]


def _row_words(key: bytes, temperature: float, seed: int) -> np.ndarray:
    digest = hashlib.blake2b(DRAWS_TAG, digest_size=8)
    digest.update(key)
    digest.update(np.float64(temperature).tobytes())
    digest.update(np.int64(seed).tobytes())
    return np.frombuffer(digest.digest(), dtype="<u4")


def draw(weights_nU: Float[Tensor, "n U"], uniforms_nJ: Float[Tensor, "n J"]) -> Int[Tensor, "n J"]:
    """Invert the cumulative distribution at every uniform: ids in proportion to ``weights_nU``.

    In two stages, in float64: first among sums over blocks of 64 ids, then inside of the block. A float32 running sum
    over the vocabulary would never draw an id below 6e-8.

    Args:
        weights_nU: Not negative, not normalised; at least one above 0 per row. An id of weight 0 is never drawn.
        uniforms_nJ: float64 in [0, 1).
    """
    missing = -weights_nU.shape[1] % BLOCK
    padded = torch.nn.functional.pad(weights_nU, (0, missing)) if missing else weights_nU
    blocks = padded.unflatten(1, (-1, BLOCK))
    sums = blocks.sum(dim=2).double()
    ends = sums.cumsum(dim=1)
    targets_nJ = _below(uniforms_nJ * ends[:, -1:], ends[:, -1:])
    chosen_nJ = torch.searchsorted(ends, targets_nJ, right=True).clamp(max=blocks.shape[1] - 1)
    before_nJ = ends.gather(1, chosen_nJ) - sums.gather(1, chosen_nJ)
    share_nJ = ((targets_nJ - before_nJ) / sums.gather(1, chosen_nJ)).clamp(min=0)
    inside = blocks[torch.arange(len(blocks), device=blocks.device)[:, None], chosen_nJ].double().cumsum(dim=2)
    rest = _below(share_nJ[:, :, None] * inside[:, :, -1:], inside[:, :, -1:])
    place_nJ = torch.searchsorted(inside, rest, right=True)[:, :, 0].clamp(max=BLOCK - 1)
    return (chosen_nJ * BLOCK + place_nJ).clamp(max=weights_nU.shape[1] - 1)  # beyond it only where a weight is NaN


def _below(values: Tensor, ends: Tensor) -> Tensor:
    """Keep what rounding put on or above the end just below it, so that no id of weight 0 behind it is drawn."""
    return torch.minimum(values, torch.nextafter(ends, torch.zeros_like(ends)))


def count_distinct(drawn_nJ: Int[Tensor, "n J"]) -> tuple[Int[Tensor, "n J"], Int[Tensor, "n J"]]:
    """List each row's distinct ids in ascending order and how often each occurs; zeros at the end of both."""
    ordered_nJ = drawn_nJ.sort(dim=1).values
    is_new_nJ = torch.ones_like(ordered_nJ, dtype=torch.bool)
    is_new_nJ[:, 1:] = ordered_nJ.diff(dim=1) != 0
    place_nJ = is_new_nJ.cumsum(dim=1) - 1
    ids_nJ = torch.zeros_like(ordered_nJ).scatter_(1, place_nJ, ordered_nJ)
    counts_nJ = torch.zeros_like(ordered_nJ).scatter_add_(1, place_nJ, torch.ones_like(ordered_nJ))
    return ids_nJ, counts_nJ
