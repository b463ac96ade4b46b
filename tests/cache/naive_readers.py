"""Readers of compressed blocks, written from ``docs/cache_format.md`` alone: one integer at a time."""

import math
import struct
from dataclasses import dataclass

import pyarrow as pa


@dataclass
class Planes:
    """A cursor into a block."""

    stored: bytes
    cursor: int = 0

    def number(self) -> int:
        self.cursor += 4
        return int.from_bytes(self.stored[self.cursor - 4 : self.cursor], "little")

    def plane(self, size: int) -> bytes:
        length = self.number() if size > 64 else size
        self.cursor += length
        part = self.stored[self.cursor - length : self.cursor]
        return part if length == size else pa.decompress(part, size, codec="zstd", asbytes=True)

    def integers(self, size: int, width: int) -> list[int]:
        planes = [self.plane(size) for _ in range(width)]
        return [sum(plane[place] << 8 * number for number, plane in enumerate(planes)) for place in range(size)]


def bytes_for(num_values: int) -> int:
    return next(width for width in (1, 2, 3, 4) if 256**width >= num_values)


def half(code: int) -> float:
    return struct.unpack("<e", struct.pack("<H", code))[0]


@dataclass
class Drawn:
    """One position of a sampled row."""

    head: list[tuple[int, float]]
    ids: list[int]
    counts: list[int]
    logprobs: list[float]


def read_sampled(block: bytes, num_positions: int, spec: dict) -> list[Drawn]:
    """Decode the block of one row of a ``sampled`` column."""
    n, vocab, head_k, own_bits = (spec[name] for name in ("num_draws", "vocab_size", "head_k", "logprob_bits"))
    planes = Planes(block)
    num_ids = planes.number()
    counts = planes.integers(num_ids, bytes_for(n + 1))
    gaps = planes.integers(num_ids, bytes_for(vocab))
    num_bits = own_bits or 12
    codes = planes.integers(num_ids if own_bits else num_positions, bytes_for(2**num_bits))
    head_ids = planes.integers(num_positions * head_k, bytes_for(vocab))
    head_values = [half(code) for code in planes.integers(num_positions * head_k, 2)]
    assert planes.cursor == len(block)
    values = [-((code * 8 / (2**num_bits - 1)) ** 2) for code in codes]
    found, place = [], 0
    for p in range(num_positions):
        own = slice(p * head_k, (p + 1) * head_k)
        drawn = Drawn(list(zip(head_ids[own], head_values[own], strict=True)), [], [], [])
        id_ = -1
        while sum(drawn.counts) < n:
            id_ += gaps[place] + 1
            drawn.ids.append(id_)
            drawn.counts.append(counts[place])
            drawn.logprobs.append(values[place] if own_bits else values[p])
            place += 1
        found.append(drawn)
    assert place == num_ids
    return found


def read_compressed_topk(block: bytes, num_positions: int, spec: dict) -> list[tuple[list[int], list[float], bytes]]:
    """Decode the block of one row of a ``topk`` column in ``q8``: ids, log-probabilities, bytes of log_z."""
    k = spec["k"]
    planes = Planes(block)
    all_ids = planes.integers(num_positions * k, bytes_for(spec["vocab_size"]))
    all_steps = planes.plane(num_positions * k)
    levels = planes.plane(num_positions * 4)
    num_log_z = sum(temperature != 1 for temperature in spec["temperatures"])
    log_z = planes.plane(num_positions * 4 * num_log_z)
    assert planes.cursor == len(block)
    found = []
    for p in range(num_positions):
        spread, mass = struct.unpack("<2e", levels[4 * p : 4 * p + 4])
        own = slice(p * k, (p + 1) * k)
        below = [sum(all_steps[own][: j + 1]) * spread / 255 for j in range(k)]
        log_mass = mass if mass < 0 else math.log1p(-math.exp(-mass))
        level = log_mass - math.log(sum(math.exp(-each) for each in below))
        stored_log_z = log_z[4 * num_log_z * p : 4 * num_log_z * (p + 1)]
        found.append((all_ids[own], [level - each for each in below], stored_log_z))
    return found
