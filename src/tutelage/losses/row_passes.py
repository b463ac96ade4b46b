"""Passes over the rows of a tile of products that a GPU runs as one kernel each; elsewhere they would cost memory.

In: a tile of the head's products, ``[M, V]``. Out: log-sums of its rows, or the gradient in the products' place.

Compiled (Triton), a pass reads the tile once and keeps nothing of its size. Where nothing can be compiled, torch runs
the same lines one by one. A product of -inf marks an id that is left out: it adds nothing and gets no gradient.
"""

import logging
from collections.abc import Callable
from functools import cache
from math import inf
from typing import Any, NamedTuple

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

# An id the teacher masks has log p = -inf, and -inf * 0 is NaN; exp of this floor is 0 in every dtype.
LOGPROB_FLOOR = -1e4


class LogitMap(NamedTuple):
    """How a head's products become logits: ``softcap * tanh(scale * x / softcap)``, or ``scale * x``."""

    scale: float = 1.0
    softcap: float | None = None

    def logits(self, product: Tensor) -> Tensor:
        """Map products, float32 or wider; -inf stays."""
        wide = product.to(torch.promote_types(product.dtype, torch.float32))
        if self.softcap is None:
            return wide if self.scale == 1.0 else wide * self.scale
        return torch.where(wide == -inf, -inf, (wide * (self.scale / self.softcap)).tanh() * self.softcap)

    def chain(self, grad: Tensor, logits: Tensor) -> Tensor:
        """Turn a gradient with respect to logits into one with respect to products; 0 where a logit is -inf."""
        if self.softcap is not None:
            grad = torch.where(logits == -inf, 0.0, grad * (1.0 - (logits / self.softcap) ** 2))
        return grad if self.scale == 1.0 else grad * self.scale


def row_log_sums(product_MV: Tensor, logit_map: LogitMap, *, temperature: float) -> tuple[Tensor, Tensor]:
    """Give each row's largest scaled logit (0 where all are left out), and the sum of exponentials above it."""
    return _log_sums(logit_map)(product_MV, _numbers(product_MV, 1 / temperature))


def write_softmax_gradient(
    product_MV: Tensor, logit_map: LogitMap, *, parts: list[tuple[float, Tensor, Tensor]]
) -> None:
    """Write the gradient ``sum_i factor_i * exp(z / T_i - top_i)`` with respect to the products over them.

    Args:
        product_MV: Overwritten.
        logit_map: From products to logits.
        parts: ``T``, ``top_M1``, ``factor_M1`` of one or two.
    """
    inverse = _numbers(product_MV, *(1 / temperature for temperature, _, _ in parts))
    rows = [tensor for _, top_M1, factor_M1 in parts for tensor in (top_M1, factor_M1)]
    _softmax_gradient(logit_map, len(parts))(product_MV, inverse, *rows)


def write_forward_kl(
    product_MV: Tensor,
    teacher_MV: Tensor,
    maps: tuple[LogitMap, LogitMap],
    *,
    temperature: float,
    log_z: tuple[Tensor, Tensor, Tensor],
    pulls: tuple[float, float],
) -> Tensor:
    """Give ``sum_v p (log p - log q)`` of each row at T, and write the gradient over the student's products.

    Args:
        product_MV: The student's, overwritten.
        teacher_MV: The teacher's products.
        maps: From products to logits, the student's and the teacher's.
        temperature: T.
        log_z: ``[M, 1]`` each: the student's at T, the teacher's at T, the student's at 1.
        pulls: Factor of ``q_T - p_T``, and of ``q_1``.
    """
    return _forward_kl(*maps)(product_MV, teacher_MV, *log_z, _numbers(product_MV, 1 / temperature, *pulls))


def compiled(lines: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a pass; where torch cannot (there is no C compiler, say), its lines run one by one, after a warning."""
    call = torch.compile(lines, dynamic=True)

    def run(*tensors: Tensor) -> Any:
        nonlocal call
        if call is lines:
            return lines(*tensors)
        from torch._dynamo.exc import TorchDynamoException
        from torch._inductor.exc import InductorError

        try:
            return call(*tensors)
        except (TorchDynamoException, InductorError) as error:
            call = lines  # nothing ran: these come before the first kernel
            cause = str(error).strip().splitlines()[0]
            logger.warning("the loss runs uncompiled, slower and with more memory: %s", cause)
            return lines(*tensors)

    return run


def _numbers(like: Tensor, *values: float) -> Tensor:
    """Give numbers as a tensor: as part of a kernel, each temperature and weight would be compiled for itself."""
    return torch.tensor(values, dtype=torch.promote_types(like.dtype, torch.float32), device=like.device)


# One kernel per head; a model has one, two with its teacher.
@cache
def _log_sums(logit_map: LogitMap) -> Callable[..., Any]:
    def log_sums(product_MV, inverse):
        scaled_MV = logit_map.logits(product_MV) * inverse[0]
        top_M1 = scaled_MV.amax(dim=1, keepdim=True)
        top_M1 = torch.where(top_M1 == -inf, 0.0, top_M1)
        return top_M1, (scaled_MV - top_M1).exp().sum(dim=1, keepdim=True)

    return compiled(log_sums)


@cache
def _softmax_gradient(logit_map: LogitMap, num_parts: int) -> Callable[..., Any]:
    def softmax_gradient(product_MV, inverse, *rows):
        logits_MV = logit_map.logits(product_MV)
        grad_MV = (logits_MV * inverse[0] - rows[0]).exp() * rows[1]
        if num_parts == 2:
            grad_MV = grad_MV + (logits_MV * inverse[1] - rows[2]).exp() * rows[3]
        product_MV.copy_(logit_map.chain(grad_MV, logits_MV))

    return compiled(softmax_gradient)


@cache
def _forward_kl(logit_map: LogitMap, teacher_map: LogitMap) -> Callable[..., Any]:
    def forward_kl(product_MV, teacher_MV, log_z_M1, teacher_log_z_M1, label_log_z_M1, numbers):
        inverse, pull, label_pull = numbers
        logits_MV = logit_map.logits(product_MV)
        student_MV = logits_MV * inverse - log_z_M1
        teacher_MV = teacher_map.logits(teacher_MV) * inverse - teacher_log_z_M1
        teacher_MV = teacher_MV.clamp(min=LOGPROB_FLOOR)
        probs_MV = teacher_MV.exp()
        values_M = (probs_MV * (teacher_MV - student_MV)).sum(dim=1)
        grad_MV = pull * (student_MV.exp() - probs_MV) + label_pull * (logits_MV - label_log_z_M1).exp()
        product_MV.copy_(logit_map.chain(grad_MV, logits_MV))
        return values_M

    return compiled(forward_kl)
