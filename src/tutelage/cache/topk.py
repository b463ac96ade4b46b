"""The top-k column: ids, log-probabilities at T = 1, and one log-sum per further temperature.

In: ``ids_NK``, ``logprobs_NK``, ``log_z_NT``. Out: fixed-size records, and back.
"""

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
from tutelage.cache.fixed import DTYPES, FixedColumn, from_bytes, to_bytes
from tutelage.cache.planes import LAYOUT, byte_width, damaged_block, join_bytes, split_bytes
from tutelage.cache.quantise import TOP_LEVEL, LevelCodes, level_codes, restore_levels
from tutelage.errors import CapabilityError, NumericsError

POSITIVE_TOLERANCE = 1e-6  # a float32 log-softmax may end a rounding above 0; it is stored as 0
MASS_TOLERANCE = 1e-4  # float32 rounding summed over many kept entries
FP16_RELATIVE_BOUND = 2.0**-11  # half a unit in the last place of a normal float16
FP16_ABSOLUTE_BOUND = 2.0**-25  # half of the smallest subnormal
LEVEL_BYTES = 4  # of a compressed position: spread and mass as float16
COMPRESSED = "q8"
TOPK_DTYPES = ("fp32", "fp16", COMPRESSED)  # the most exact first


@dataclass(frozen=True)
class TopKColumn(FixedColumn):
    """The k largest log-probabilities of each position, largest first.

    ``log_z_T = log sum_v p_v ** (1 / T)`` is stored for every temperature but 1, where it is 0.

    Attributes:
        k: Kept entries.
        temperatures: Those at which the signal can be read; sorted floats. T = 1 always can.
        vocab_size: U, the width of the teacher's output head.
        dtype: Of the log-probabilities: ``fp32`` exact, ``fp16`` within ``2**-11`` of their size. ``q8`` keeps
            the mass of the tail and puts the kept log-probabilities on 256 equally spaced levels between the largest
            and the smallest, within about one step (:func:`.quantise.level_codes`); its rows are compressed.
    """

    k: int
    temperatures: tuple[int | float, ...]
    vocab_size: int
    dtype: str = "fp32"

    kind: ClassVar[str] = "topk"

    def __post_init__(self) -> None:
        if self.dtype not in TOPK_DTYPES:
            raise CapabilityError(f"topk cannot be stored as {self.dtype!r}. Expected one of {', '.join(TOPK_DTYPES)}.")
        if not 1 <= self.k <= self.vocab_size <= 2**31:
            raise CapabilityError(
                f"topk was asked for k = {self.k}, but the teacher's vocabulary has {self.vocab_size} entries. "
                "Expected 1 <= k <= vocabulary; lower `k`."
            )
        temperatures = tuple(sorted({float(temperature) for temperature in self.temperatures}))
        if not temperatures or temperatures[0] <= 0 or not np.isfinite(temperatures[-1]):
            raise CapabilityError(
                f"topk was given the temperatures {list(self.temperatures)}. Expected at least one, all above 0."
            )
        object.__setattr__(self, "temperatures", temperatures)

    @property
    def stored_temperatures(self) -> tuple[float, ...]:
        """Temperatures that cost bytes: every one but 1."""
        return tuple(float(temperature) for temperature in self.temperatures if temperature != 1)

    @property
    @override
    def name(self) -> str:
        marks = "_".join(str(temperature).removesuffix(".0") for temperature in self.temperatures)
        layout = "-z" if self.dtype == COMPRESSED else ""
        return f"topk-k{self.k}-v{self.vocab_size}-t{marks}-{self.dtype}{layout}"

    @property
    def id_dtype(self) -> torch.dtype:
        """Two bytes per id where they suffice, else four."""
        return torch.uint16 if self.vocab_size <= 2**16 else torch.uint32

    @property
    @override
    def parts(self) -> dict[str, int]:
        if self.dtype == COMPRESSED:
            ids, values = self.k * byte_width(self.vocab_size), self.k + LEVEL_BYTES
        else:
            ids, values = self.k * self.id_dtype.itemsize, self.k * DTYPES[self.dtype].itemsize
        return {"ids": ids, "values": values, "log_z": 4 * len(self.stored_temperatures)}

    @property
    @override
    def planes(self) -> dict[str, list[int]]:
        """See :class:`FixedColumn`: of ``q8`` one per byte of an id, then steps, spread and mass, ``log_z``."""
        if self.dtype != COMPRESSED:
            return {}
        return {
            "ids": [self.k] * byte_width(self.vocab_size),
            "values": [self.k, LEVEL_BYTES],
            "log_z": [self.parts["log_z"]],
        }

    @property
    @override
    def spec(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "k": self.k,
            "temperatures": list(self.temperatures),
            "vocab_size": self.vocab_size,
            "dtype": self.dtype,
            **({"layout": LAYOUT} if self.dtype == COMPRESSED else {}),
        }

    @override
    def first_problem(self, tensors: TensorDict) -> tuple[int, str] | None:
        """See :class:`Column`: NaN, positive values, unsorted values, duplicate ids, mass above 1."""
        return first_problem_in_runs(to_arrays(tensors, "ids_NK", "logprobs_NK", "log_z_NT"), self._find_problem)

    def _find_problem(
        self, ids_NK: np.ndarray, logprobs_NK: np.ndarray, log_z_NT: np.ndarray
    ) -> tuple[int, str] | None:
        if self._is_sound(ids_NK, logprobs_NK, log_z_NT):
            return None
        is_outside_NK = (ids_NK < 0) | (ids_NK >= self.vocab_size)
        with np.errstate(over="ignore"):
            mass_N = np.exp(logprobs_NK.astype(np.float64)).sum(axis=1)
        return first_named(
            {
                "a log-probability is not finite": ~np.isfinite(logprobs_NK).all(axis=1),
                "a log_z is not finite": ~np.isfinite(log_z_NT).all(axis=1),
                "a log-probability is above 0": (logprobs_NK > POSITIVE_TOLERANCE).any(axis=1),
                "the log-probabilities are not sorted, largest first": (logprobs_NK[:, 1:] > logprobs_NK[:, :-1]).any(
                    axis=1
                ),
                f"an id is outside of [0, {self.vocab_size})": is_outside_NK.any(axis=1),
                "an id occurs twice": holds_repeat(np.where(is_outside_NK, 0, ids_NK), self.vocab_size),
                "the kept probabilities sum to more than 1": mass_N > 1 + MASS_TOLERANCE,
            }
        )

    def _is_sound(self, ids_NK: np.ndarray, logprobs_NK: np.ndarray, log_z_NT: np.ndarray) -> bool:
        """Say that none of the problems is there, an eighth of the time that it takes to name one.

        Values that never rise have no NaN among them, and lie between the first and the last.
        """
        return bool(
            (logprobs_NK[:, 1:] <= logprobs_NK[:, :-1]).all()
            and (logprobs_NK[:, 0] <= POSITIVE_TOLERANCE).all()
            and (logprobs_NK[:, -1] > -np.inf).all()
            and np.isfinite(log_z_NT).all()
            # float32 sums are wrong by less than the half of the tolerance that is left out
            and (np.exp(logprobs_NK).sum(axis=1) <= 1 + MASS_TOLERANCE / 2).all()
            and ids_NK.min(initial=0) >= 0
            and ids_NK.max(initial=0) < self.vocab_size
            and not holds_repeat(ids_NK, self.vocab_size).any()
        )

    @override
    def encode(self, tensors: TensorDict) -> np.ndarray:
        """See :class:`Column`.

        Raises:
            NumericsError: If a log-probability does not survive ``dtype`` within its bound.
        """
        logprobs_NK = tensors["logprobs_NK"].detach().cpu().clamp(max=0)
        if self.dtype == COMPRESSED:
            return self._encode_levels(tensors["ids_NK"], logprobs_NK, tensors["log_z_NT"])
        stored_NK = logprobs_NK.to(DTYPES[self.dtype])
        if self.dtype == "fp16":
            require_fp16_bound(logprobs_NK, stored_NK)
        values, log_z = to_bytes(stored_NK, stored_NK.dtype), to_bytes(tensors["log_z_NT"], torch.float32)
        return np.concatenate([to_bytes(tensors["ids_NK"], self.id_dtype), values, log_z], axis=1)

    def _encode_levels(self, ids_NK: Tensor, logprobs_NK: Tensor, log_z_NT: Tensor) -> np.ndarray:
        coded = level_codes(logprobs_NK.numpy())
        steps_NK = np.diff(coded.codes_NK, axis=1, prepend=0)  # small numbers, which take half the bytes of the codes
        ids = split_bytes(ids_NK.detach().cpu().numpy(), byte_width(self.vocab_size))
        levels = np.stack([coded.spread_N, coded.mass_N], axis=1).view(np.uint8)
        log_z = to_bytes(log_z_NT, torch.float32)
        return np.concatenate([ids, steps_NK.astype(np.uint8), levels, log_z], axis=1)

    @override
    def decode(self, records: np.ndarray) -> TensorDict:
        """See :class:`FixedColumn`.

        Raises:
            CacheError: If a compressed record is not one that :meth:`encode` makes.
        """
        if self.dtype == COMPRESSED:
            return self._decode_levels(records)
        ids_end = self.parts["ids"]
        values_end = ids_end + self.parts["values"]
        # numpy widens unsigned integers several times faster than torch
        stored_NK = np.ascontiguousarray(records[:, :ids_end]).view(f"<u{self.id_dtype.itemsize}")
        return {
            "ids_NK": torch.from_numpy(stored_NK.astype(np.int64)),
            "logprobs_NK": from_bytes(records[:, ids_end:values_end], DTYPES[self.dtype]).float(),
            "log_z_NT": from_bytes(records[:, values_end:], torch.float32),
        }

    def _decode_levels(self, records: np.ndarray) -> TensorDict:
        id_width = byte_width(self.vocab_size)
        ends = np.cumsum([id_width * self.k, self.k, LEVEL_BYTES])
        ids, steps, levels, log_z = np.split(records, ends, axis=1)
        ids_NK = join_bytes(ids, id_width).astype(np.int64)
        codes_NK = np.cumsum(steps, axis=1, dtype=np.int64)
        if ids_NK.max(initial=0) >= self.vocab_size or codes_NK.max(initial=0) > TOP_LEVEL:
            raise damaged_block()
        levels_N2 = np.ascontiguousarray(levels).view("<f2")
        logprobs_NK = restore_levels(LevelCodes(codes_NK, levels_N2[:, 0], levels_N2[:, 1]))
        return {
            "ids_NK": torch.from_numpy(ids_NK),
            "logprobs_NK": torch.from_numpy(logprobs_NK),
            "log_z_NT": from_bytes(log_z, torch.float32),
        }

    @override
    def serves(self, wanted: Column) -> bool:
        """A larger k with the same vocabulary and dtype serves, if it has every temperature."""
        return (
            isinstance(wanted, TopKColumn)
            and (self.vocab_size, self.dtype) == (wanted.vocab_size, wanted.dtype)
            and self.k >= wanted.k
            and set(wanted.stored_temperatures) <= set(self.stored_temperatures)
        )

    @override
    def narrow(self, tensors: TensorDict, wanted: Column) -> TensorDict:
        assert isinstance(wanted, TopKColumn)
        if wanted == self:
            return tensors
        chosen = [self.stored_temperatures.index(temperature) for temperature in wanted.stored_temperatures]
        return {
            "ids_NK": tensors["ids_NK"][:, : wanted.k],
            "logprobs_NK": tensors["logprobs_NK"][:, : wanted.k],
            "log_z_NT": tensors["log_z_NT"][:, chosen],
        }

    def log_z(self, log_z_NT: Tensor) -> dict[float, Tensor]:
        """Name the columns of ``log_z_NT`` by temperature; T = 1 gets its exact 0."""
        stored = dict(zip(self.stored_temperatures, log_z_NT.unbind(dim=1), strict=True))
        zero_N = log_z_NT.new_zeros(log_z_NT.shape[0])
        return {float(temperature): stored.get(float(temperature), zero_N) for temperature in self.temperatures}


def require_fp16_bound(logprobs_NK: Tensor, stored_NK: Tensor) -> None:
    """Check that float16 kept every value within half a unit in the last place.

    Raises:
        NumericsError: If it did not: a log-probability below -65,504.
    """
    # all exact in float32: a power of two times a float32, a difference of neighbours, and the sign of one
    bound_NK = logprobs_NK.float().abs().mul_(FP16_RELATIVE_BOUND).clamp_(min=FP16_ABSOLUTE_BOUND)
    excess_NK = (stored_NK.float() - logprobs_NK.float()).abs_().sub_(bound_NK)
    if excess_NK.numel() and not float(excess_NK.amax()) <= 0:  # a NaN is not <= anything
        raise NumericsError(
            f"The log-probability {float(logprobs_NK.min()):g} does not fit into float16 (error bound 2**-11 of its "
            "size). Store topk with dtype fp32."
        )
