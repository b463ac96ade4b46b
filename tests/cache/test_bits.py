"""Integers of any width come back from bits, and what no writer made is refused."""

import numpy as np
import pytest

from tutelage.cache.bits import MAX_WIDTH, BitReader, bit_width, pack_bits, pack_fields, pack_records, unpack_records
from tutelage.errors import CacheError

SIZES = [0, 1, 2, 7, 63, 64, 65, 1000]


def random_fields(generator: np.random.Generator, widths: np.ndarray) -> np.ndarray:
    return generator.integers(0, 2**32, widths.shape) & ((1 << widths) - 1)


def naive_bits(values: np.ndarray, widths: np.ndarray) -> list[int]:
    return [int(v) >> bit & 1 for v, w in zip(values, widths, strict=True) for bit in range(w)]


@pytest.mark.parametrize("width", range(MAX_WIDTH + 1))
def test_one_width_for_all_is_packed_bit_by_bit_and_read_back(width: int) -> None:
    generator = np.random.default_rng(width)
    for size in SIZES:
        widths = np.full(size, width)
        values = random_fields(generator, widths)
        bits = pack_fields(values, width)
        assert bits.tolist() == naive_bits(values, widths)
        reader = BitReader([np.frombuffer(pack_bits([bits]), np.uint8)])
        assert reader.read(np.array([size]), width).tolist() == values.tolist()
        reader.finish()


def test_widths_per_value_are_packed_bit_by_bit_and_read_back_from_many_blocks() -> None:
    generator = np.random.default_rng(0)
    for _ in range(30):
        counts = generator.choice(SIZES, size=int(generator.integers(1, 6)))
        widths = [generator.integers(0, MAX_WIDTH + 1, count) for count in counts]
        values = [random_fields(generator, part) for part in widths]
        strings = [pack_fields(*pair) for pair in zip(values, widths, strict=True)]
        assert [s.tolist() for s in strings] == [naive_bits(*pair) for pair in zip(values, widths, strict=True)]
        reader = BitReader([np.frombuffer(pack_bits([string]), np.uint8) for string in strings])
        assert reader.read(counts, np.concatenate(widths)).tolist() == np.concatenate(values).tolist()
        reader.finish()


def test_sections_of_all_kinds_follow_each_other_without_gaps() -> None:
    generator = np.random.default_rng(1)
    counts = np.array([3, 0, 40])
    fields = [random_fields(generator, np.full(count, 5)) for count in counts]
    marks = [generator.random(count * 2) < 0.5 for count in counts]
    lengths = [generator.integers(0, 9, count) for count in counts]
    unary = [np.concatenate([np.eye(1, n + 1, n, dtype=bool)[0] for n in part] or [marks[1]]) for part in lengths]
    blocks = [pack_bits([pack_fields(f, 5), m, u]) for f, m, u in zip(fields, marks, unary, strict=True)]
    reader = BitReader([np.frombuffer(block, np.uint8) for block in blocks])
    assert reader.read(counts, 5).tolist() == np.concatenate(fields).tolist()
    assert reader.read_ones(counts * 2).tolist() == np.flatnonzero(np.concatenate(marks)).tolist()
    assert reader.read_unary(counts).tolist() == np.concatenate(lengths).tolist()
    reader.finish()


@pytest.mark.parametrize("width", [1, 5, 8, 13, 16, 17, 31, 32])
def test_records_are_packed_row_by_row_to_whole_bytes(width: int) -> None:
    generator = np.random.default_rng(width)
    for shape in [(0, 3), (1, 1), (5, 7), (9, 16), (40, 50)]:
        values_NK = random_fields(generator, np.full(shape, width))
        records = pack_records(values_NK, width)
        assert records.shape == (shape[0], -(-shape[1] * width // 8))
        assert np.array_equal(unpack_records(records, shape[1], width), values_NK)
        for number in range(shape[0]):
            assert records[number].tobytes() == pack_bits([pack_fields(values_NK[number], width)])


def test_reading_beyond_a_block_is_refused_even_when_another_follows() -> None:
    blocks = [np.zeros(2, np.uint8), np.full(8, 255, np.uint8)]
    with pytest.raises(CacheError, match="does not decode"):
        BitReader(blocks).read(np.array([3, 1]), 6)
    with pytest.raises(CacheError, match="does not decode"):
        BitReader(blocks).read_ones(np.array([17, 0]))
    with pytest.raises(CacheError, match="does not decode"):
        BitReader(blocks).read_unary(np.array([1, 1]))


def test_bytes_or_bits_that_are_left_over_are_refused() -> None:
    reader = BitReader([np.array([0b0001_0001], np.uint8)])
    reader.read(np.array([1]), 4)
    with pytest.raises(CacheError):
        reader.finish()
    whole = BitReader([np.zeros(2, np.uint8)])
    whole.read(np.array([1]), 8)
    with pytest.raises(CacheError):
        whole.finish()


def test_bit_width_is_what_tells_values_apart() -> None:
    assert [bit_width(n) for n in (1, 2, 3, 4, 5, 49_152, 65_536, 65_537, 2**31)] == [0, 1, 2, 2, 3, 16, 16, 17, 31]
