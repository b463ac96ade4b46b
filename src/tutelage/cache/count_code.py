"""How often each id of a set was drawn, as bits.

In: counts of at least 1 that sum to the number of draws. Out: bit strings, and back.

The last count of a set is what the others leave of the draws and costs nothing. A count ``c`` is an Elias gamma code in
two streams: ``floor(log2 c)`` zeros and a one, then the bits of ``c`` below its highest, so that a machine can read all
lengths before it reads the first count.

Source:
    Elias 1975, "Universal codeword sets and representations of the integers".
"""

import numpy as np

from tutelage.cache.bits import BitReader, damaged_block, pack_fields


def count_bits(counts: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
    """Write the counts of sets of ``sizes`` [P] ids, laid end to end, as lengths and remainders."""
    coded = np.delete(counts, np.cumsum(sizes) - 1)
    lengths = np.frexp(coded)[1].astype(np.int64) - 1  # floor(log2 c), exact below 2**53
    marks = np.zeros(int(lengths.sum()) + len(coded), dtype=bool)
    marks[np.cumsum(lengths + 1) - 1] = True
    return [marks, pack_fields(coded - (1 << lengths), lengths)]


def read_counts(reader: BitReader, sizes: np.ndarray, num_sets: np.ndarray, num_draws: int) -> np.ndarray:
    """Read the counts of every id.

    Args:
        reader: At the lengths, in each of R blocks.
        sizes: Ids per set, at least 1, int64 [sum of num_sets], blocks end to end.
        num_sets: Sets per block, int64 [R].
        num_draws: What the counts of a set sum to.

    Returns:
        int64 [sum of sizes].

    Raises:
        CacheError: If the bits are not such counts.
    """
    before = np.concatenate([[0], np.cumsum(sizes - 1)])
    coded_of_block = np.diff(before[np.concatenate([[0], np.cumsum(num_sets)])])
    lengths = reader.read_unary(coded_of_block)
    if (lengths >= num_draws.bit_length()).any():
        raise damaged_block()
    coded = (1 << lengths) + reader.read(coded_of_block, lengths)
    ends = np.cumsum(sizes)
    counts = np.zeros(int(sizes.sum()), dtype=np.int64)
    is_coded = np.ones(len(counts), dtype=bool)
    is_coded[ends - 1] = False
    counts[is_coded] = coded
    sums = np.concatenate([[0], np.cumsum(counts)])
    counts[ends - 1] = num_draws - (sums[ends] - sums[ends - sizes])
    if (counts < 1).any():
        raise damaged_block()
    return counts
