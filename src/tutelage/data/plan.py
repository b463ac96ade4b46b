"""Which rows make up which step: fixed by the seed and the epoch, known before the first forward.

In: row lengths and target counts. Out: steps of micro-batches with their token, target and group counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tutelage.data.groups import BAND_GROUPS, MIN_GROUP_ROWS, check_groups, group_sizes, mix_neighbours
from tutelage.errors import DataError

POOL_STEPS = 16  # rows of equal length meet in a step (little padding), yet pools stay random


@dataclass(frozen=True)
class MicroBatch:
    """Rows of one forward pass; ``num_tokens`` counts real tokens, padding not.

    With groups, the rows of a group are adjacent: the first ``group_sizes[0]`` rows are the first group, and so on.
    ``group_seeds`` are for what a loss draws within a group: functions of (seed, epoch, group), whatever the batches.
    """

    row_indices: tuple[int, ...]
    num_tokens: int
    num_targets: int
    group_sizes: tuple[int, ...] = ()
    group_seeds: tuple[int, ...] = ()


@dataclass(frozen=True)
class Step:
    """Rows of one optimizer step; ``num_groups`` is 0 without groups."""

    epoch: int
    micro_batches: tuple[MicroBatch, ...]
    num_targets: int
    num_tokens: int
    num_groups: int = 0


class BatchPlan:
    """The order of training, as a pure function of (seed, epoch).

    Every row occurs exactly once per epoch. ``token_budget`` decides how a step is cut into
    micro-batches, never which rows are in it, so memory settings do not change what is learnt.

    With ``group_rows``, a step consists of groups of that many rows, for losses that compare rows with each other.
    Groups hold rows of similar length, are drawn anew every epoch and never cut by a micro-batch. What is left at the
    end of an epoch forms a smaller group; one or two rows join the last group, which may be that of the last full step.

    Args:
        lengths: Tokens per row, int [R].
        num_targets: Supervised targets per row, int [R], each at least 1.
        rows_per_step: Rows of one optimizer step; the last step of an epoch may be shorter, with groups also one or
            two rows longer.
        token_budget: Padded tokens of a micro-batch at most; a longer row, or group, goes alone.
        seed: Non-negative.
        group_rows: G, at least 3; it divides ``rows_per_step``. None: no groups.

    Raises:
        DataError: If there are no rows, fewer than three with groups, or a row has no target.
        ConfigError: If ``group_rows`` is too small or does not divide ``rows_per_step``.
        ValueError: If ``rows_per_step`` or ``token_budget`` is not positive.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        num_targets: np.ndarray,
        *,
        rows_per_step: int,
        token_budget: int,
        seed: int,
        group_rows: int | None = None,
    ) -> None:
        if rows_per_step < 1 or token_budget < 1:
            raise ValueError(f"rows_per_step {rows_per_step} and token_budget {token_budget} must be at least 1")
        if len(lengths) == 0:
            raise DataError("There are no rows to train on. Check `limit` and the cuts of the task.")
        if np.min(num_targets) < 1:
            row = int(np.argmin(num_targets))
            raise DataError(f"Row {row} of the batch plan has no supervised target. Every row needs at least one.")
        if group_rows is not None:
            check_groups(group_rows=group_rows, rows_per_step=rows_per_step, num_rows=len(lengths))
        self.lengths = np.asarray(lengths, dtype=np.int64)
        self.num_targets = np.asarray(num_targets, dtype=np.int64)
        self.rows_per_step = rows_per_step
        self.token_budget = token_budget
        self.seed = seed
        self.group_rows = group_rows

    @property
    def steps_per_epoch(self) -> int:
        """Steps of every epoch; the last may be short."""
        num_full, leftover = divmod(len(self.lengths), self.rows_per_step)
        return num_full + (leftover >= self._fewest_rows)

    @property
    def _fewest_rows(self) -> int:
        """Fewer rows than these do not make a step of their own."""
        return 1 if self.group_rows is None else MIN_GROUP_ROWS

    def steps(self, epoch: int) -> list[Step]:
        """Return the epoch's steps in order.

        Rows are shuffled, pools of 16 steps are sorted by length and cut into steps, and the order
        of the full steps is shuffled; a short one stays last. With groups, neighbours in length
        are mixed before the cut.
        """
        bits = np.random.PCG64(np.random.SeedSequence([self.seed, epoch]))
        num_rows, per_step = len(self.lengths), self.rows_per_step
        shuffled = _permutation(bits, num_rows)
        num_full = num_rows // per_step
        order = _permutation(bits, num_full)
        # The leftover rows are drawn before sorting; sorted in a pool, the longest would always be left over.
        full, leftover = shuffled[: num_full * per_step], shuffled[num_full * per_step :]
        steps = [*self._neighbours(full, bits).reshape(num_full, per_step)[order], self._neighbours(leftover, bits)]
        if len(leftover) < self._fewest_rows:
            steps[-2:] = [np.concatenate(steps[-2:])]
        return [self._step(epoch, rows, bits) for rows in steps]

    def _neighbours(self, rows: np.ndarray, bits: np.random.PCG64) -> np.ndarray:
        """Order rows so that those of similar length are near each other."""
        pool = np.arange(len(rows)) // (self.rows_per_step * POOL_STEPS)
        by_length = rows[np.lexsort((self.lengths[rows], pool))]  # stable: ties keep the shuffled order
        if self.group_rows is None:
            return by_length
        draws, offset = bits.random_raw(len(rows)), int(bits.random_raw()) % BAND_GROUPS
        return by_length[mix_neighbours(pool, draws, group_rows=self.group_rows, offset=offset)]

    def _step(self, epoch: int, rows: np.ndarray, bits: np.random.PCG64) -> Step:
        """Cut a step's rows into micro-batches of whole units: groups, or single rows without groups."""
        sizes = np.ones_like(rows) if self.group_rows is None else group_sizes(len(rows), group_rows=self.group_rows)
        starts = np.cumsum(sizes) - sizes
        units, seeds = np.split(rows, starts[1:]), bits.random_raw(len(sizes))
        longest = np.maximum.reduceat(self.lengths[rows], starts)
        micro_batches = []
        for chosen in _within_budget(longest, sizes, self.token_budget):
            micro = self._micro_batch(np.concatenate([units[unit] for unit in chosen]))
            if self.group_rows is not None:
                micro = replace(micro, group_sizes=_ints(sizes[chosen]), group_seeds=_ints(seeds[chosen]))
            micro_batches.append(micro)
        whole = self._micro_batch(rows)
        num_groups = 0 if self.group_rows is None else len(sizes)
        return Step(epoch, tuple(micro_batches), whole.num_targets, whole.num_tokens, num_groups)

    def _micro_batch(self, rows: np.ndarray) -> MicroBatch:
        return MicroBatch(_ints(rows), int(self.lengths[rows].sum()), int(self.num_targets[rows].sum()))


def reading_batches(lengths: np.ndarray | Sequence[int], *, token_budget: int) -> list[list[int]]:
    """Group rows by length for passes without a gradient; every row exactly once.

    Args:
        lengths: Tokens per row, [R].
        token_budget: Padded tokens of a batch at most; a longer row goes alone.
    """
    array = np.asarray(lengths, dtype=np.int64)
    return _within_budget(array, np.ones_like(array), token_budget)


def _permutation(bits: np.random.PCG64, count: int) -> np.ndarray:
    """Shuffle by sorting raw 64-bit draws: NEP 19 keeps those equal in every numpy, unlike ``Generator``'s methods."""
    return np.argsort(bits.random_raw(count), kind="stable")


def _ints(numbers: np.ndarray) -> tuple[int, ...]:
    return tuple(numbers.tolist())


def _within_budget(longest: np.ndarray, num_rows: np.ndarray, token_budget: int) -> list[list[int]]:
    """Sort units (rows or groups) by their longest row and cut greedily; rows x longest row stays within the budget."""
    order = np.argsort(longest, kind="stable")
    batches: list[list[int]] = []
    filled = 0  # rows of the last batch
    for unit, length, size in zip(order.tolist(), longest[order].tolist(), num_rows[order].tolist(), strict=True):
        if batches and (filled + size) * length <= token_budget:
            batches[-1].append(unit)
            filled += size
        else:
            batches.append([unit])
            filled = size
    return batches
