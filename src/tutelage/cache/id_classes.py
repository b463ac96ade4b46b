"""Classes of token ids: a short code for ids that are likely, without a stored table of probabilities.

In: a vocabulary size, the ids of one row. Out: tables that map an id to a class and a place in it, and back.

Tokenizers trained by merging pairs number their tokens by when they were merged, so an id is roughly a frequency rank
and the probability of an id falls like ``1 / (id + 256)``. *Base* classes are runs of ids that are about equally likely
under that law. What a row repeats beyond it goes into the row's own *dictionary*, in classes of their own. All
arithmetic is on integers: every machine makes the same bytes. Measured in ``docs/decisions/0005-id-coding.md``.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from tutelage.cache.bits import bit_width

FLATTENED_IDS = 256  # single bytes and special tokens come first and have no order
FINENESS_BITS = 3
CLASSES_BITS = 5
COARSEST = 2  # log2 of the ratio of a run's size to its start, at fineness 0
MAX_DICTIONARY_CLASSES = (1 << CLASSES_BITS) - 1
MAX_DICTIONARY_IDS = 512  # more cost more than they save, on rows of 60 to 1,000 positions
MIN_REPEATS = 4  # an id that occurs less often saves less than its entry costs
WIDTH_BITS = 4  # of a dictionary class; 512 entries need no width above 9
EXTRA_CLASSES = 4  # classes beyond the mean number of ids in a set; the optimum is flat


@dataclass(frozen=True)
class IdClasses:
    """Runs of ids, C of them; class ``c`` holds ``2 ** widths[c]`` ids from ``starts[c]`` on."""

    starts: np.ndarray  # int64 [C]
    widths: np.ndarray  # int64 [C]

    def __len__(self) -> int:
        return len(self.starts)

    def find(self, ids: np.ndarray) -> np.ndarray:
        """Number the class of each id."""
        return np.searchsorted(self.starts, ids, side="right") - 1


@lru_cache(maxsize=64)
def base_classes(vocab_size: int, fineness: int) -> IdClasses:
    """Cut the ids [0, ``vocab_size``) into runs.

    A run that starts at ``s`` holds ``2 ** e`` ids with ``e = floor(log2(4 * (s + 256) / 2 ** fineness))``, at least
    0; the last one is as narrow as the end allows.
    """
    starts, widths, start = [], [], 0
    while start < vocab_size:
        width = max(((start + FLATTENED_IDS << COARSEST) >> fineness).bit_length() - 1, 0)
        widths.append(min(width, bit_width(vocab_size - start)))
        starts.append(start)
        start += 1 << widths[-1]
    return IdClasses(np.array(starts, dtype=np.int64), np.array(widths, dtype=np.int64))


@dataclass(frozen=True)
class RowCode:
    """How one row's sets of ids are written: its dictionary, and how fine its base classes are."""

    fineness: int
    dictionary_widths: np.ndarray  # int64 [D]; class d holds 2 ** width entries of the dictionary
    dictionary: np.ndarray  # int64 [sum of 2 ** width], most frequent first


def choose_code(ids: np.ndarray, num_sets: int, vocab_size: int) -> RowCode:
    """Choose the code of a row from its own ids: the shortest of a few, fineness by fineness.

    Args:
        ids: The sets of all positions, end to end.
        num_sets: How many sets.
        vocab_size: Ids are below it.
    """
    unique, repeats = np.unique(ids, return_counts=True)
    frequent = np.argsort(-repeats, kind="stable")[:MAX_DICTIONARY_IDS]
    frequent = frequent[repeats[frequent] >= MIN_REPEATS]
    num_classes = EXTRA_CLASSES + round(len(ids) / max(num_sets, 1))
    widths = np.array(list(_equal_weights(repeats[frequent], len(ids), num_classes)), dtype=np.int64)
    entries = frequent[: int((1 << widths).sum())]
    rest = repeats.copy()
    rest[entries] = 0
    own_bits = (
        int((np.repeat(widths, 1 << widths) * repeats[entries]).sum())
        + num_sets * len(widths)
        + WIDTH_BITS * len(widths)
        + bit_width(vocab_size) * len(entries)
    )
    plain_F = base_bits(unique, repeats, num_sets, vocab_size)
    mixed_F = base_bits(unique, rest, num_sets, vocab_size) + own_bits
    if mixed_F.min() < plain_F.min():
        return RowCode(int(mixed_F.argmin()), widths, unique[entries])
    return RowCode(int(plain_F.argmin()), widths[:0], unique[:0])


def base_bits(unique: np.ndarray, weights: np.ndarray, num_sets: int, vocab_size: int) -> np.ndarray:
    """Count the bits of base classes by fineness: places of ``weights`` [u] ids of each kind, and every set's marks."""
    starts, widths, firsts = _all_base_classes(vocab_size)
    sums = np.concatenate([[0], np.cumsum(weights)])
    below = np.append(sums[unique.searchsorted(starts)], sums[-1])
    inside = np.diff(below)
    inside[firsts[1:] - 1] = sums[-1] - below[firsts[1:] - 1]  # the last class of a fineness has no next start
    return np.add.reduceat(inside * widths + num_sets, firsts)


@lru_cache(maxsize=8)
def _all_base_classes(vocab_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Join the base classes of every fineness: starts, widths, and where each fineness begins."""
    classes = [base_classes(vocab_size, fineness) for fineness in range(1 << FINENESS_BITS)]
    ends = np.cumsum([len(part) for part in classes])
    return (
        np.concatenate([c.starts for c in classes]),
        np.concatenate([c.widths for c in classes]),
        ends - [len(part) for part in classes],
    )


def _equal_weights(weights: np.ndarray, total: int, num_classes: int) -> Iterator[int]:
    """Yield the widths of dictionary classes that weigh about ``total / num_classes`` each, while there are entries."""
    sums = np.concatenate([[0], np.cumsum(weights)])
    done = 0
    for _ in range(min(MAX_DICTIONARY_CLASSES, num_classes - 1)):
        if done == len(weights):
            return
        width = 0
        while (
            done + (2 << width) <= len(weights)
            and num_classes * 5 * (sums[done + (2 << width)] - sums[done]) <= total * 7
        ):  # up to 1.4 of an equal share: the nearest power of two
            width += 1
        yield width
        done += 1 << width
