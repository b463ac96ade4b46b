"""Could a chunk loop around the plain loss replace the hand-written gradients? ``python -m benchmarks.chunked_loss``.

In: nothing; a student of the sample reads seeded prose, every position supervised. Out: seconds of a whole training
step and of head and loss alone, and peak temporary memory of the latter, for the fused path and for the chunk loop.
The figures are to decide whether the hand-written gradients stay; they have not decided yet.

The chunk loop multiplies by the head a chunk at a time, lets autograd differentiate the plain loss of that chunk's
logits, and multiplies back at once. It holds the float32 graph of one chunk, and no formula of a gradient.
"""

import argparse
import gc
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.head_memory import CLEAR, RESET_PEAK, resident
from benchmarks.prose import Prose, load_sample, read_prose, untrained_student
from benchmarks.records import clock_in_turns, spread
from tutelage.losses import head_losses
from tutelage.losses.plain import logits_losses
from tutelage.losses.precision import wide_dtype
from tutelage.models.head import final_hidden, find_head
from tutelage.teacher.batches import padded_batch
from tutelage.types import Batch, DenseLogits, FinalHidden, LossTerm, OutputHead, TeacherSignal, TopK

NUM_ROWS, ROWS_PER_STEP, STUDENT_LAYERS, TOP_K = 2, 2, 20, 50
CHUNKS = (16, 64, 256)  # positions
ROUNDS = 3
CASES = {
    "cross-entropy": ("none", [LossTerm("cross_entropy", 1.0)]),
    "forward KL, full": ("full", [LossTerm("cross_entropy", 0.3), LossTerm("forward_kl", 0.7)]),
    "forward KL, top 50": ("topk", [LossTerm("cross_entropy", 0.3), LossTerm("forward_kl", 0.7)]),
    "reverse KL, full": ("full", [LossTerm("cross_entropy", 0.3), LossTerm("reverse_kl", 0.7)]),
    "JSD, top 50": ("topk", [LossTerm("cross_entropy", 0.3), LossTerm("jsd", 0.7, beta=0.5)]),
}
HeadLoss = Callable[[Tensor, OutputHead, Tensor, TeacherSignal | None, Sequence[LossTerm]], Tensor]


def fused(
    hidden_ND: Tensor, head: OutputHead, labels_N: Tensor, signal: TeacherSignal | None, terms: Sequence[LossTerm]
) -> Tensor:
    """Take the package's own path."""
    return head_losses(hidden_ND, head, labels_N, signal, terms=terms, fused=True).objective.total


def chunked(
    hidden_ND: Tensor,
    head: OutputHead,
    labels_N: Tensor,
    signal: TeacherSignal | None,
    terms: Sequence[LossTerm],
    *,
    chunk: int,
) -> Tensor:
    """Loop over chunks of positions, and let autograd find each chunk's gradient with respect to its products."""
    return _ChunkLoop.apply(hidden_ND, head.weight_VD, head, labels_N, signal, terms, chunk)


class _ChunkLoop(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_ND, weight_VD, head, labels_N, signal, terms, chunk):
        weight_VD = weight_VD.detach()
        wide = wide_dtype(weight_VD.dtype)
        total = torch.zeros((), dtype=wide)
        grad_hidden_ND = torch.empty_like(hidden_ND)
        grad_weight_VD = torch.zeros(weight_VD.shape, dtype=wide) if ctx.needs_input_grad[1] else None
        for start in range(0, len(hidden_ND), chunk):
            rows = slice(start, start + chunk)
            hidden_MD = hidden_ND[rows].to(weight_VD.dtype)
            products_MV = (hidden_MD @ weight_VD.T).requires_grad_()
            with torch.enable_grad():
                logits_MV = _mapped(products_MV, head)
                part = logits_losses(logits_MV, labels_N[rows], _rows(signal, rows), terms=terms).objective.total
                (grad_MV,) = torch.autograd.grad(part, products_MV)
            total += part.detach()
            grad_hidden_ND[rows] = grad_MV @ weight_VD
            if grad_weight_VD is not None:
                grad_weight_VD += grad_MV.T @ hidden_MD
        ctx.save_for_backward(grad_hidden_ND, grad_weight_VD)
        ctx.dtype = weight_VD.dtype
        return total

    @staticmethod
    def backward(ctx, grad_total):
        grad_hidden_ND, grad_weight_VD = ctx.saved_tensors
        weight = None if grad_weight_VD is None else (grad_weight_VD * grad_total).to(ctx.dtype)
        return grad_hidden_ND * grad_total, weight, None, None, None, None, None


def _mapped(products_MV: Tensor, head: OutputHead) -> Tensor:
    wide_MV = products_MV.to(wide_dtype(products_MV.dtype)) * head.scale
    return wide_MV if head.softcap is None else head.softcap * torch.tanh(wide_MV / head.softcap)


def _rows(signal: TeacherSignal | None, rows: slice) -> TeacherSignal | None:
    if isinstance(signal, FinalHidden):
        with torch.no_grad():
            return DenseLogits(signal.head.logits(signal.hidden_NE[rows]))
    if isinstance(signal, TopK):
        log_z = {t: values[rows] for t, values in signal.log_z_N.items()}
        return TopK(signal.ids_NK[rows], signal.logprobs_NK[rows], log_z, signal.vocab_size)
    return None


PATHS: dict[str, HeadLoss] = {"fused": fused, **{f"loop of {size}": partial(chunked, chunk=size) for size in CHUNKS}}


class Problem:
    """A student, batches of prose and what the teacher said about them."""

    def __init__(self, *, body_bf16: bool) -> None:
        """Read the prose once."""
        teacher = load_sample(torch.bfloat16)
        self.prose: Prose = read_prose(teacher, NUM_ROWS)
        self.student: nn.Module = untrained_student(STUDENT_LAYERS).train()
        self.batch: Batch = padded_batch(self.prose.rows[:ROWS_PER_STEP], device=torch.device("cpu"))
        self.body_bf16 = body_bf16
        self.labels_N = torch.cat([torch.from_numpy(row.ids[row.positions + 1]) for row in self.prose.rows]).long()
        self.signals: dict[str, TeacherSignal | None] = {
            "none": None,
            "full": FinalHidden(self.prose.hidden_NE, self.prose.head),
            "topk": self._topk(),
        }

    def _topk(self) -> TopK:
        parts = [
            self.prose.head.logits(hidden).float().log_softmax(1).topk(TOP_K)
            for hidden in self.prose.hidden_NE.split(64)
        ]
        logprobs_NK = torch.cat([part.values for part in parts])
        ids_NK = torch.cat([part.indices for part in parts])
        return TopK(ids_NK, logprobs_NK, {1.0: torch.zeros(len(ids_NK))}, len(self.prose.head.weight_VD))

    def step(self, path: HeadLoss, case: str) -> float:
        """Run forward and backward of the whole student; every parameter gets a gradient."""
        name, terms = CASES[case]
        self.student.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.body_bf16):
            hidden_ND = final_hidden(self.student, self.batch)
        loss = path(hidden_ND, find_head(self.student), self.labels_N, self.signals[name], terms)
        loss.backward()
        return float(loss.detach())

    def head_alone(self, path: HeadLoss, case: str) -> tuple[float, Tensor, Tensor]:
        """Run head and loss, forward and backward, from hidden states that are given."""
        name, terms = CASES[case]
        head = find_head(self.student)
        weight_VD = head.weight_VD.detach().requires_grad_()
        hidden_ND = self.prose.hidden_NE.float().requires_grad_()
        loss = path(hidden_ND, replace(head, weight_VD=weight_VD), self.labels_N, self.signals[name], terms)
        loss.backward()
        assert hidden_ND.grad is not None, "a leaf"
        assert weight_VD.grad is not None, "a leaf"
        return float(loss.detach()), hidden_ND.grad, weight_VD.grad


def peak_bytes(call: Callable[[], Any]) -> int:
    """Give the highest resident memory during a call, above what is resident before it."""
    gc.collect()
    before = resident("VmRSS")
    CLEAR.write_text(RESET_PEAK)
    call()
    return resident("VmHWM") - before


def differences(problem: Problem, case: str) -> dict[str, float]:
    """Give how far the loop's value and gradients are from the fused path's, relative, by norm."""
    value, *gradients = problem.head_alone(fused, case)
    other, *others = problem.head_alone(PATHS[f"loop of {CHUNKS[0]}"], case)
    found = {"value": abs(value - other) / abs(value)}
    for name, ours, theirs in zip(("hidden", "weight"), gradients, others, strict=True):
        found[name] = float((ours - theirs).norm() / ours.norm())
    return found


def measure(cases: Sequence[str]) -> list[dict[str, Any]]:
    """Time and weigh the given cases."""
    problem = Problem(body_bf16=True)
    rows = []
    for case in cases:
        difference = differences(problem, case)
        step, alone = (
            clock_in_turns({name: partial(call, path, case) for name, path in PATHS.items()}, rounds=ROUNDS)
            for call in (problem.step, problem.head_alone)
        )
        peaks = {name: peak_bytes(partial(problem.head_alone, path, case)) for name, path in PATHS.items()}
        rows.append(
            {
                "case": case,
                "positions": len(problem.labels_N),
                "difference": difference,
                "step_seconds": spread(step.wall),
                "step_processor_seconds": spread(step.processor),
                "head_seconds": spread(alone.wall),
                "head_processor_seconds": spread(alone.processor),
                "head_peak_mib": {name: round(size / 2**20) for name, size in peaks.items()},
                "step_over_fused": {n: median(step.processor[n]) / median(step.processor["fused"]) for n in PATHS},
                "head_over_fused": {n: median(alone.processor[n]) / median(alone.processor["fused"]) for n in PATHS},
            }
        )
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chunked_loss", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"out of {', '.join(CASES)}; default all")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    if unknown := set(arguments.cases) - CASES.keys():
        parser.error(f"unknown {sorted(unknown)}, expected one of {', '.join(CASES)}")
    rows = measure(arguments.cases or list(CASES))
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        print(f"{row['case']}, {row['positions']:,} positions; loop against fused: {row['difference']}")
        for name in PATHS:
            print(
                f"  {name:12} step {row['step_seconds'][name][1]:7.3f} s, {row['step_over_fused'][name]:5.2f}x;"
                f" head and loss {row['head_seconds'][name][1]:7.3f} s, {row['head_over_fused'][name]:5.2f}x,"
                f" peak {row['head_peak_mib'][name]:,} MiB"
            )


if __name__ == "__main__":
    main()
