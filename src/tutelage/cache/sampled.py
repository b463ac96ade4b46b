"""The column of random samples: an unbiased, sparse picture of the teacher's distribution.

In: ids, how often each was drawn, log-probabilities. Out: one block of bits per row, and back.
"""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from tutelage.cache.bits import MAX_WIDTH, BitReader, bit_width, damaged_block, pack_bits, pack_fields
from tutelage.cache.column import (
    Column,
    TensorDict,
    first_named,
    first_problem_in_runs,
    holds_repeat,
    to_arrays,
)
from tutelage.cache.count_code import count_bits, read_counts
from tutelage.cache.id_classes import FINENESS_BITS, base_classes, choose_code
from tutelage.cache.id_sets import read_row_codes, read_sets, row_code_bits, set_bits
from tutelage.cache.quantise import restore_sqrt, sqrt_codes
from tutelage.cache.topk import MASS_TOLERANCE, POSITIVE_TOLERANCE
from tutelage.errors import CapabilityError, NumericsError

MEAN_BITS = 12  # within 0.004 nats at 4 nats; 0.5 bytes less than float16, 0.5 more than the eye needs
HEAD_VALUE_BITS = 16  # float16
MAX_LOGPROB_BITS = 16
NO_ID = np.uint32(2**32 - 1)  # sorts after every id
Sections = dict[str, np.ndarray]


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
            f"b{self.logprob_bits}"
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
        }

    @functools.cached_property
    def _fixed_bits(self) -> int:
        """Bits that every position takes: number of ids, head, mean."""
        head = self.head_k * (bit_width(self.vocab_size) + HEAD_VALUE_BITS)
        return bit_width(self.num_draws) + head + (MEAN_BITS if not self.logprob_bits else 0)

    @functools.cached_property
    @override
    def max_bytes(self) -> float:
        """See :class:`Column`: n distinct ids in the widest classes, counts at their worst, a code per position."""
        finenesses = [base_classes(self.vocab_size, fineness) for fineness in range(1 << FINENESS_BITS)]
        sets = min(len(base) + self.num_draws * (1 + int(base.widths.max())) for base in finenesses)
        return 2 + (self._fixed_bits + sets + self.num_draws * (1.5 + self.logprob_bits)) / 8

    @override
    def fits(self, num_bytes: np.ndarray, counts: np.ndarray) -> bool:
        """A position takes at least its fixed bits and one mark, and at most ``max_bytes``."""
        low = 8 * num_bytes >= counts * (self._fixed_bits + 1)
        return bool((low & (num_bytes <= counts * self.max_bytes)).all())

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
        sizes = drawn_PK.sum(axis=1)
        ids, counts, logprobs = ids_PK[drawn_PK], counts_PK[drawn_PK], np.minimum(logprobs_PK, 0)
        code = choose_code(ids, len(sizes), self.vocab_size)
        fixed = [
            pack_fields(sizes - 1, bit_width(self.num_draws)),
            pack_fields(ids_PK[:, : self.head_k], bit_width(self.vocab_size)),
            pack_fields(_float16_codes(logprobs[:, : self.head_k]), HEAD_VALUE_BITS),
        ]
        if self.logprob_bits:
            values = pack_fields(sqrt_codes(logprobs[drawn_PK], self.logprob_bits), self.logprob_bits)
        else:
            means_P = (logprobs.astype(np.float64) * counts_PK).sum(axis=1) / self.num_draws
            values = pack_fields(sqrt_codes(means_P, MEAN_BITS), MEAN_BITS)
        sets = set_bits(ids, sizes, code, self.vocab_size)
        return pack_bits([*row_code_bits(code, self.vocab_size), *fixed, values, *sets, *count_bits(counts, sizes)])

    @override
    def decode_rows(self, blocks: Sequence[np.ndarray], counts: np.ndarray) -> TensorDict:
        """See :class:`Column`.

        Raises:
            CacheError: If a block is not one that :meth:`encode_rows` makes.
        """
        sections, _ = self._read(blocks, counts)
        sizes_N = sections["sizes"]
        num_drawn = int(sizes_N.max()) if len(sizes_N) else 0
        drawn_NJ = np.arange(num_drawn) < sizes_N[:, None]
        ids_NJ = np.full(drawn_NJ.shape, NO_ID)
        ids_NJ[drawn_NJ] = sections["ids"]
        ids_NJ.sort(axis=1)  # a dictionary class comes before smaller ids; counts and values are in this order
        ids_NJ[~drawn_NJ] = 0
        counts_NJ = np.zeros(drawn_NJ.shape, dtype=np.int64)
        counts_NJ[drawn_NJ] = sections["counts"]
        logprobs_NJ = np.zeros(drawn_NJ.shape, dtype=np.float32)
        if self.logprob_bits:
            logprobs_NJ[drawn_NJ] = restore_sqrt(sections["values"], self.logprob_bits)
        else:
            logprobs_NJ = restore_sqrt(sections["values"], MEAN_BITS)[:, None] * drawn_NJ
        head_ids_NH = sections["head_ids"].reshape(-1, self.head_k) if self.head_k else ids_NJ[:, :0]
        head_values_NH = sections["head_values"].astype(np.uint16).view(np.float16).reshape(head_ids_NH.shape)
        return {
            "ids_NK": _beside(head_ids_NH.astype(np.int64), ids_NJ.astype(np.int64)),
            "counts_NK": _beside(np.zeros_like(head_ids_NH, dtype=np.int64), counts_NJ),
            "logprobs_NK": _beside(head_values_NH.astype(np.float32), logprobs_NJ),
        }

    @override
    def count_parts(self, blocks: Iterable[np.ndarray], counts: np.ndarray) -> dict[str, int]:
        """See :class:`Column`; the bits that fill up the last bytes are counted to the ids."""
        blocks = list(blocks)
        _, bits = self._read(blocks, counts)
        parts = {"counts": (bits["sizes"] + bits["counts"]) // 8, "values": (bits["values"] + bits["head_values"]) // 8}
        return {"ids": sum(len(block) for block in blocks) - sum(parts.values()), **parts}

    def _read(self, blocks: Sequence[np.ndarray], counts: np.ndarray) -> tuple[Sections, dict[str, int]]:
        """Read every section of some blocks, and how many bits each takes."""
        reader = BitReader(blocks)
        num_sets = counts.astype(np.int64)
        codes = read_row_codes(reader, num_sets, self.vocab_size)
        sections: Sections = {}
        bits: dict[str, int] = {}
        before = int(reader.cursors.sum())

        def note(name: str, values: np.ndarray) -> np.ndarray:
            nonlocal before
            sections[name] = values
            bits[name], before = int(reader.cursors.sum()) - before, int(reader.cursors.sum())
            return values

        sizes = note("sizes", reader.read(num_sets, bit_width(self.num_draws)) + 1)
        head_ids = note("head_ids", reader.read(num_sets * self.head_k, bit_width(self.vocab_size)))
        if (sizes > self.num_draws).any() or (head_ids >= self.vocab_size).any():
            raise damaged_block()
        note("head_values", reader.read(num_sets * self.head_k, HEAD_VALUE_BITS))
        per_block = np.diff(np.concatenate([[0], np.cumsum(sizes)])[np.concatenate([[0], np.cumsum(num_sets)])])
        if self.logprob_bits:
            note("values", reader.read(per_block, self.logprob_bits))
        else:
            note("values", reader.read(num_sets, MEAN_BITS))
        note("ids", read_sets(reader, sizes, num_sets, codes, self.vocab_size))
        note("counts", read_counts(reader, sizes, num_sets, self.num_draws))
        reader.finish()
        return sections, bits


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


assert MAX_LOGPROB_BITS <= MAX_WIDTH
