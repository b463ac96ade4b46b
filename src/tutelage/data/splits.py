"""Cuts that never separate what belongs together: equal texts, questions about one passage.

In: examples in an order that depends on keys alone. Out: the cut and the rest.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from tutelage.data.examples import Example, Keyed, split_order
from tutelage.data.mixture import exact_shares

Item = TypeVar("Item", bound=Keyed)

# A plain cut of classes of about one size is kept where it represents each of them: docs/decisions.
MAX_IMBALANCE = 1.5  # rows of the largest class for each row of the smallest
MAX_SKEW = 0.1  # by which share of its expected rows (and more than one row) a class may be off in a plain cut


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
    return _taken(examples, {None: num_rows}, lambda _: None)


def class_cut(examples: Sequence[Item], num_rows: int) -> tuple[list[Item], list[Item], bool]:
    """Take ``num_rows`` as :func:`cut` does, or class by class where that would misrepresent a class.

    Class by class, each gives its share of the rows, at least one where it has two, and never its last one.

    Returns:
        The cut and the rest, both in the given order, and whether it was made class by class.
    """
    inside, outside = cut(examples, num_rows)
    if is_representative(inside, examples):
        return inside, outside, False
    found = Counter(_class_of(example) for example in examples)
    return *_taken(examples, _quotas(found, num_rows), _class_of), True


def is_representative(part: Sequence[Keyed], whole: Sequence[Keyed]) -> bool:
    """Say whether a part holds every class about as often as the whole; items without classes always do."""
    found, taken = (Counter(_class_of(example) for example in examples) for examples in (whole, part))
    if len(found) < 2 or len(part) in (0, len(whole)):
        return True
    if max(found.values()) > MAX_IMBALANCE * min(found.values()):
        return False
    for label, count in found.items():
        expected = len(part) * count / len(whole)
        if taken[label] == 0 or abs(taken[label] - expected) > max(1, MAX_SKEW * expected):
            return False
    return True


def _class_of(example: Keyed) -> int | None:
    return example.gold if isinstance(example, Example) else None


def _quotas(found: Counter[int | None], num_rows: int) -> dict[int | None, int]:
    """Return how many rows each class gives."""
    labels = sorted(found, key=lambda label: (found[label], label or 0))
    shares = exact_shares(num_rows, [found[label] for label in labels])
    quotas = {label: min(share, found[label] - 1) for label, share in zip(labels, shares, strict=True)}
    for label in labels if num_rows >= len(labels) else ():
        if quotas[label] == 0 and found[label] > 1:
            quotas[label] = 1
    spare = num_rows - sum(quotas.values())
    for label in reversed(labels):  # the largest classes first: one row is least to them
        change = max(1 - quotas[label], spare) if spare < 0 else min(found[label] - 1 - quotas[label], spare)
        quotas[label] += change if quotas[label] > 0 else 0
        spare = num_rows - sum(quotas.values())
    return quotas


def _taken(
    examples: Sequence[Item], quotas: dict[int | None, int], kind_of: Callable[[Item], int | None]
) -> tuple[list[Item], list[Item]]:
    """Take whole clusters from the front while every kind of row in them has room."""
    clusters: dict[str, list[int]] = defaultdict(list)
    for index, example in enumerate(examples):
        clusters[example.cluster_key].append(index)
    room, taken = dict(quotas), set()
    for members in clusters.values():  # in order of first appearance
        wanted = Counter(kind_of(examples[index]) for index in members)
        if all(room.get(kind, 0) >= count for kind, count in wanted.items()):
            taken.update(members)
            for kind, count in wanted.items():
                room[kind] -= count
        if not any(room.values()):
            break
    inside = [example for index, example in enumerate(examples) if index in taken]
    outside = [example for index, example in enumerate(examples) if index not in taken]
    return inside, outside


def share_of(num_rows: int, share: float, *, most: int) -> int:
    """Return a default number of rows: a share of those there are, at least one and at most so many."""
    return max(1, min(most, int(share * num_rows)))


def class_counts(labels: Sequence[str], examples: Iterable[Example]) -> dict[str, int]:
    """Count the rows of every class, in the task's order."""
    found = Counter(example.gold for example in examples)
    return {label: found[index] for index, label in enumerate(labels)}
