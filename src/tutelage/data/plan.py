"""Which rows make up which step: fixed by the seed and the epoch, known before the first forward.

In: row lengths and target counts. Out: steps of micro-batches with their token and target counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tutelage.errors import DataError

POOL_STEPS = 16  # rows of equal length meet in a step (little padding), yet pools stay random


@dataclass(frozen=True)
class MicroBatch:
    """Rows of one forward pass; ``num_tokens`` counts real tokens, padding not."""

    row_indices: tuple[int, ...]
    num_tokens: int
    num_targets: int


@dataclass(frozen=True)
class Step:
    """Rows of one optimizer step."""

    epoch: int
    micro_batches: tuple[MicroBatch, ...]
    num_targets: int
    num_tokens: int


class BatchPlan:
    """The order of training, as a pure function of (seed, epoch).

    Every row occurs exactly once per epoch. ``token_budget`` decides how a step is cut into
    micro-batches, never which rows are in it, so memory settings do not change what is learnt.

    Args:
        lengths: Tokens per row, int [R].
        num_targets: Supervised targets per row, int [R], each at least 1.
        rows_per_step: Rows of one optimizer step; the last step of an epoch may be shorter.
        token_budget: Padded tokens of a micro-batch at most; a longer row goes alone.
        seed: Non-negative.

    Raises:
        DataError: If there are no rows, or a row has no target.
        ValueError: If ``rows_per_step`` or ``token_budget`` is not positive.
    """

    def __init__(
        self, lengths: np.ndarray, num_targets: np.ndarray, *, rows_per_step: int, token_budget: int, seed: int
    ) -> None:
        if rows_per_step < 1 or token_budget < 1:
            raise ValueError(f"rows_per_step {rows_per_step} and token_budget {token_budget} must be at least 1")
        if len(lengths) == 0:
            raise DataError("There are no rows to train on. Check `limit` and the cuts of the task.")
        if np.min(num_targets) < 1:
            row = int(np.argmin(num_targets))
            raise DataError(f"Row {row} of the batch plan has no supervised target. Every row needs at least one.")
        self.lengths = np.asarray(lengths, dtype=np.int64)
        self.num_targets = np.asarray(num_targets, dtype=np.int64)
        self.rows_per_step = rows_per_step
        self.token_budget = token_budget
        self.seed = seed

    @property
    def steps_per_epoch(self) -> int:
        """Steps of every epoch; the last may be short."""
        return -(-len(self.lengths) // self.rows_per_step)

    def steps(self, epoch: int) -> list[Step]:
        """Return the epoch's steps in order.

        Rows are shuffled, pools of 16 steps are sorted by length and cut into steps, and the order
        of the full steps is shuffled; a short one stays last.
        """
        bits = np.random.PCG64(np.random.SeedSequence([self.seed, epoch]))
        num_rows, per_step = len(self.lengths), self.rows_per_step
        shuffled = _permutation(bits, num_rows)
        num_full = num_rows // per_step
        # The leftover rows are drawn before sorting; sorted in a pool, the longest would always be left over.
        full, leftover = shuffled[: num_full * per_step], shuffled[num_full * per_step :]
        pool = np.arange(len(full)) // (per_step * POOL_STEPS)
        order = np.lexsort((self.lengths[full], pool))  # stable: ties keep the shuffled order
        table = full[order].reshape(num_full, per_step)[_permutation(bits, num_full)]
        steps = [self._step(epoch, rows) for rows in table]
        return [*steps, self._step(epoch, leftover)] if len(leftover) else steps

    def _step(self, epoch: int, rows: np.ndarray) -> Step:
        groups = _groups(rows, self.lengths[rows], self.token_budget)
        micro_batches = tuple(
            MicroBatch(tuple(group), int(self.lengths[group].sum()), int(self.num_targets[group].sum()))
            for group in groups
        )
        return Step(epoch, micro_batches, int(self.num_targets[rows].sum()), int(self.lengths[rows].sum()))


def reading_batches(lengths: np.ndarray | Sequence[int], *, token_budget: int) -> list[list[int]]:
    """Group rows by length for passes without a gradient; every row exactly once.

    Args:
        lengths: Tokens per row, [R].
        token_budget: Padded tokens of a batch at most; a longer row goes alone.
    """
    array = np.asarray(lengths, dtype=np.int64)
    return _groups(np.arange(len(array)), array, token_budget)


def _permutation(bits: np.random.PCG64, count: int) -> np.ndarray:
    """Shuffle by sorting raw 64-bit draws: NEP 19 keeps those equal in every numpy, unlike ``Generator``'s methods."""
    return np.argsort(bits.random_raw(count), kind="stable")


def _groups(rows: np.ndarray, lengths: np.ndarray, token_budget: int) -> list[list[int]]:
    """Sort by length and cut greedily so that rows x longest row stays within the budget."""
    order = np.argsort(lengths, kind="stable")
    groups: list[list[int]] = []
    for row, length in zip(rows[order].tolist(), lengths[order].tolist(), strict=True):
        if groups and (len(groups[-1]) + 1) * length <= token_budget:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups
