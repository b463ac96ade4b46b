"""The top-k column: ids, log-probabilities at T = 1, and one log-sum per further temperature.

In: ``ids_NK``, ``logprobs_NK``, ``log_z_NT``. Out: fixed-size records, and back.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from tutelage.cache.bits import bit_width, pack_records, unpack_records
from tutelage.cache.column import Column, TensorDict, first_true, sorted_rows
from tutelage.cache.fixed import DTYPES, FixedColumn, from_bytes, to_bytes
from tutelage.cache.quantise import LevelCodes, level_codes, restore_levels
from tutelage.errors import CacheError, CapabilityError, NumericsError

POSITIVE_TOLERANCE = 1e-6  # a float32 log-softmax may end a rounding above 0; it is stored as 0
MASS_TOLERANCE = 1e-4  # float32 rounding summed over many kept entries
FP16_RELATIVE_BOUND = 2.0**-11  # half a unit in the last place of a normal float16
FP16_ABSOLUTE_BOUND = 2.0**-25  # half of the smallest subnormal
CODE_BITS = {"q8": 8, "q6": 6, "q5": 5, "q4": 4}  # packed layouts: bits of a log-probability
LEVEL_BYTES = 4  # of a packed position: spread and mass as float16
TOPK_DTYPES = ("fp32", "fp16", *CODE_BITS)  # the most exact first


@dataclass(frozen=True)
class TopKColumn(FixedColumn):
    """The k largest log-probabilities of each position, largest first.

    ``log_z_T = log sum_v p_v ** (1 / T)`` is stored for every temperature but 1, where it is 0.

    Attributes:
        k: Kept entries.
        temperatures: Those at which the signal can be read; sorted floats. T = 1 always can.
        vocab_size: U, the width of the teacher's output head.
        dtype: Of the log-probabilities: ``fp32`` exact, ``fp16`` within ``2**-11`` of their size. ``q8``, ``q6``,
            ``q5`` and ``q4`` keep the mass of the tail and put the kept log-probabilities into 2**bits equal steps
            between the largest and the smallest, within about one step (:func:`.quantise.level_codes`); ids then
            take ``ceil(log2 vocab_size)`` bits.
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
        return f"topk-k{self.k}-v{self.vocab_size}-t{marks}-{self.dtype}"

    @property
    def id_dtype(self) -> torch.dtype:
        """Two bytes per id where they suffice, else four."""
        return torch.uint16 if self.vocab_size <= 2**16 else torch.uint32

    @property
    @override
    def parts(self) -> dict[str, int]:
        if self.dtype in CODE_BITS:
            ids = -(-self.k * bit_width(self.vocab_size) // 8)
            values = -(-self.k * CODE_BITS[self.dtype] // 8) + LEVEL_BYTES
        else:
            ids, values = self.k * self.id_dtype.itemsize, self.k * DTYPES[self.dtype].itemsize
        return {"ids": ids, "values": values, "log_z": 4 * len(self.stored_temperatures)}

    @property
    @override
    def spec(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "k": self.k,
            "temperatures": list(self.temperatures),
            "vocab_size": self.vocab_size,
            "dtype": self.dtype,
        }

    @override
    def first_problem(self, tensors: TensorDict) -> tuple[int, str] | None:
        """See :class:`Column`: NaN, positive values, unsorted values, duplicate ids, mass above 1."""
        ids_NK, logprobs_NK, log_z_NT = tensors["ids_NK"], tensors["logprobs_NK"], tensors["log_z_NT"]
        checks = {
            "a log-probability is not finite": ~logprobs_NK.isfinite().all(dim=1),
            "a log_z is not finite": ~log_z_NT.isfinite().all(dim=1),
            "a log-probability is above 0": (logprobs_NK > POSITIVE_TOLERANCE).any(dim=1),
            "the log-probabilities are not sorted, largest first": (logprobs_NK.diff(dim=1) > 0).any(dim=1),
            "an id occurs twice": (sorted_rows(ids_NK).diff(dim=1) == 0).any(dim=1),
            f"an id is outside of [0, {self.vocab_size})": ((ids_NK < 0) | (ids_NK >= self.vocab_size)).any(dim=1),
            "the kept probabilities sum to more than 1": logprobs_NK.double().exp().sum(dim=1) > 1 + MASS_TOLERANCE,
        }
        found = (first_true(wrong_N, reason) for reason, wrong_N in checks.items())
        return next((problem for problem in found if problem is not None), None)

    @override
    def encode(self, tensors: TensorDict) -> np.ndarray:
        """See :class:`Column`.

        Raises:
            NumericsError: If a log-probability does not survive ``dtype`` within its bound.
        """
        logprobs_NK = tensors["logprobs_NK"].detach().cpu().clamp(max=0)
        log_z = to_bytes(tensors["log_z_NT"], torch.float32)
        if self.dtype in CODE_BITS:
            bits = CODE_BITS[self.dtype]
            coded = level_codes(logprobs_NK.numpy(), bits)
            ids = pack_records(tensors["ids_NK"].detach().cpu().numpy(), bit_width(self.vocab_size))
            levels = np.stack([coded.spread_N, coded.mass_N], axis=1).view(np.uint8)
            return np.concatenate([ids, pack_records(coded.codes_NK, bits), levels, log_z], axis=1)
        values = to_bytes(logprobs_NK, DTYPES[self.dtype])
        if self.dtype == "fp16":
            require_fp16_bound(logprobs_NK, from_bytes(values, torch.float16))
        return np.concatenate([to_bytes(tensors["ids_NK"], self.id_dtype), values, log_z], axis=1)

    @override
    def decode(self, records: np.ndarray) -> TensorDict:
        ids_end = self.parts["ids"]
        values_end = ids_end + self.parts["values"]
        return {
            "ids_NK": self._decode_ids(records[:, :ids_end]),
            "logprobs_NK": self._decode_values(records[:, ids_end:values_end]),
            "log_z_NT": from_bytes(records[:, values_end:], torch.float32),
        }

    def _decode_ids(self, records: np.ndarray) -> Tensor:
        if self.dtype in CODE_BITS:
            ids_NK = unpack_records(records, self.k, bit_width(self.vocab_size))
            if ids_NK.size and int(ids_NK.max()) >= self.vocab_size:
                raise CacheError(
                    f"The cache column {self.name} holds the id {int(ids_NK.max())}, beyond its vocabulary: its bytes "
                    "were changed. Delete the shard and run the teach stage again."
                )
            return torch.from_numpy(ids_NK)
        # numpy widens unsigned integers several times faster than torch
        stored = np.ascontiguousarray(records).view(f"<u{self.id_dtype.itemsize}")
        return torch.from_numpy(stored.astype(np.int64))

    def _decode_values(self, records: np.ndarray) -> Tensor:
        if self.dtype in CODE_BITS:
            bits = CODE_BITS[self.dtype]
            spread_N2 = np.ascontiguousarray(records[:, -LEVEL_BYTES:]).view("<f2")
            codes_NK = unpack_records(records[:, :-LEVEL_BYTES], self.k, bits)
            return torch.from_numpy(restore_levels(LevelCodes(codes_NK, spread_N2[:, 0], spread_N2[:, 1]), bits))
        return from_bytes(records, DTYPES[self.dtype]).float()

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
    # both are exact in float32: a power of two times a float32, and a difference of neighbours
    bound_NK = (logprobs_NK.float().abs() * FP16_RELATIVE_BOUND).clamp_(min=FP16_ABSOLUTE_BOUND)
    error_NK = (stored_NK.float() - logprobs_NK.float()).abs_()
    if not bool((error_NK <= bound_NK).all()):
        raise NumericsError(
            f"The log-probability {float(logprobs_NK.min()):g} does not fit into float16 (error bound 2**-11 of its "
            "size). Store topk with dtype fp32."
        )
