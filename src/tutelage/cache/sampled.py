"""The column of random samples: an unbiased, sparse picture of the teacher's distribution.

In: ids, how often each was drawn, log-probabilities. Out: one block of bytes per row, and back.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from tutelage.cache.column import (
    Column,
    TensorDict,
    first_named,
    first_problem_in_runs,
    holds_repeat,
    to_arrays,
)
from tutelage.cache.planes import (
    LAYOUT,
    LENGTH,
    PlaneReader,
    byte_width,
    damaged_block,
    join_planes,
    pack_planes,
    planes_of,
)
from tutelage.cache.quantise import restore_sqrt, sqrt_codes
from tutelage.cache.topk import MASS_TOLERANCE, POSITIVE_TOLERANCE
from tutelage.errors import CapabilityError, NumericsError

MEAN_BITS = 12  # within 0.004 nats at 4 nats; 0.5 bytes less than float16, 0.5 more than the eye needs
HEAD_VALUE_BYTES = 2  # float16
MAX_LOGPROB_BITS = 16


@dataclass(frozen=True)
class SampledColumn(Column):
    """Draws from the teacher at one temperature, perhaps beside an exact head.

    A row of ``ids_NK``: ``head_k`` exact entries (largest first, count 0), the distinct drawn ids (ascending, counts
    from 1 that sum to ``num_draws``), padding. The gradient of a forward KL needs ids and counts only, its value also
    ``sum_j count_j log p_j / n``: with ``logprob_bits`` 0 that mean is stored, and every drawn id comes back with it.

    Attributes:
        num_draws: n, draws per position, with replacement. With a head they are from the tail.
        temperature: Of the distribution that is drawn from.
        seed: Of the draws.
        vocab_size: U, the width of the teacher's output head.
        head_k: Exact entries before the draws.
        logprob_bits: Of each drawn id's log-probability; 0 stores their mean in 12 bits.
    """

    num_draws: int
    temperature: float
    seed: int
    vocab_size: int
    head_k: int = 0
    logprob_bits: int = 0

    kind: ClassVar[str] = "sampled"

    def __post_init__(self) -> None:
        object.__setattr__(self, "temperature", float(self.temperature))
        if not 1 <= self.num_draws < 2**31:
            raise CapabilityError(f"sampled was asked for {self.num_draws} draws per position; expected at least 1.")
        if not (0 <= self.head_k < self.vocab_size <= 2**31):
            raise CapabilityError(
                f"sampled was asked for an exact head of {self.head_k} of {self.vocab_size} ids. Expected 0 <= head_k "
                "< vocabulary, or nothing is left to draw; lower `head_k`, or use topk."
            )
        if not (0 < self.temperature < float("inf")):
            raise CapabilityError(f"sampled was given the temperature {self.temperature}; expected one above 0.")
        if not 0 <= self.logprob_bits <= MAX_LOGPROB_BITS:
            raise CapabilityError(
                f"sampled was given logprob_bits = {self.logprob_bits}; expected 0 (their mean only) to "
                f"{MAX_LOGPROB_BITS}."
            )

    @property
    @override
    def name(self) -> str:
        temperature = str(self.temperature).removesuffix(".0")
        return (
            f"sampled-n{self.num_draws}-h{self.head_k}-v{self.vocab_size}-t{temperature}-s{self.seed}-"
            f"b{self.logprob_bits}-z"
        )

    @property
    @override
    def spec(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "num_draws": self.num_draws,
            "temperature": self.temperature,
            "seed": self.seed,
            "vocab_size": self.vocab_size,
            "head_k": self.head_k,
            "logprob_bits": self.logprob_bits,
            "layout": LAYOUT,
        }

    @property
    def _value_bits(self) -> int:
        return self.logprob_bits or MEAN_BITS

    @property
    def _widths(self) -> dict[str, int]:
        """Bytes of each integer, by section, in the order in which a block holds them."""
        return {
            "counts": byte_width(self.num_draws + 1),
            "ids": byte_width(self.vocab_size),
            "values": byte_width(1 << self._value_bits),
            "head_ids": byte_width(self.vocab_size),
            "head_values": HEAD_VALUE_BYTES,
        }

    def _sizes(self, num_positions: int, num_ids: int) -> dict[str, int]:
        """Integers in each section of a row with ``num_ids`` drawn ids in all."""
        head = self.head_k * num_positions
        num_values = num_ids if self.logprob_bits else num_positions
        return {"counts": num_ids, "ids": num_ids, "values": num_values, "head_ids": head, "head_values": head}

    @property
    def _most_ids(self) -> int:
        """Distinct ids that a position can draw."""
        return min(self.num_draws, self.vocab_size - self.head_k)

    @property
    @override
    def max_bytes(self) -> float:
        """See :class:`Column`: every draw another id, nothing compressed, in a row of one position."""
        sizes = self._sizes(1, self._most_ids)
        planes = sum(width * (LENGTH.size + sizes[name]) for name, width in self._widths.items())
        return LENGTH.size + planes

    @override
    def fits(self, num_bytes: np.ndarray, counts: np.ndarray) -> bool:
        """A row takes its number of ids and a byte per plane at least, nothing without positions."""
        low = LENGTH.size + sum(width for name, width in self._widths.items() if self._sizes(1, 1)[name])
        return bool(((num_bytes >= np.minimum(counts, 1) * low) & (num_bytes <= counts * self.max_bytes)).all())

    @override
    def first_problem(self, tensors: TensorDict) -> tuple[int, str] | None:
        """See :class:`Column`: what top-k refuses, and counts or padding that are not as laid out above."""
        return first_problem_in_runs(to_arrays(tensors, "ids_NK", "counts_NK", "logprobs_NK"), self._find_problem)

    def _find_problem(
        self, ids_NK: np.ndarray, counts_NK: np.ndarray, logprobs_NK: np.ndarray
    ) -> tuple[int, str] | None:
        drawn_NK = counts_NK > 0
        places_K = np.arange(ids_NK.shape[1])
        kept_NK = places_K < self.head_k + drawn_NK.sum(axis=1, keepdims=True)
        if self._is_sound(ids_NK, counts_NK, logprobs_NK, kept_NK):
            return None
        is_outside_NK = (ids_NK < 0) | (ids_NK >= self.vocab_size)
        drawn_ids_NK = np.where(drawn_NK, ids_NK, self.vocab_size)[:, self.head_k :]
        padding_NK = (ids_NK != 0) | (logprobs_NK != 0) | (counts_NK != 0)
        head_NH = logprobs_NK[:, : self.head_k]
        with np.errstate(over="ignore", invalid="ignore"):
            mass_N = (np.exp(logprobs_NK.astype(np.float64)) * kept_NK).sum(axis=1)
        return first_named(
            {
                "a log-probability is not finite": ~np.isfinite(logprobs_NK).all(axis=1),
                "a log-probability is above 0": (logprobs_NK > POSITIVE_TOLERANCE).any(axis=1),
                "a count is negative": (counts_NK < 0).any(axis=1),
                f"the counts do not sum to {self.num_draws}": counts_NK.sum(axis=1) != self.num_draws,
                "the drawn ids do not follow the exact head": (drawn_NK != (kept_NK & (places_K >= self.head_k))).any(
                    axis=1
                ),
                f"an id is outside of [0, {self.vocab_size})": is_outside_NK.any(axis=1),
                "an id occurs twice": self._holds_repeat(np.where(is_outside_NK, 0, ids_NK), kept_NK),
                "the drawn ids are not ascending": (drawn_ids_NK[:, 1:] < drawn_ids_NK[:, :-1]).any(axis=1),
                "the exact head is not sorted, largest first": (head_NH[:, 1:] > head_NH[:, :-1]).any(axis=1),
                "padding is not 0": (padding_NK & ~kept_NK).any(axis=1),
                "the kept probabilities sum to more than 1": mass_N > 1 + MASS_TOLERANCE,
            }
        )

    def _is_sound(
        self, ids_NK: np.ndarray, counts_NK: np.ndarray, logprobs_NK: np.ndarray, kept_NK: np.ndarray
    ) -> bool:
        """Say that none of the problems is there, a fifth of the time that it takes to name one.

        Drawn ids that rise are all different; only with a head must the rows be sorted to see it.
        """
        drawn_ids_NJ, head_NH = ids_NK[:, self.head_k :], logprobs_NK[:, : self.head_k]
        return bool(
            np.array_equal(counts_NK[:, self.head_k :] > 0, kept_NK[:, self.head_k :])
            and not counts_NK[:, : self.head_k].any()
            and counts_NK.min(initial=0) >= 0
            and (counts_NK.sum(axis=1) == self.num_draws).all()
            and ids_NK.min(initial=0) >= 0
            and ids_NK.max(initial=0) < self.vocab_size
            and ((drawn_ids_NJ[:, 1:] > drawn_ids_NJ[:, :-1]) | ~kept_NK[:, self.head_k + 1 :]).all()
            and not (self.head_k and self._holds_repeat(ids_NK, kept_NK).any())
            and (head_NH[:, 1:] <= head_NH[:, :-1]).all()
            and logprobs_NK.min(initial=0) > -np.inf  # a NaN comes out of a minimum, and is not above anything
            and logprobs_NK.max(initial=0) <= POSITIVE_TOLERANCE
            and not ids_NK[~kept_NK].any()
            and not logprobs_NK[~kept_NK].any()
            # float32 sums are wrong by less than the half of the tolerance that is left out
            and ((np.exp(logprobs_NK) * kept_NK).sum(axis=1) <= 1 + MASS_TOLERANCE / 2).all()
        )

    def _holds_repeat(self, ids_NK: np.ndarray, kept_NK: np.ndarray) -> np.ndarray:
        beyond_K = self.vocab_size + np.arange(ids_NK.shape[1])  # padding repeats nothing
        return holds_repeat(np.where(kept_NK, ids_NK, beyond_K), self.vocab_size + ids_NK.shape[1])

    @override
    def encode_rows(self, tensors: TensorDict, counts: np.ndarray) -> list[bytes]:
        """See :class:`Column`.

        Raises:
            NumericsError: If a log-probability does not survive its codes within their bound.
        """
        arrays = to_arrays(tensors, "ids_NK", "counts_NK", "logprobs_NK")
        ends = np.cumsum(counts)
        return [
            self._encode_row(*(array[end - count : end] for array in arrays)) if count else b""
            for end, count in zip(ends, counts, strict=True)
        ]

    def _encode_row(self, ids_PK: np.ndarray, counts_PK: np.ndarray, logprobs_PK: np.ndarray) -> bytes:
        drawn_PK = counts_PK > 0
        counts, logprobs_PK = counts_PK[drawn_PK], np.minimum(logprobs_PK, 0)
        if self.logprob_bits:
            values = sqrt_codes(logprobs_PK[drawn_PK], self.logprob_bits)
        else:
            means_P = (logprobs_PK.astype(np.float64) * counts_PK).sum(axis=1) / self.num_draws
            values = sqrt_codes(means_P, MEAN_BITS)
        sections = {
            "counts": counts,
            "ids": _gaps(ids_PK[drawn_PK], drawn_PK.sum(axis=1)),
            "values": values,
            "head_ids": ids_PK[:, : self.head_k],
            "head_values": _float16_codes(logprobs_PK[:, : self.head_k]),
        }
        planes = [plane for name, width in self._widths.items() for plane in planes_of(sections[name], width)]
        return LENGTH.pack(len(counts)) + pack_planes(planes)

    @override
    def decode_rows(self, blocks: Sequence[np.ndarray], counts: np.ndarray) -> TensorDict:
        """See :class:`Column`.

        Raises:
            CacheError: If a block is not one that :meth:`encode_rows` makes.
        """
        sections, num_ids, _ = self._read(blocks, counts)
        sizes_N = self._set_sizes(sections["counts"], num_ids, counts)
        ids = _ids_of_gaps(sections["ids"], sizes_N)
        if max(ids.max(initial=0), sections["head_ids"].max(initial=0)) >= self.vocab_size:
            raise damaged_block()
        if sections["values"].max(initial=0) >> self._value_bits:
            raise damaged_block()
        drawn_NJ = np.arange(sizes_N.max(initial=0)) < sizes_N[:, None]
        ids_NJ, counts_NJ = np.zeros(drawn_NJ.shape, dtype=np.int64), np.zeros(drawn_NJ.shape, dtype=np.int64)
        logprobs_NJ = np.zeros(drawn_NJ.shape, dtype=np.float32)
        ids_NJ[drawn_NJ], counts_NJ[drawn_NJ] = ids, sections["counts"]
        values = restore_sqrt(sections["values"], self._value_bits)
        logprobs_NJ[drawn_NJ] = values if self.logprob_bits else np.repeat(values, sizes_N)
        head_ids_NH = sections["head_ids"].reshape(len(sizes_N), self.head_k)
        head_values_NH = sections["head_values"].astype(np.uint16).view(np.float16).reshape(head_ids_NH.shape)
        return {
            "ids_NK": _beside(head_ids_NH, ids_NJ),
            "counts_NK": _beside(np.zeros_like(head_ids_NH), counts_NJ),
            "logprobs_NK": _beside(head_values_NH.astype(np.float32), logprobs_NJ),
        }

    @override
    def count_parts(self, blocks: Iterable[np.ndarray], counts: np.ndarray) -> dict[str, int]:
        _, _, num_bytes = self._read(list(blocks), counts)
        return {
            "ids": num_bytes["ids"] + num_bytes["head_ids"] + LENGTH.size * int((counts > 0).sum()),
            "counts": num_bytes["counts"],
            "values": num_bytes["values"] + num_bytes["head_values"],
        }

    def _read(
        self, blocks: Sequence[np.ndarray], counts: np.ndarray
    ) -> tuple[dict[str, np.ndarray], np.ndarray, dict[str, int]]:
        """Read some blocks: their sections laid end to end, drawn ids per block, stored bytes per section."""
        widths = self._widths
        planes: dict[str, list[list[bytes]]] = {name: [[] for _ in range(width)] for name, width in widths.items()}
        num_bytes = dict.fromkeys(widths, 0)
        num_ids = np.zeros(len(blocks), dtype=np.int64)
        for number, (block, num_positions) in enumerate(zip(blocks, counts.tolist(), strict=True)):
            reader = PlaneReader(block.tobytes())
            if num_positions:
                (num_ids[number],) = LENGTH.unpack(reader.take(LENGTH.size))
                if not num_positions <= num_ids[number] <= num_positions * self._most_ids:
                    raise damaged_block()
                for name, size in self._sizes(num_positions, int(num_ids[number])).items():
                    before = reader.cursor
                    for own in planes[name]:
                        own.append(reader.plane(size))
                    num_bytes[name] += reader.cursor - before
            reader.finish()
        return {name: join_planes([b"".join(own) for own in planes[name]]) for name in widths}, num_ids, num_bytes

    def _set_sizes(self, drawn: np.ndarray, num_ids: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Find how many distinct ids each position drew: its counts are those that sum to ``num_draws``."""
        totals = np.cumsum(drawn)
        stops_N = np.flatnonzero(totals % self.num_draws == 0) + 1
        num_positions = int(counts.sum())
        if drawn.min(initial=1) < 1 or len(stops_N) != num_positions:
            raise damaged_block()
        # as many multiples of the draws as positions, none twice: all are there if the last one is
        if num_positions and (stops_N[-1] != len(drawn) or totals[-1] != num_positions * self.num_draws):
            raise damaged_block()
        before = np.concatenate([[0], stops_N])
        if not np.array_equal(before[np.cumsum(counts)], np.cumsum(num_ids)):
            raise damaged_block()
        return np.diff(before)


def _gaps(ids: np.ndarray, sizes_N: np.ndarray) -> np.ndarray:
    """Give how many ids each one leaves out after the one before it in its set; sets are ascending, end to end."""
    before = np.concatenate([[-1], ids[:-1]])
    before[np.cumsum(sizes_N) - sizes_N] = -1
    return ids - before - 1


def _ids_of_gaps(gaps: np.ndarray, sizes_N: np.ndarray) -> np.ndarray:
    """Undo :func:`_gaps`: ids ascend within their set whatever the gaps are."""
    sums = np.cumsum(gaps + 1)
    before = np.concatenate([[0], sums])[np.cumsum(sizes_N) - sizes_N]
    return sums - np.repeat(before, sizes_N) - 1


def _float16_codes(logprobs: np.ndarray) -> np.ndarray:
    """Round to float16, at most 2**-11 of its size off, and give the bits.

    Raises:
        NumericsError: If a log-probability is below -65,504.
    """
    with np.errstate(over="ignore"):
        stored = logprobs.astype(np.float16)
    if not np.isfinite(stored).all():
        raise NumericsError(
            f"The log-probability {float(logprobs.min()):g} of an exact head does not fit into float16. Lower `head_k`."
        )
    return stored.view(np.uint16)


def _beside(left: np.ndarray, right: np.ndarray) -> Tensor:
    return torch.from_numpy(np.concatenate([left, right], axis=1) if left.shape[1] else np.ascontiguousarray(right))
