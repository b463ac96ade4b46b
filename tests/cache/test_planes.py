"""Integers come back from compressed planes, and what no writer made is refused."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest

from tutelage.cache.planes import (
    PLAIN_BYTES,
    PlaneReader,
    byte_width,
    join_bytes,
    join_planes,
    pack_planes,
    planes_of,
    split_bytes,
)
from tutelage.errors import CacheError

SIZES = [0, 1, 7, PLAIN_BYTES, PLAIN_BYTES + 1, 3000]


def random_values(size: int, width: int) -> np.ndarray:
    values = np.random.default_rng(size).integers(0, 256**width, size)
    values[:1] = 256**width - 1
    return values


def test_byte_width_is_what_tells_values_apart() -> None:
    assert [byte_width(n) for n in (1, 2, 256, 257, 65_536, 65_537, 2**24, 2**31)] == [1, 1, 1, 2, 2, 3, 3, 4]


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_integers_come_back_from_their_planes(width: int) -> None:
    for size in SIZES:
        values = random_values(size, width)
        planes = planes_of(values, width)
        assert [len(plane) for plane in planes] == [size] * width
        assert join_planes(read_all(pack_planes(planes), *[size] * width)).tolist() == values.tolist()


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_integers_come_back_from_the_bytes_of_their_rows(width: int) -> None:
    for shape in [(0, 3), (4, 0), (1, 1), (9, 16)]:
        values_NK = random_values(shape[0] * shape[1], width).reshape(shape)
        stored = split_bytes(values_NK, width)
        assert stored.shape == (shape[0], width * shape[1])
        assert np.array_equal(join_bytes(stored, width), values_NK)
    assert split_bytes(np.array([[0x0102, 0x0304]]), 2).tolist() == [[2, 4, 1, 3]]


def test_a_plane_that_does_not_compress_is_stored_as_it_is() -> None:
    noise = np.random.default_rng(0).integers(0, 256, 500).astype(np.uint8).tobytes()
    assert pack_planes([noise]) == len(noise).to_bytes(4, "little") + noise
    assert len(pack_planes([bytes(500)])) < 40
    assert pack_planes([bytes(PLAIN_BYTES), b"", b"a"]) == bytes(PLAIN_BYTES) + b"a"


def read_all(block: bytes, *sizes: int) -> list[bytes]:
    reader = PlaneReader(block)
    planes = [reader.plane(size) for size in sizes]
    reader.finish()
    return planes


def refused(block: bytes, *sizes: int) -> None:
    with pytest.raises(CacheError, match="does not decode"):
        read_all(block, *sizes)


def test_a_block_that_does_not_hold_what_is_asked_for_is_refused() -> None:
    block = pack_planes([bytes(100), b"abc"])
    for cut in range(len(block)):
        refused(block[:cut], 100, 3)
    refused(block + b"x", 100, 3)
    refused(block, 99, 3)
    refused(block, 101, 3)
    refused((2**32 - 1).to_bytes(4, "little") + block[4:], 100, 3)


def test_a_frame_that_would_grow_beyond_its_plane_is_refused_before_it_does() -> None:
    bomb = pa.compress(bytes(2**24), codec="zstd", asbytes=True)
    before = pa.total_allocated_bytes()
    refused(len(bomb).to_bytes(4, "little") + bomb, 100)
    assert pa.total_allocated_bytes() - before < 2**20


def test_random_bytes_are_refused() -> None:
    generator = np.random.default_rng(0)
    for _ in range(200):
        content = generator.integers(0, 256, 50).astype(np.uint8).tobytes()
        refused(len(content).to_bytes(4, "little") + content, 100)


def test_threads_compress_and_read_without_disturbing_each_other() -> None:
    planes = [np.random.default_rng(seed).integers(0, 9, 5000).astype(np.uint8).tobytes() for seed in range(40)]
    expected = [pack_planes([plane]) for plane in planes]

    def round_trip(number: int) -> bool:
        block = pack_planes([planes[number]])
        return block == expected[number] and PlaneReader(block).plane(5000) == planes[number]

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(round_trip, list(range(40)) * 25))
