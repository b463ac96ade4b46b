"""Which rows form a group: rows of similar length, mixed afresh every epoch.

In: rows sorted by length, random draws. Out: the rows in an order that is cut into groups, and the groups' sizes.
Losses that compare the rows of a group with each other need groups that no micro-batch and no rank splits.
"""

import numpy as np

from tutelage.errors import ConfigError, DataError

BAND_GROUPS = 4  # groups that exchange rows: similar lengths (little padding), yet C(4 G, G) possible groups
MIN_GROUP_ROWS = 3  # the fewest rows with an angle; two rows have one distance, which relative to its mean is 1


def check_groups(*, group_rows: int, rows_per_step: int, num_rows: int) -> None:
    """Refuse sizes that do not fit together.

    Raises:
        ConfigError: If a group is too small, or steps do not consist of whole groups.
        DataError: If there are too few rows for one group of at least 3.
    """
    if group_rows < MIN_GROUP_ROWS:
        raise ConfigError(f"group_rows is {group_rows}, expected at least {MIN_GROUP_ROWS}: fewer rows have no angle")
    if rows_per_step % group_rows:
        below, above = rows_per_step // group_rows * group_rows, -(-rows_per_step // group_rows) * group_rows
        raise ConfigError(
            f"a step has {rows_per_step} rows, which is no multiple of group_rows {group_rows}: set "
            f"per_device_train_batch_size x gradient_accumulation_steps to {below or above}"
            + (f" or {above}" if below else "")
            + f", or group_rows to a divisor of {rows_per_step}"
        )
    if num_rows < MIN_GROUP_ROWS:
        raise DataError(
            f"There are {num_rows} row(s) to train on, expected at least {MIN_GROUP_ROWS} to form a group. Check "
            "`limit` and the cuts of the task."
        )


def mix_neighbours(pool: np.ndarray, draws: np.ndarray, *, group_rows: int, offset: int) -> np.ndarray:
    """Give an order in which every ``group_rows`` rows are a random group of rows of similar length.

    Args:
        pool: The pool of each row, ascending, [R]; within a pool rows are sorted by length. Pools do not mix.
        draws: Random 64-bit numbers, [R].
        group_rows: G.
        offset: 0 to 3, where the first band of four groups begins: bands that differ between epochs let every row
            meet neighbours on both sides.
    """
    band = (np.arange(len(pool)) // group_rows + offset) // BAND_GROUPS
    return np.lexsort((draws, band, pool))


def group_sizes(num_rows: int, *, group_rows: int) -> np.ndarray:
    """Cut rows into groups of ``group_rows``; of the rest, three rows or more form a group, fewer join the last one."""
    num_groups, rest = divmod(num_rows, group_rows)
    sizes = [group_rows] * num_groups
    if rest >= MIN_GROUP_ROWS or not sizes:
        sizes.append(rest)
    else:
        sizes[-1] += rest
    return np.array(sizes, dtype=np.int64)
