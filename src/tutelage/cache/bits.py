"""Pack integers into bits and read them back: whole arrays at a time, for many rows in lockstep.

In: arrays of integers and their widths in bits. Out: bytes, and back. Bit ``i`` of a string is bit ``i % 8`` of byte
``i // 8``, least significant first; so is the order of the bits of an integer.
"""

from collections.abc import Sequence

import numpy as np

from tutelage.errors import CacheError

MAX_WIDTH = 32  # a field that starts at any bit of a 32-bit word ends within the next one
WORD_BITS = 64


def bit_width(num_values: int) -> int:
    """Count the bits that tell ``num_values`` values apart: 0 for one value, ``ceil(log2)`` otherwise."""
    return (num_values - 1).bit_length()


def pack_fields(values: np.ndarray, widths: np.ndarray | int) -> np.ndarray:
    """Lay integers end to end, each in its own number of bits.

    Args:
        values: Non-negative integers, any shape, taken in row-major order.
        widths: Bits of each value, 0 to 32, one for all or one per value; a value must fit.

    Returns:
        The bits, bool [sum of widths].
    """
    fields = np.ascontiguousarray(values).reshape(-1).astype(np.uint64)
    if not fields.size:
        return np.empty(0, dtype=bool)
    if isinstance(widths, int):
        places, total = np.arange(fields.size) * widths, fields.size * widths
    else:
        ends = widths.cumsum()
        places, total = ends - widths, int(ends[-1])
    words = np.zeros(total // WORD_BITS + 2, dtype="<u8")
    numbers, shifts = places // WORD_BITS, (places % WORD_BITS).astype(np.uint64)
    starts_word = np.ones(fields.size, dtype=bool)  # the first field that starts in its word
    starts_word[1:] = numbers[1:] != numbers[:-1]
    firsts = np.flatnonzero(starts_word)
    words[numbers[firsts]] = np.bitwise_or.reduceat(fields << shifts, firsts)
    # only the last field that starts in a word can end in the next one; shift in two steps, as 64 is no shift
    lasts = np.append(firsts[1:], fields.size) - 1
    words[numbers[lasts] + 1] |= (fields[lasts] >> np.uint64(1)) >> (np.uint64(WORD_BITS - 1) - shifts[lasts])
    return np.unpackbits(words.view(np.uint8), count=total, bitorder="little").view(bool)


def pack_bits(parts: Sequence[np.ndarray]) -> bytes:
    """Join bit strings, bool [bits] each, without gaps; the last byte is filled with zeros."""
    return np.packbits(np.concatenate(parts), bitorder="little").tobytes() if parts else b""


def pack_records(values_NK: np.ndarray, width: int) -> np.ndarray:
    """Pack each row of a matrix by itself, to whole bytes: ``uint8 [N, ceil(K * width / 8)]``."""
    num_rows, num_fields = values_NK.shape
    spare = -num_fields * width % 8
    if spare:  # a last field of zeros fills the row up
        values_NK = np.concatenate([values_NK, np.zeros((num_rows, 1), dtype=values_NK.dtype)], axis=1)
    widths_K = np.array([width] * num_fields + [spare] * bool(spare), dtype=np.int64)
    bits = pack_fields(values_NK, np.tile(widths_K, num_rows) if spare else width)
    return np.packbits(bits, bitorder="little").reshape(num_rows, (num_fields * width + spare) // 8)


def unpack_records(records: np.ndarray, num_fields: int, width: int) -> np.ndarray:
    """Undo :func:`pack_records`: int64 ``[N, num_fields]``."""
    if width == 8:
        return records[:, :num_fields].astype(np.int64)
    num_rows, num_bytes = records.shape
    first_N1 = np.arange(num_rows, dtype=np.int64)[:, None] * (8 * num_bytes)
    starts_NK = first_N1 + np.arange(num_fields, dtype=np.int64) * width
    return gather_fields(bit_windows([records.reshape(-1)]), starts_NK, np.uint64((1 << width) - 1))


def bit_windows(blocks: Sequence[np.ndarray]) -> np.ndarray:
    """Give the 64 bits from every 32nd bit of some blocks laid end to end, as uint64; zeros follow the last."""
    num_bytes = sum(len(block) for block in blocks)
    halves = np.concatenate([*blocks, np.zeros(8 + -num_bytes % 4, dtype=np.uint8)]).view("<u4").astype(np.uint64)
    return halves[:-1] | halves[1:] << np.uint64(32)


def gather_fields(windows: np.ndarray, starts: np.ndarray, mask: np.ndarray | np.uint64) -> np.ndarray:
    """Read integers of up to 32 bits that start at any bits of :func:`bit_windows`: int64, shaped like ``starts``."""
    return (windows[starts >> 5] >> (starts & 31).view(np.uint64) & mask).view(np.int64)


class BitReader:
    """A cursor into the bit string of each of R blocks; every call moves all of them.

    What is asked for beyond the end of a block is refused, so a block that was cut or made up never reads its
    neighbour and never ends in an index error.
    """

    def __init__(self, blocks: Sequence[np.ndarray]) -> None:
        """Take ``uint8 [bytes]`` blocks."""
        num_bytes = np.array([len(block) for block in blocks], dtype=np.int64)
        self._windows = bit_windows(blocks)
        self._buffer = np.concatenate([*blocks, np.empty(0, dtype=np.uint8)])
        self._stops = 8 * np.cumsum(num_bytes)  # [R]
        self.cursors = self._stops - 8 * num_bytes  # [R]

    def read(self, counts: np.ndarray, widths: np.ndarray | int) -> np.ndarray:
        """Read ``counts`` [R] integers of each block.

        Args:
            counts: How many, per block.
            widths: Bits of each integer, one for all or one per integer, blocks end to end.

        Returns:
            int64 [sum of counts], blocks end to end.

        Raises:
            CacheError: If a block ends before.
        """
        ends = np.cumsum(counts)
        if isinstance(widths, int):
            within = np.arange(ends[-1] if len(ends) else 0, dtype=np.int64) * widths
            before = np.concatenate([[0], ends]) * widths
            mask = np.uint64((1 << widths) - 1)
        else:
            bit_ends = np.concatenate([[0], np.cumsum(widths, dtype=np.int64)])
            within, before = bit_ends[:-1], bit_ends[np.concatenate([[0], ends]).astype(np.int64)]
            mask = (np.uint64(1) << widths.astype(np.uint64)) - np.uint64(1)
        starts = within + np.repeat(self.cursors - before[:-1], counts)
        self._advance(np.diff(before))
        return gather_fields(self._windows, starts, mask)

    def read_ones(self, num_bits: np.ndarray) -> np.ndarray:
        """Read ``num_bits`` [R] bits of each block.

        Returns:
            The numbers of those that are 1, int64, counted through all blocks' bits laid end to end.

        Raises:
            CacheError: If a block ends before.
        """
        starts = self.cursors.tolist()
        self._advance(num_bits)
        bits = [self._unpack(start, stop) for start, stop in zip(starts, self.cursors.tolist(), strict=True)]
        return np.flatnonzero(np.concatenate(bits)) if bits else np.empty(0, dtype=np.int64)

    def read_unary(self, counts: np.ndarray) -> np.ndarray:
        """Read ``counts`` [R] integers of each block, each written as that many zeros and a one.

        Returns:
            int64 [sum of counts], blocks end to end.

        Raises:
            CacheError: If a block ends before.
        """
        parts = [np.empty(0, dtype=np.int64)]
        sizes = np.zeros_like(self.cursors)
        starts, stops = self.cursors.tolist(), self._stops.tolist()
        for number, (start, stop, count) in enumerate(zip(starts, stops, counts.tolist(), strict=True)):
            ones = np.flatnonzero(self._unpack(start, stop))[:count] if count else parts[0]
            if len(ones) < count:
                raise damaged_block()
            parts.append(np.diff(ones, prepend=-1) - 1)
            sizes[number] = ones[-1] + 1 if count else 0
        self._advance(sizes)
        return np.concatenate(parts)

    def finish(self) -> None:
        """Check that every block ends where reading ended.

        Raises:
            CacheError: If bytes are left, or the last byte is not filled with zeros.
        """
        left = self._stops - self.cursors
        if (left >= 8).any() or self.read(np.ones_like(left), left).any():
            raise damaged_block()

    def _unpack(self, start: int, stop: int) -> np.ndarray:
        first = start // 8
        bits = np.unpackbits(self._buffer[first : -(-stop // 8)], bitorder="little")
        return bits[start - 8 * first : stop - 8 * first]

    def _advance(self, num_bits: np.ndarray) -> None:
        self.cursors = self.cursors + num_bits
        if (self.cursors > self._stops).any():
            raise damaged_block()


def damaged_block() -> CacheError:
    """Say that a block is not what any encoder of this column writes."""
    return CacheError(
        "A cached row does not decode: its block is longer or shorter than its contents, or holds values that were "
        "never written. Run `tutelage cache verify`, delete the shard it names, and run the teach stage again."
    )
