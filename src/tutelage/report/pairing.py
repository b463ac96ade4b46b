"""The same items, run by run: what makes scores comparable, checked before anything is compared.

In: per-item scores of runs, by seed. Out: matrices with one column per item, and pairs of seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tutelage.errors import DataError

Seed = int | None  # None: an arm that is not trained (teacher, untouched student)


@dataclass(frozen=True)
class ItemScores:
    """The score of each item in one run; three arrays of the same length."""

    item_keys: np.ndarray
    cluster_keys: np.ndarray
    scores: np.ndarray  # float64, usually 0 or 1

    def __post_init__(self) -> None:
        lengths = {len(self.item_keys), len(self.cluster_keys), len(self.scores)}
        if lengths == {0} or len(lengths) != 1:
            raise DataError(
                f"Item keys, cluster keys and scores have lengths {sorted(lengths)}; expected one, above 0."
            )
        if len(np.unique(self.item_keys)) != len(self.item_keys):
            raise DataError("An item key occurs twice in one run; every item must be scored exactly once.")
        if not np.isfinite(self.scores).all():
            raise DataError("An item's score is not finite; evaluate the run again.")


def pair_seeds(first: Sequence[Seed], second: Sequence[Seed]) -> list[tuple[Seed, Seed]]:
    """Pair the seeds of two arms: equal with equal, a lone unseeded run with every seed of the other.

    Raises:
        DataError: If nothing pairs.
    """
    if list(second) == [None]:
        return [(seed, None) for seed in sorted(first, key=_seed_order)]
    if list(first) == [None]:
        return [(None, seed) for seed in sorted(second, key=_seed_order)]
    common = sorted(set(first) & set(second), key=_seed_order)
    if not common:
        raise DataError(
            f"No seed is in both arms: {sorted(first, key=_seed_order)} and {sorted(second, key=_seed_order)}. "
            "Run both arms with the same `seeds.report`."
        )
    return [(seed, seed) for seed in common]


def score_matrix(
    runs: Mapping[Any, ItemScores], expected_keys: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lay runs out as scores [S, I], clusters [I] and keys [I], items in the order of their keys.

    Raises:
        DataError: If a run's items are not ``expected_keys`` (default: those of the first run).
    """
    rows, clusters = [], np.empty(0)
    for name, run in runs.items():
        order = np.argsort(run.item_keys, kind="stable")
        keys = run.item_keys[order]
        if expected_keys is None:
            expected_keys = keys
        if not np.array_equal(keys, expected_keys):
            _refuse_unpaired(name, keys, expected_keys)
        rows.append(run.scores[order])
        clusters = run.cluster_keys[order]
    if expected_keys is None:
        raise DataError("An arm without a run cannot be compared.")
    return np.stack(rows).astype(float), clusters, expected_keys


def _refuse_unpaired(name: object, keys: np.ndarray, expected: np.ndarray) -> None:
    strange = sorted(set(keys.tolist()) ^ set(expected.tolist()))
    raise DataError(
        f"The run of seed {name} was scored on {len(keys)} items, another on {len(expected)}; {len(strange)} are in "
        f"one only, first {strange[0]!r}. Paired statistics need the same items: evaluate all arms on one task."
    )


def _seed_order(seed: Seed) -> tuple[bool, int]:
    return (seed is not None, seed or 0)
