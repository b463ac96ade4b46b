"""What B1 times and B2 weighs: ours and the peers' losses, head included, each in the dtypes that it is used in.

In: a number of positions and ids. Out: a seeded problem; variants, each a forward and a backward pass over it.

Ours has one configuration in both benchmarks: a frozen bfloat16 head, as under a LoRA student, in the fused path with
its default sizes. "Kept" variants learn from a teacher's top 64, "full" ones from its final hidden states and head.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Literal

import torch
from torch import Tensor

from benchmarks import peer_losses as losses
from benchmarks.peer_losses import HeadProblem, Reduced, installed
from tutelage.types import TopK

WIDTH, K, BLOCK = 576, 64, 256
LOGIT_DEVIATION = 3.6
Call = Callable[[HeadProblem], tuple[float, Tensor]]


@dataclass(frozen=True)
class Variant:
    """A loss in one dtype."""

    loss: str
    signal: Literal["kept", "full"]
    dtype: torch.dtype
    reduced: Reduced
    package: str | None = None
    compiled: bool = False

    @property
    def name(self) -> str:
        """Tell variants apart."""
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.loss}, {self.signal}, {dtype}{', compiled' if self.compiled else ''}"

    @property
    def is_ours(self) -> bool:
        """Tell whether it is the package's own."""
        return self.loss.startswith("ours")

    def call(self) -> Call:
        """Give a function that computes the loss and its gradient with respect to the hidden states."""
        reduced = _compiled(self.reduced) if self.compiled else self.reduced
        return partial(_forward_and_backward, reduced)


def _forward_and_backward(reduced: Reduced, problem: HeadProblem) -> tuple[float, Tensor]:
    leaf = problem.student_ND.detach().clone().requires_grad_()
    loss = reduced(replace(problem, student_ND=leaf))
    loss.backward()
    assert leaf.grad is not None, "every loss reaches the hidden states"
    return loss.item(), leaf.grad


@cache
def _compiled(reduced: Reduced) -> Reduced:
    return torch.compile(reduced, dynamic=False)


OURS_KEPT = Variant("ours", "kept", torch.bfloat16, partial(losses.ours, signal="topk"))
OURS_FULL = Variant("ours", "full", torch.bfloat16, losses.ours)
OURS_FLOAT32 = replace(OURS_KEPT, dtype=torch.float32)
TRL_SPARSE = Variant("TRL sparse + tail", "kept", torch.float32, losses.trl_sparse, "trl")
PLAIN_COMPILED = Variant("plain torch", "kept", torch.bfloat16, losses.plain_buckets, compiled=True)
PEERS = [
    TRL_SPARSE,
    replace(TRL_SPARSE, dtype=torch.bfloat16),
    Variant("plain torch", "kept", torch.float32, losses.plain_buckets),
    Variant("plain torch", "kept", torch.bfloat16, losses.plain_buckets),
    PLAIN_COMPILED,
    Variant("TRL GKD (beta = 0)", "full", torch.bfloat16, losses.trl_gkd, "trl"),
    Variant("TRL chunked divergence (beta = 0)", "full", torch.bfloat16, losses.trl_chunked, "trl"),
    Variant("Liger chunked JSD (beta = 0)", "full", torch.bfloat16, losses.liger_jsd, "liger-kernel"),
    Variant("plain torch", "full", torch.bfloat16, losses.plain_dense),
    Variant("plain torch", "full", torch.bfloat16, losses.plain_dense, compiled=True),
]
VARIANTS = {variant.name: variant for variant in [OURS_KEPT, OURS_FULL, OURS_FLOAT32, *PEERS]}
# Where every peer would take too long: the fastest of them, and the one that a target names.
FEW = [OURS_KEPT, TRL_SPARSE, PLAIN_COMPILED]


def present(variants: list[Variant]) -> list[Variant]:
    """Leave out those whose package is not installed."""
    return [variant for variant in variants if variant.package is None or variant.package in installed()]


def head_problem(num_positions: int, vocab_size: int, *, width: int = WIDTH, device: str = "cpu") -> HeadProblem:
    """Make a problem whose values are exact in bfloat16, so that every dtype computes the same one."""
    draw = torch.Generator(device).manual_seed(0)

    def rounded(*shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(*shape, generator=draw, device=device)).bfloat16().float()

    head_VD = rounded(vocab_size, width, scale=LOGIT_DEVIATION / math.sqrt(width))
    student_ND = rounded(num_positions, width)
    teacher_NE = (student_ND + rounded(num_positions, width, scale=0.3)).bfloat16().float()
    labels_N = torch.randint(vocab_size, (num_positions,), generator=draw, device=device)
    return HeadProblem(student_ND, head_VD, teacher_NE, head_VD, labels_N, _kept(teacher_NE, head_VD))


def _kept(teacher_NE: Tensor, head_VE: Tensor) -> TopK:
    """Keep the top of a few positions at a time."""
    low_VE = head_VE.bfloat16()
    parts = [
        losses.keep_top((block_nE.bfloat16() @ low_VE.T).float(), K, (1.0,)) for block_nE in teacher_NE.split(BLOCK)
    ]
    ids_NK, logprobs_NK = (torch.cat([getattr(part, name) for part in parts]) for name in ("ids_NK", "logprobs_NK"))
    return TopK(ids_NK, logprobs_NK, {1.0: logprobs_NK.new_zeros(len(ids_NK))}, head_VE.shape[0])


def relative_errors(variant: Variant, problem: HeadProblem) -> dict[str, float]:
    """Compare value and gradient of a variant with plain torch in float64."""
    value, gradient = variant.call()(problem.to(variant.dtype))
    plain = losses.plain_buckets if variant.signal == "kept" else losses.plain_dense
    expected_value, expected = _forward_and_backward(plain, problem.to(torch.float64))
    return {
        "value": abs(value - expected_value) / expected_value,
        "gradient": float((gradient.double() - expected).norm() / expected.norm()),
    }
