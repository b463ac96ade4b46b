"""The columns of hidden states after one layer: per token, or pooled over a row's real tokens.

In: ``hidden_NE`` or ``pooled_NE``. Out: fixed-size records, and back. Layer numbers: 0 is the output of the embeddings,
``n`` that of the n-th decoder layer, before the final norm.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from tutelage.cache.column import Column, TensorDict, first_true, runs
from tutelage.cache.fixed import DTYPES, FixedColumn, from_bytes, to_bytes
from tutelage.errors import CapabilityError, NumericsError
from tutelage.types import TeacherRow

LARGEST_CODE = 127
# Values that share one scale, by layout of signed bytes. A few channels of a transformer are 10 to 20 times larger than
# the rest; with one scale per position they cost all the others their digits: 2.4-4.3 % error after the layers of
# SmolLM2-135M, 1.1-1.3 % with 32. Steps that grow with the root of the value (sq8) halve that again, with less scales.
GROUPS = {"int8": 32, "sq8": 64}
STATE_DTYPES = (*DTYPES, *GROUPS, "fp8")
SMALLEST_STEP = 2.0**-24  # the smallest float16 above 0
FP8_LARGEST = 448.0  # of e4m3
FP8_RELATIVE_BOUND = 2.0**-4  # half a unit in the last of 3 mantissa bits
FP8_ABSOLUTE_BOUND = 2.0**-10  # half of the smallest subnormal, in units of the scale
ROUNDING = 1 + 2.0**-20  # the bounds are checked in float32


@dataclass(frozen=True)
class _StateColumn(FixedColumn):
    """Vectors of one layer, in a number format.

    Attributes:
        layer: Layer number, see the module's docstring.
        width: E, the teacher's hidden size.
        dtype: ``bf16``, ``fp16``, ``fp32``; ``int8`` with a float16 scale per 32 values, within half a scale (at least
            ``2**-25``); ``sq8``, signed squares of bytes with a float16 scale s per 64 values, a value v within
            ``sqrt(s |v| / 127) + s / 508``; ``fp8`` (e4m3) with one float32 scale per position, within ``2**-4`` of
            each value's size.
    """

    layer: int
    width: int
    dtype: str = "bf16"

    tensor: ClassVar[str]

    def __post_init__(self) -> None:
        if self.dtype not in STATE_DTYPES:
            raise CapabilityError(
                f"{self.kind} cannot be stored as {self.dtype!r}. Expected one of {', '.join(STATE_DTYPES)}."
            )
        if self.layer < 0 or self.width < 1:
            raise CapabilityError(
                f"{self.kind} was given layer {self.layer} and width {self.width}. Expected a layer from 0 (the output "
                "of the embeddings) and a width from 1."
            )

    @property
    @override
    def parts(self) -> dict[str, int]:
        if self.dtype in GROUPS:
            return {"values": self.width, "scales": 2 * math.ceil(self.width / GROUPS[self.dtype])}
        if self.dtype == "fp8":
            return {"values": self.width, "scales": 4}
        return {"values": self.width * DTYPES[self.dtype].itemsize}

    @override
    def first_problem(self, tensors: TensorDict) -> tuple[int, str] | None:
        values_NE = tensors[self.tensor].float()
        finite_N = values_NE.isfinite().all(dim=1)
        if self.dtype in DTYPES:
            finite_N &= values_NE.to(DTYPES[self.dtype]).isfinite().all(dim=1)
        elif self.dtype in GROUPS:
            finite_N &= group_scales(grouped(values_NE, GROUPS[self.dtype])).isfinite().all(dim=1)
        return first_true(~finite_N, f"a hidden value after layer {self.layer} is not finite in {self.dtype}")

    @override
    def encode(self, tensors: TensorDict) -> np.ndarray:
        """See :class:`FixedColumn`.

        Raises:
            NumericsError: If a value does not survive ``int8``, ``sq8`` or ``fp8`` within the stated bound.
        """
        values_NE = tensors[self.tensor].detach().cpu()
        if self.dtype in GROUPS:
            return encode_bytes(values_NE.float(), self.dtype)
        if self.dtype == "fp8":
            return encode_fp8(values_NE.float())
        return to_bytes(values_NE, DTYPES[self.dtype])

    @override
    def decode(self, records: np.ndarray) -> TensorDict:
        """See :class:`FixedColumn`; float32 comes out of ``int8``, ``sq8`` and ``fp8``, else the stored dtype."""
        if self.dtype in GROUPS:
            return {self.tensor: decode_bytes(records, self.width, self.dtype)}
        if self.dtype == "fp8":
            return {self.tensor: decode_fp8(records, self.width)}
        return {self.tensor: from_bytes(records, DTYPES[self.dtype])}


@dataclass(frozen=True)
class HiddenColumn(_StateColumn):
    """Hidden states after one layer at a seeded subset of each row's tokens; ``hidden_NE``.

    Attributes:
        token_subset_ratio: Share of a row's tokens that is stored, above 0 to 1; at least one token.
        seed: Chooses the subset; 0 where every token is stored. With one seed, a smaller ratio chooses among the tokens
            of a larger one, which therefore serves it.
    """

    token_subset_ratio: int | float = 1.0
    seed: int = 0

    kind: ClassVar[str] = "hidden"
    tensor: ClassVar[str] = "hidden_NE"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.token_subset_ratio <= 1 or self.seed < 0:
            raise CapabilityError(
                f"hidden was given token_subset_ratio {self.token_subset_ratio:g} and seed {self.seed}. Expected a "
                "ratio above 0 to 1 and a seed from 0."
            )
        object.__setattr__(self, "token_subset_ratio", float(self.token_subset_ratio))
        object.__setattr__(self, "seed", 0 if self.token_subset_ratio == 1 else self.seed)

    @property
    @override
    def name(self) -> str:
        subset = "" if self.token_subset_ratio == 1 else f"-r{self.token_subset_ratio!r}-s{self.seed}"
        return f"hidden-l{self.layer}-e{self.width}-{self.dtype}{subset}"

    @property
    @override
    def spec(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "layer": self.layer,
            "width": self.width,
            "dtype": self.dtype,
            "token_subset_ratio": self.token_subset_ratio,
            "seed": self.seed,
        }

    @override
    def positions_of(self, row: TeacherRow) -> np.ndarray:
        """Choose token numbers, whatever the row's wanted logit positions are."""
        return token_subset(row.key, len(row.ids), ratio=self.token_subset_ratio, seed=self.seed)

    @override
    def serves(self, wanted: Column) -> bool:
        """All tokens serve any subset, a larger share a smaller one of the same seed."""
        return (
            isinstance(wanted, HiddenColumn)
            and (self.layer, self.width, self.dtype) == (wanted.layer, wanted.width, wanted.dtype)
            and self.token_subset_ratio >= wanted.token_subset_ratio
            and (self.token_subset_ratio == 1 or self.seed == wanted.seed)
        )


@dataclass(frozen=True)
class PooledColumn(_StateColumn):
    """The mean over a row's real tokens of the hidden states after one layer; ``pooled_NE``, at position 0."""

    kind: ClassVar[str] = "pooled"
    tensor: ClassVar[str] = "pooled_NE"

    @property
    @override
    def name(self) -> str:
        return f"pooled-l{self.layer}-e{self.width}-{self.dtype}"

    @property
    @override
    def spec(self) -> dict[str, Any]:
        return {"kind": self.kind, "layer": self.layer, "width": self.width, "dtype": self.dtype}

    @override
    def positions_of(self, row: TeacherRow) -> np.ndarray:
        """Store one vector per row, under position 0."""
        return np.zeros(min(1, len(row.ids)), dtype=np.int64)


def token_subset(key: bytes, length: int, *, ratio: float, seed: int) -> np.ndarray:
    """Choose ``max(1, round(ratio * length))`` of ``length`` token numbers, sorted, int64.

    A pure function of its arguments: the first of a permutation that key and seed fix, so subsets of growing ratio are
    nested. Raw 64-bit draws are sorted, since NEP 19 keeps those equal in every numpy.
    """
    count = min(length, max(1, round(ratio * length)))
    if count == length:
        return np.arange(length)
    bits = np.random.PCG64(np.random.SeedSequence([int.from_bytes(key, "little"), seed]))
    return np.sort(np.argsort(bits.random_raw(length), kind="stable")[:count])


def grouped(values_NE: Tensor, size: int) -> Tensor:
    """Cut each vector into groups of ``size`` values, zeros at the end: [N, groups, size]."""
    missing = -values_NE.shape[1] % size
    padded = torch.nn.functional.pad(values_NE, (0, missing)) if missing else values_NE
    return padded.unflatten(1, (-1, size))


def group_scales(groups: Tensor) -> Tensor:
    """Return the float16 scale of each group, rounded up, so that no value is cut off: [N, groups].

    ``largest / 127`` grows by one rounding of a normal float16 and half of the smallest subnormal.
    """
    return (groups.abs().amax(dim=2) / LARGEST_CODE * (1 + 2.0**-10) + SMALLEST_STEP / 2).half()


def encode_bytes(values_NE: Tensor, dtype: str) -> np.ndarray:
    """Round to multiples of each group's scale, or to squares of them: bytes of the values, then of the scales.

    Raises:
        NumericsError: If a value ended further away than ``dtype`` allows.
    """
    groups = grouped(values_NE, GROUPS[dtype])
    scales = group_scales(groups)
    steps = scales.float()[:, :, None]
    multiples = torch.where(steps > 0, groups / steps, 0)
    coarse, sizes = steps.clamp(min=SMALLEST_STEP), groups.abs()
    if dtype == "sq8":
        multiples = (multiples.abs() * LARGEST_CODE).sqrt().copysign(multiples)
        bound = (coarse * sizes / LARGEST_CODE).sqrt() + coarse / (4 * LARGEST_CODE)
    else:
        bound = coarse / 2
    codes = multiples.round().clamp(-LARGEST_CODE, LARGEST_CODE)
    error = (restore_groups(codes, steps, dtype) - groups).abs()
    _require_bound(error, bound + sizes * (ROUNDING - 1), dtype)
    codes_NE = codes.flatten(1)[:, : values_NE.shape[1]]
    return np.concatenate([to_bytes(codes_NE, torch.int8), to_bytes(scales, torch.float16)], axis=1)


def restore_groups(codes: Tensor, steps: Tensor, dtype: str, *, out: Tensor | None = None) -> Tensor:
    """Multiply codes, or in ``sq8`` their signed squares over 127, by their group's scale: [N, groups, size]."""
    if dtype == "sq8":
        return torch.mul(codes * codes.abs(), steps / LARGEST_CODE, out=out)
    return torch.mul(codes, steps, out=out)


def decode_bytes(records: np.ndarray, width: int, dtype: str) -> Tensor:
    """Undo :func:`encode_bytes`, float32."""
    values = torch.empty(len(records), math.ceil(width / GROUPS[dtype]), GROUPS[dtype])
    for run in runs(len(records), width):
        codes_nE = from_bytes(records[run, :width], torch.int8).float()
        steps = from_bytes(records[run, width:], torch.float16).float()[:, :, None]
        restore_groups(grouped(codes_nE, GROUPS[dtype]), steps, dtype, out=values[run])
    return values.flatten(1)[:, :width]


def encode_fp8(values_NE: Tensor) -> np.ndarray:
    """Round to e4m3 multiples of each position's scale: bytes of the values, then of the scale.

    Raises:
        NumericsError: If a value ended outside of the format's own rounding.
    """
    smallest = torch.finfo(torch.float32).tiny  # the scale of a vector of zeros
    scales_N1 = (values_NE.abs().amax(dim=1, keepdim=True) / FP8_LARGEST).clamp(min=smallest)
    codes_NE = (values_NE / scales_N1).to(torch.float8_e4m3fn)
    bound_NE = torch.maximum(values_NE.abs() * FP8_RELATIVE_BOUND, scales_N1 * FP8_ABSOLUTE_BOUND)
    _require_bound((codes_NE.float() * scales_N1 - values_NE).abs(), bound_NE * ROUNDING, "fp8")
    return np.concatenate([to_bytes(codes_NE, torch.float8_e4m3fn), to_bytes(scales_N1, torch.float32)], axis=1)


def decode_fp8(records: np.ndarray, width: int) -> Tensor:
    """Undo :func:`encode_fp8`, float32."""
    codes_NE = from_bytes(records[:, :width], torch.float8_e4m3fn).float()
    return codes_NE * from_bytes(records[:, width:], torch.float32)


def _require_bound(error: Tensor, bound: Tensor, dtype: str) -> None:
    if not bool((error <= bound).all()):  # a NaN is not <= anything
        raise NumericsError(
            f"A hidden state does not fit into {dtype} within its bound: the largest error is {float(error.max()):g}. "
            "Store the signal as bf16."
        )
