"""How many rows each source of a mixture gives, and in which order a stream of rows is read.

In: weights, numbers of rows, a seed. Out: exact shares; records in a shuffled order. Pure functions.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import TypeVar

Item = TypeVar("Item")


def exact_shares(total: int, weights: Sequence[float]) -> list[int]:
    """Divide ``total`` rows by weight: each share is its quota rounded down or up, and they sum to ``total``.

    By largest remainder, in exact arithmetic; of equal remainders the earlier source wins.

    Args:
        total: Rows to divide, at least 0.
        weights: Positive; only their ratios matter.
    """
    exact = [Fraction(weight) for weight in weights]
    quotas = [total * weight / sum(exact) for weight in exact]
    shares = [int(quota) for quota in quotas]
    by_remainder = sorted(range(len(quotas)), key=lambda source: (shares[source] - quotas[source], source))
    for source in by_remainder[: total - sum(shares)]:
        shares[source] += 1
    return shares


def largest_total(available: Sequence[int], weights: Sequence[float]) -> int:
    """Return the largest number of rows whose exact shares no source is too small for.

    Args:
        available: Rows of each source.
        weights: Positive, one per source.
    """
    exact = [Fraction(weight) for weight in weights]
    bound = min(int(Fraction(rows + 1) * sum(exact) / weight) for rows, weight in zip(available, exact, strict=True))
    total = min(bound, sum(available))
    while any(share > rows for share, rows in zip(exact_shares(total, weights), available, strict=True)):
        total -= 1
    return total


def shuffled_stream(records: Iterable[Item], *, buffer: int, seed: str) -> Iterator[Item]:
    """Yield every record once, each chosen at random among the next ``buffer`` that were not yielded yet.

    The order is a pure function of the records, the buffer and the seed; no more than ``buffer`` are held.

    Args:
        records: Read as far as is asked for, and ``buffer`` records beyond.
        buffer: At least 1, which keeps the order.
        seed: Any words.
    """
    draws = random.Random(seed)  # its method `random` draws the same in every release of Python
    held: list[Item] = []
    for record in records:
        held.append(record)
        if len(held) == buffer:
            yield _take(held, draws)
    while held:
        yield _take(held, draws)


def _take(held: list[Item], draws: random.Random) -> Item:
    place = int(draws.random() * len(held))
    held[place], held[-1] = held[-1], held[place]
    return held.pop()
