"""B1, first rows: head + loss, forward and backward, fused against plain torch, on one configuration.

In: nothing. Out: a row per signal. The peers of the published table (TRL, Liger) are not measured yet, which is said
in each row; the ratio is against our own plain path, which is ordinary torch.
"""

from typing import Any

import torch

from benchmarks.records import median_ratio, record, spread, time_in_turns
from tutelage.losses import head_losses
from tutelage.types import FinalHidden, LossTerm, OutputHead, TopK

NUM_POSITIONS, WIDTH, VOCAB, K, TEMPERATURE = 512, 576, 49_152, 64, 2.0
TARGET = 3.0
TERMS = (LossTerm("cross_entropy", 0.3), LossTerm("forward_kl", 0.7, TEMPERATURE))
TOLERANCE = 1e-4  # relative, of value and gradient, float32


def measure() -> list[dict[str, Any]]:
    """Time both paths, interleaved; the values and gradients are compared first."""
    torch.manual_seed(0)
    hidden_ND = torch.randn(NUM_POSITIONS, WIDTH)
    head = OutputHead(torch.randn(VOCAB, WIDTH) * 0.05)
    labels_N = torch.randint(VOCAB, (NUM_POSITIONS,))
    teacher = FinalHidden(hidden_ND + 0.3 * torch.randn_like(hidden_ND), head)
    signals = {"final_hidden": teacher, "topk": _topk(teacher)}
    return [_row(name, hidden_ND, head, labels_N, signal) for name, signal in signals.items()]


def _topk(teacher: FinalHidden) -> TopK:
    logits_NU = teacher.head.logits(teacher.hidden_NE)
    logprobs_NU = torch.log_softmax(logits_NU, dim=-1)
    kept_NK, ids_NK = logprobs_NU.topk(K)
    log_z_N = {T: torch.logsumexp(logprobs_NU / T, dim=-1) for T in (1.0, TEMPERATURE)}
    return TopK(ids_NK, kept_NK, log_z_N, VOCAB)


def _row(name: str, hidden_ND: torch.Tensor, head: OutputHead, labels_N: torch.Tensor, signal: Any) -> dict[str, Any]:
    def run(*, fused: bool) -> tuple[float, torch.Tensor]:
        student_ND = hidden_ND.clone().requires_grad_()
        losses = head_losses(student_ND, head, labels_N, signal, terms=TERMS, fused=fused)
        losses.objective.total.backward()
        assert student_ND.grad is not None
        return losses.objective.total.item(), student_ND.grad

    (fused_value, fused_grad), (plain_value, plain_grad) = run(fused=True), run(fused=False)
    errors = {
        "value": abs(fused_value - plain_value) / abs(plain_value),
        "gradient": float((fused_grad - plain_grad).norm() / plain_grad.norm()),
    }
    if max(errors.values()) > TOLERANCE:
        raise SystemExit(f"B1 {name}: fused and plain differ by {errors}, allowed {TOLERANCE}; nothing was timed")
    seconds = time_in_turns({"fused": lambda: run(fused=True), "plain": lambda: run(fused=False)})
    return record(
        "B1",
        f"{name}, CE + KL, fused against plain torch, float32, head frozen",
        median_ratio(seconds, "plain", "fused"),
        TARGET,
        shape={"N": NUM_POSITIONS, "D": WIDTH, "V": VOCAB, "K": K, "T": TEMPERATURE},
        seconds=spread(seconds),
        relative_error=errors,
        absent_peers=["TRL sparse tail loss", "TRL GKD", "Liger chunked JSD"],
    )
