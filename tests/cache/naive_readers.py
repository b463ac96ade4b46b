"""Readers of bit-packed blocks, written from ``docs/cache_format.md`` alone: no numpy, one bit at a time."""

import math
import struct
from dataclasses import dataclass


@dataclass
class BitString:
    """A cursor into a bit string."""

    stored: bytes
    cursor: int = 0

    def bit(self) -> int:
        number = self.cursor
        self.cursor += 1
        return self.stored[number // 8] >> (number % 8) & 1

    def integer(self, width: int) -> int:
        return sum(self.bit() << place for place in range(width))


def width_of(num_values: int) -> int:
    return math.ceil(math.log2(num_values))


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
    bits = BitString(block)
    positions = range(num_positions)
    fineness, num_own = bits.integer(3), bits.integer(5)
    own_widths = [bits.integer(4) for _ in range(num_own)]
    dictionary = [bits.integer(width_of(vocab)) for _ in range(sum(2**width for width in own_widths))]
    classes: list[list[int] | range] = []
    widths = list(own_widths)
    for width in own_widths:
        done = sum(len(each) for each in classes)
        classes.append(dictionary[done : done + 2**width])
    start = 0
    while start < vocab:
        widths.append(min(max(math.floor(math.log2(4 * (start + 256) // 2**fineness)), 0), width_of(vocab - start)))
        classes.append(range(start, start + 2 ** widths[-1]))
        start += 2 ** widths[-1]
    sizes = [bits.integer(width_of(n)) + 1 for _ in positions]
    head_ids = [[bits.integer(width_of(vocab)) for _ in range(head_k)] for _ in positions]
    head_values = [[half(bits.integer(16)) for _ in range(head_k)] for _ in positions]
    per_position = [1 if own_bits == 0 else size for size in sizes]
    num_bits = own_bits or 12
    step = 8 / (2**num_bits - 1)
    values = [[-((bits.integer(num_bits) * step) ** 2) for _ in range(count)] for count in per_position]
    marks = []
    for _ in positions:
        occupancy = [0]
        while len(occupancy) < len(classes):
            if bits.bit():
                occupancy[-1] += 1
            else:
                occupancy.append(0)
        while sum(occupancy) < sizes[len(marks)]:
            assert bits.bit() == 1
            occupancy[-1] += 1
        marks.append(occupancy)
    ids = [
        sorted(
            classes[number][bits.integer(widths[number])]
            for number, occupied in enumerate(occupancy)
            for _ in range(occupied)
        )
        for occupancy in marks
    ]
    lengths = []
    for size in sizes:
        lengths.append([])
        for _ in range(size - 1):
            length = 0
            while not bits.bit():
                length += 1
            lengths[-1].append(length)
    counts = [[2**length + bits.integer(length) for length in own] for own in lengths]
    assert len(block) == (bits.cursor + 7) // 8
    return [
        Drawn(
            list(zip(head_ids[p], head_values[p], strict=True)),
            ids[p],
            [*counts[p], n - sum(counts[p])],
            values[p] if own_bits else values[p] * sizes[p],
        )
        for p in positions
    ]


def read_packed_topk(record: bytes, spec: dict) -> tuple[list[int], list[float], list[float]]:
    """Decode one record of a ``topk`` column with a packed dtype: ids, log-probabilities, log_z."""
    k, num_bits = spec["k"], int(spec["dtype"][1:])
    bits = BitString(record)
    ids = [bits.integer(width_of(spec["vocab_size"])) for _ in range(k)]
    bits.cursor = -(-bits.cursor // 8) * 8
    codes = [bits.integer(num_bits) for _ in range(k)]
    rest = record[-(-bits.cursor // 8) :]
    spread, mass = struct.unpack("<2e", rest[:4])
    steps = [code * spread / (2**num_bits - 1) for code in codes]
    log_mass = mass if mass < 0 else math.log1p(-math.exp(-mass))
    level = log_mass - math.log(sum(math.exp(-step) for step in steps))
    return ids, [level - step for step in steps], list(struct.unpack(f"<{len(rest) // 4 - 1}f", rest[4:]))
