"""Cuts that never separate what belongs together: equal texts, questions about one passage.

In: examples in an order that depends on keys alone. Out: the cut and the rest.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TypeVar

from tutelage.data.examples import Keyed, split_order

Item = TypeVar("Item", bound=Keyed)


def by_digest(example: Keyed) -> str:
    """Sort key of a test set: independent of the seed and of the order in the file."""
    return split_order(example.item_key)


def by_seed(seed: int) -> Callable[[Keyed], str]:
    """Return a sort key that depends on (seed, item key) alone, so added rows disturb few others."""

    def key(example: Keyed) -> str:
        return hashlib.sha256(f"{seed}:{example.item_key}".encode()).hexdigest()

    return key


def cut(examples: Sequence[Item], num_rows: int) -> tuple[list[Item], list[Item]]:
    """Take ``num_rows`` from the front, whole clusters at a time.

    A cluster that no longer fits is passed over for later ones, so the cut has ``num_rows`` rows
    whenever single rows remain, and is never larger.

    Returns:
        The cut and the rest, both in the given order.
    """
    clusters = defaultdict(list)
    for index, example in enumerate(examples):
        clusters[example.cluster_key].append(index)
    taken: set[int] = set()
    for members in clusters.values():  # in order of first appearance
        if len(taken) + len(members) <= num_rows:
            taken.update(members)
        if len(taken) == num_rows:
            break
    inside = [example for index, example in enumerate(examples) if index in taken]
    outside = [example for index, example in enumerate(examples) if index not in taken]
    return inside, outside
