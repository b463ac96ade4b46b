"""Distillation losses of other projects, called as they are, and a few lines of plain torch that many recipes share.

In: a ``HeadProblem``: final hidden states, heads and a teacher's kept ids at N positions. Out: each loss as its project
reduces it, differentiable in the student's hidden states. With a head that is the identity, hidden states are logits.
"""

import importlib.metadata
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import kl_div, linear

from tutelage.losses import head_losses
from tutelage.types import FinalHidden, LossTerm, OutputHead, TopK

PACKAGES = {"trl": "trl", "liger-kernel": "liger_kernel", "torchdistill": "torchdistill"}
INSTALL = 'pip install "tutelage[peers]"'
IGNORED = -100


@dataclass(frozen=True)
class HeadProblem:
    """What a student is to learn at N positions; those whose label is ``IGNORED`` do not count."""

    student_ND: Tensor
    head_VD: Tensor
    teacher_NE: Tensor
    teacher_head_VE: Tensor
    labels_N: Tensor
    kept: TopK
    temperature: float = 1.0

    @property
    def counts_N(self) -> Tensor:
        """Tell which positions count."""
        return self.labels_N != IGNORED

    @property
    def num_targets(self) -> int:
        """Count them."""
        return int(self.counts_N.sum())

    def rows(self, start: int, stop: int) -> "HeadProblem":
        """Give positions ``start`` to ``stop``."""
        at = slice(start, stop)
        log_z = {temperature: values[at] for temperature, values in self.kept.log_z_N.items()}
        kept = TopK(self.kept.ids_NK[at], self.kept.logprobs_NK[at], log_z, self.kept.vocab_size)
        parts = {"student_ND": self.student_ND[at], "teacher_NE": self.teacher_NE[at], "labels_N": self.labels_N[at]}
        return replace(self, kept=kept, **parts)

    def to(self, dtype: torch.dtype) -> "HeadProblem":
        """Give hidden states and heads in a dtype; what is kept stays in its own."""
        names = ("student_ND", "head_VD", "teacher_NE", "teacher_head_VE")
        return replace(self, **{name: getattr(self, name).to(dtype) for name in names})

    def kept_logprobs(self) -> Tensor:
        """Give the teacher's log-probabilities of the kept ids at the problem's temperature."""
        log_z_N = self.kept.log_z_N[self.temperature]
        return self.kept.logprobs_NK / self.temperature - log_z_N[:, None]


Reduced = Callable[[HeadProblem], Tensor]


def keep_top(logits_NV: Tensor, k: int, temperatures: tuple[float, ...]) -> TopK:
    """Keep a teacher's k largest log-probabilities."""
    logprobs_NV = torch.log_softmax(logits_NV, dim=-1)
    kept_NK, ids_NK = logprobs_NV.topk(k)
    log_z_N = {each: torch.logsumexp(logprobs_NV / each, dim=-1) for each in temperatures}
    return TopK(ids_NK, kept_NK, log_z_N, logits_NV.shape[1])


def installed() -> dict[str, str]:
    """Give the versions of the peers that are here."""
    found = {name for name, module in PACKAGES.items() if importlib.util.find_spec(module) is not None}
    return {name: importlib.metadata.version(name) for name in PACKAGES if name in found}


def absent() -> list[str]:
    """Say which peers are not here, and how to install them."""
    return [f"{name} is not installed: {INSTALL}" for name in PACKAGES if name not in installed()]


def student_logits(problem: HeadProblem) -> Tensor:
    """Apply the student's head."""
    return linear(problem.student_ND, problem.head_VD)


@torch.no_grad()
def teacher_logits(problem: HeadProblem) -> Tensor:
    """Apply the teacher's head."""
    return linear(problem.teacher_NE, problem.teacher_head_VE)


def ours(
    problem: HeadProblem,
    *,
    kind: str = "forward_kl",
    signal: str = "dense",
    beta: float | None = None,
    alpha: float = 0.0,
) -> Tensor:
    """Our loss in the fused path, divided once by the number of targets; ``alpha`` weighs cross-entropy on labels."""
    chosen = problem if bool(problem.counts_N.all()) else _chosen_rows(problem)
    teacher = chosen.kept if signal == "topk" else FinalHidden(chosen.teacher_NE, OutputHead(chosen.teacher_head_VE))
    terms = [LossTerm(kind, 1.0 - alpha, chosen.temperature, beta=beta)]
    terms += [LossTerm("cross_entropy", alpha)] if alpha else []
    losses = head_losses(
        chosen.student_ND, OutputHead(chosen.head_VD), chosen.labels_N, teacher, terms=terms, fused=True
    )
    return losses.objective.total / max(losses.objective.count, 1)


def _chosen_rows(problem: HeadProblem) -> HeadProblem:
    """Leave out the positions that do not count."""
    at = problem.counts_N
    log_z = {temperature: values[at] for temperature, values in problem.kept.log_z_N.items()}
    kept = TopK(problem.kept.ids_NK[at], problem.kept.logprobs_NK[at], log_z, problem.kept.vocab_size)
    parts = {"student_ND": problem.student_ND[at], "teacher_NE": problem.teacher_NE[at]}
    return replace(problem, kept=kept, labels_N=problem.labels_N[at], **parts)


def trl_gkd(problem: HeadProblem, *, beta: float = 0.0, count: int | None = None) -> Tensor:
    """TRL, generalised JSD of its GKD trainer."""
    return _trl().gkd(
        student_logits(problem)[None],
        teacher_logits(problem)[None],
        labels=problem.labels_N[None],
        beta=beta,
        temperature=problem.temperature,
        num_items_in_batch=count,
    )


def trl_chunked(problem: HeadProblem, *, beta: float = 0.0, count: int | None = None) -> Tensor:
    """TRL, chunked divergence of its distillation trainer, on the path for devices without Triton."""
    loss, _, _ = _trl().chunked(
        problem.student_ND[None],
        problem.teacher_NE[None],
        problem.head_VD,
        problem.teacher_head_VE,
        problem.counts_N[None],
        beta,
        num_items_in_batch=count,
        temperature=problem.temperature,
    )
    return loss


def trl_sparse(problem: HeadProblem, *, add_tail: bool = True) -> Tensor:
    """TRL, forward KL from a server's top-k; the tail bucket is a setting of its trainer."""
    logprobs_NV = torch.log_softmax(student_logits(problem) / problem.temperature, dim=-1)
    teacher = {
        "topk_logprobs": problem.kept_logprobs().to(logprobs_NV.dtype)[None],
        "topk_token_ids": problem.kept.ids_NK[None],
    }
    return _trl().server_loss(add_tail)(teacher, logprobs_NV[None], problem.labels_N[None])


def liger_jsd(problem: HeadProblem, *, beta: float = 0.0) -> Tensor:
    """Liger, chunked JSD through both heads; it always computes the gradient of the student's head.

    Compiled on a GPU, its default. Not on a CPU, where that gained nothing (0.45 s of processor time for 256 positions
    and 49,152 ids, 0.38-0.46 s without), after six seconds and a run of the C++ compiler for each shape.
    """
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss  # pyright: ignore[reportMissingImports]

    loss = LigerFusedLinearJSDLoss(
        0.0, 1.0, beta=beta, temperature=problem.temperature, compiled=problem.head_VD.is_cuda
    )
    parts = (problem.student_ND, problem.head_VD, problem.teacher_NE, problem.teacher_head_VE, problem.labels_N)
    return loss(*parts)


def torchdistill_kd(problem: HeadProblem, *, alpha: float = 0.0) -> Tensor:
    """torchdistill, KDLoss on the positions that count: alpha weighs cross-entropy."""
    from torchdistill.losses.mid_level import KDLoss  # pyright: ignore[reportMissingImports]

    chosen = _chosen_rows(problem)
    loss = KDLoss("head", "output", "head", "output", temperature=problem.temperature, alpha=alpha)
    sides = ({"head": {"output": logits(chosen)}} for logits in (student_logits, teacher_logits))
    return loss(*sides, chosen.labels_N)


def plain_dense(problem: HeadProblem) -> Tensor:
    """Plain torch: full forward KL in float32 (float64), mean over the positions that count."""
    student_NV, teacher_NV = (
        _wide(logits(problem)) / problem.temperature for logits in (student_logits, teacher_logits)
    )
    entries_NV = kl_div(student_NV.log_softmax(-1), teacher_NV.log_softmax(-1), reduction="none", log_target=True)
    return _mean(entries_NV.sum(-1), problem)


def plain_buckets(problem: HeadProblem) -> Tensor:
    """Plain torch: forward KL over k + 1 buckets, in float32 (float64)."""
    student_NK, teacher_NK = _kept_pair(problem)
    student_NX, teacher_NX = (torch.cat([side, _tail(side)], dim=1) for side in (student_NK, teacher_NK))
    return _mean(kl_div(student_NX, teacher_NX, reduction="none", log_target=True).sum(-1), problem)


def plain_both_renormalised(problem: HeadProblem) -> Tensor:
    """Plain torch: both softmaxes over the kept ids alone."""
    student_NK, teacher_NK = (side.log_softmax(-1) for side in _kept_pair(problem))
    return _mean(kl_div(student_NK, teacher_NK, reduction="none", log_target=True).sum(-1), problem)


def plain_teacher_raw(problem: HeadProblem) -> Tensor:
    """Plain torch: the kept summands of the full divergence; the rest is dropped."""
    student_NK, teacher_NK = _kept_pair(problem)
    return _mean(kl_div(student_NK, teacher_NK, reduction="none", log_target=True).sum(-1), problem)


def plain_teacher_renormalised(problem: HeadProblem) -> Tensor:
    """Plain torch: the teacher's softmax over the kept ids, the student's over all."""
    student_NK, teacher_NK = _kept_pair(problem)
    renormalised_NK = teacher_NK.log_softmax(-1)
    return _mean(kl_div(student_NK, renormalised_NK, reduction="none", log_target=True).sum(-1), problem)


def _kept_pair(problem: HeadProblem) -> tuple[Tensor, Tensor]:
    logprobs_NV = (_wide(student_logits(problem)) / problem.temperature).log_softmax(-1)
    return logprobs_NV.gather(1, problem.kept.ids_NK), problem.kept_logprobs().to(logprobs_NV.dtype)


def _tail(kept_NK: Tensor) -> Tensor:
    mass_N1 = kept_NK.exp().sum(-1, keepdim=True)
    return torch.log1p(-mass_N1.clamp(max=1.0 - torch.finfo(mass_N1.dtype).eps))


def _mean(values_N: Tensor, problem: HeadProblem) -> Tensor:
    counts_N = problem.counts_N
    return values_N.masked_fill(~counts_N, 0.0).sum() / counts_N.sum().clamp(min=1)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


@dataclass(frozen=True)
class Trl:
    """The parts of TRL that are called here."""

    gkd: Callable[..., Tensor]
    chunked: Callable[..., tuple[Tensor, Tensor, Tensor]]
    server: Any

    def server_loss(self, add_tail: bool) -> Callable[..., Tensor]:
        """Give the server trainer's loss; it reads one setting of a trainer and nothing else."""
        trainer = self.server.__new__(self.server)
        trainer.loss_add_tail = add_tail
        return trainer._compute_server_forward_kl_loss


@cache
def _trl() -> Trl:
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.experimental.gkd import GKDTrainer  # pyright: ignore[reportMissingImports]
    from trl.experimental.server_distillation import ServerDistillationTrainer  # pyright: ignore[reportMissingImports]
    from trl.trainer.distillation_trainer import _chunked_divergence_loss  # pyright: ignore[reportMissingImports]

    return Trl(GKDTrainer.generalized_jsd_loss, _chunked_divergence_loss, ServerDistillationTrainer)
