"""Sets of token ids as bits: which classes they are in, then where in the class.

In: the sets of a row, each sorted. Out: bit strings, and back. The code of a row is in ``id_classes``.

A set's *marks* list the classes in order: a one for each id in the class, a zero after each class but the last
(Elias-Fano coding of the class numbers). The *places* of the ids within their classes follow as fixed-width integers.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tutelage.cache.bits import MAX_WIDTH, BitReader, bit_width, damaged_block, pack_fields
from tutelage.cache.id_classes import (
    CLASSES_BITS,
    FINENESS_BITS,
    WIDTH_BITS,
    IdClasses,
    RowCode,
    base_classes,
)


def row_code_bits(code: RowCode, vocab_size: int) -> list[np.ndarray]:
    """Write a row's code: fineness, number of dictionary classes, their widths, the dictionary."""
    numbers = np.array([code.fineness, len(code.dictionary_widths)])
    return [
        pack_fields(numbers, np.array([FINENESS_BITS, CLASSES_BITS])),
        pack_fields(code.dictionary_widths, WIDTH_BITS),
        pack_fields(code.dictionary, bit_width(vocab_size)),
    ]


def set_bits(ids: np.ndarray, sizes: np.ndarray, code: RowCode, vocab_size: int) -> list[np.ndarray]:
    """Write sets of ids.

    Args:
        ids: The sets end to end, each without repetition.
        sizes: Ids per set, int64 [P].
        code: How; see :func:`choose_code`.
        vocab_size: Ids are below it.

    Returns:
        Marks and places, as bit strings.
    """
    base = base_classes(vocab_size, code.fineness)
    classes = base.find(ids) + len(code.dictionary_widths)
    places, widths = ids - base.starts[classes - len(code.dictionary_widths)], _widths(base, code)
    if len(code.dictionary):
        found, entries = _look_up(ids, code.dictionary)
        own = _dictionary_classes(code.dictionary_widths)
        classes[found] = own.find(entries)
        places[found] = entries - own.starts[classes[found]]
    number_of_set = np.repeat(np.arange(len(sizes)), sizes)
    if len(code.dictionary):
        order = (number_of_set * len(widths) + classes) << MAX_WIDTH | places  # ids of a class come by place
        order.sort()
        classes, places = (order >> MAX_WIDTH) - number_of_set * len(widths), order & ((1 << MAX_WIDTH) - 1)
    marks = np.zeros(len(ids) + len(sizes) * (len(widths) - 1), dtype=bool)
    marks[np.arange(len(ids)) + number_of_set * (len(widths) - 1) + classes] = True
    return [marks, pack_fields(places, widths[classes])]


def read_row_codes(reader: BitReader, num_sets: np.ndarray, vocab_size: int) -> list[RowCode]:
    """Read the code of each block that holds a set at all; the others get an unused one.

    Raises:
        CacheError: If a block ends before.
    """
    some = (num_sets > 0).astype(np.int64)
    fineness, num_classes = np.zeros_like(some), np.zeros_like(some)
    fineness[some > 0] = reader.read(some, FINENESS_BITS)
    num_classes[some > 0] = reader.read(some, CLASSES_BITS)
    widths = split(reader.read(num_classes, WIDTH_BITS), num_classes)
    sizes = np.array([(1 << part).sum() for part in widths], dtype=np.int64)
    dictionary = reader.read(sizes, bit_width(vocab_size))
    parts = zip(fineness.tolist(), widths, split(dictionary, sizes), strict=True)
    return [RowCode(fine, own_widths, entries) for fine, own_widths, entries in parts]


def split(values: np.ndarray, counts: np.ndarray) -> list[np.ndarray]:
    """Cut an array into ``counts`` [R] pieces; none for R = 0, where ``np.split`` gives one."""
    ends = np.cumsum(counts)
    return [values[end - count : end] for end, count in zip(ends.tolist(), counts.tolist(), strict=True)]


def read_sets(
    reader: BitReader, sizes: np.ndarray, num_sets: np.ndarray, codes: list[RowCode], vocab_size: int
) -> np.ndarray:
    """Read sets of ids.

    Args:
        reader: At the marks of each of R blocks.
        sizes: Ids per set, int64 [sum of num_sets], blocks end to end.
        num_sets: Sets per block, int64 [R].
        codes: One per block.
        vocab_size: Ids are below it.

    Returns:
        The sets end to end, int64; those of a block without dictionary are sorted.

    Raises:
        CacheError: If the bits are not such sets.
    """
    table = _join_classes(codes, vocab_size)
    block_of_set = np.repeat(np.arange(len(codes)), num_sets)
    marks_of_set = sizes + table.num_classes[block_of_set] - 1
    ends = np.cumsum(marks_of_set)
    ones = reader.read_ones(_sum_by_block(marks_of_set, num_sets))
    if len(ones) != sizes.sum():
        raise damaged_block()
    set_of_id = np.repeat(np.arange(len(sizes)), sizes)
    number_in_set = np.arange(len(ones)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    classes = ones - (ends - marks_of_set)[set_of_id] - number_in_set
    block_of_id = block_of_set[set_of_id]
    if ((classes < 0) | (classes >= table.num_classes[block_of_id])).any():
        raise damaged_block()
    rows = classes + table.offsets[block_of_id]
    places = reader.read(_sum_by_block(sizes, num_sets), table.widths[rows])
    ids = table.starts[rows] + places
    own = table.in_dictionary[rows]
    ids[own] = table.dictionary[ids[own]]
    if (ids >= vocab_size).any():
        raise damaged_block()
    return ids


@dataclass(frozen=True)
class _JoinedClasses:
    """The classes of R blocks end to end; dictionary classes start at a place in the joined dictionary."""

    offsets: np.ndarray  # int64 [R]
    num_classes: np.ndarray  # int64 [R]
    starts: np.ndarray
    widths: np.ndarray
    in_dictionary: np.ndarray  # bool
    dictionary: np.ndarray


def _join_classes(codes: list[RowCode], vocab_size: int) -> _JoinedClasses:
    bases = [base_classes(vocab_size, code.fineness) for code in codes]
    owns = [_dictionary_classes(code.dictionary_widths) for code in codes]
    sizes = np.array([len(code.dictionary) for code in codes], dtype=np.int64)
    num_classes = np.array([len(own) + len(base) for own, base in zip(owns, bases, strict=True)], dtype=np.int64)
    entries_before = np.cumsum(sizes) - sizes

    def join(parts: Iterator[np.ndarray], dtype: type) -> np.ndarray:
        return np.concatenate([np.empty(0, dtype=dtype), *parts])

    pairs = list(zip(owns, bases, entries_before, strict=True))
    return _JoinedClasses(
        offsets=np.cumsum(num_classes) - num_classes,
        num_classes=num_classes,
        starts=join((part for own, base, before in pairs for part in (own.starts + before, base.starts)), np.int64),
        widths=join((part for own, base, _ in pairs for part in (own.widths, base.widths)), np.int64),
        in_dictionary=join((np.arange(len(own) + len(base)) < len(own) for own, base, _ in pairs), bool),
        dictionary=join((code.dictionary for code in codes), np.int64),
    )


def _dictionary_classes(widths: np.ndarray) -> IdClasses:
    sizes = 1 << widths
    return IdClasses(np.cumsum(sizes) - sizes, widths)


def _widths(base: IdClasses, code: RowCode) -> np.ndarray:
    return np.concatenate([code.dictionary_widths, base.widths])


def _look_up(ids: np.ndarray, dictionary: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find which ids are in the dictionary, as a mask, and their entries there."""
    order = np.argsort(dictionary)
    ordered = dictionary[order]
    near = np.minimum(np.searchsorted(ordered, ids), len(dictionary) - 1)
    found = ordered[near] == ids
    return found, order[near[found]]


def _sum_by_block(values: np.ndarray, num_sets: np.ndarray) -> np.ndarray:
    sums = np.concatenate([[0], np.cumsum(values)])
    ends = np.concatenate([[0], np.cumsum(num_sets)])
    return np.diff(sums[ends])
