"""What a stored signal costs and what it keeps: bytes per position against the direction of the student's step.

In: the teacher's final hidden states and head at the supervised positions of some rows, a student, columns that could
be stored instead. Out: one :class:`FrontierPoint` per column.

Every column is measured, encoded and decoded as the teach stage would do it; bytes are those of its blocks. The
reference is the gradient of the full-vocabulary loss from the hidden states themselves.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from tutelage.cache.column import Column
from tutelage.evaluate.cut import cut_signal
from tutelage.losses import head_losses, teacher_logits
from tutelage.models.head import final_hidden, find_head
from tutelage.teacher.measure import measure
from tutelage.teacher.signals import as_signal
from tutelage.types import Batch, FinalHidden, LossTerm, OutputHead, TeacherRow, TeacherSignal, TopK

CHUNK_ELEMENTS = 2**23  # float64 logits of one chunk: 64 MiB, a handful of them alive at once


@dataclass(frozen=True)
class Angle:
    """How a gradient lies to the reference: the angle between them, and the ratio of their lengths."""

    degrees: float
    norm_ratio: float


@dataclass(frozen=True)
class FrontierPoint:
    """One signal: its size and what is left of the teacher in it."""

    signal: str  # how a recipe's author would call it
    kind: str
    column: str  # folder name of the column
    bytes_per_position: float
    parts: dict[str, float]  # ids, values, ...; they add up to bytes_per_position
    kl_nats: float | None  # KL(live || what the stored signal says), per position; None where that is not defined
    step: Angle  # of the gradient of the student's trainable parameters, summed over all positions
    position: Angle  # of the gradient of the student's final hidden states, position by position


def measure_frontier(
    student: nn.Module,
    batches: Sequence[Batch],
    hidden_NE: Float[Tensor, "N E"],
    head: OutputHead,
    columns: Mapping[str, Column],
    *,
    temperature: float = 1.0,
    show: Callable[[str], None] = lambda line: None,
) -> list[FrontierPoint]:
    """Encode the teacher's signal in every column and compare what a student would learn from it.

    Args:
        student: A causal language model with at least one trainable parameter; its gradients are overwritten.
        batches: The rows, padded, on the student's device; their positions in order are the N.
        hidden_NE: The teacher's final hidden states at those positions, as they are stored.
        head: The teacher's output head.
        columns: Signals by the name to show.
        temperature: Of the distillation loss.
        show: Told about each finished column.

    Returns:
        One point per column, in the given order. ``final_hidden`` has angle 0 and KL 0 when it is stored in the
        dtype of ``hidden_NE``.
    """
    rows = [row for batch in batches for row in batch.teacher_rows]
    dense = FinalHidden(hidden_NE, head)
    student.eval()
    with torch.no_grad():
        student_hidden_ND = torch.cat([final_hidden(student, batch) for batch in batches])
    student_head = find_head(student)
    reference_ND = hidden_gradient(student_hidden_ND, student_head, dense, temperature=temperature)
    reference_step = step_gradient(student, batches, reference_ND)
    points = []
    for name, column in columns.items():
        signal, parts = store_and_read(column, hidden_NE, head, rows)
        gradient_ND = hidden_gradient(student_hidden_ND, student_head, signal, temperature=temperature)
        step = step_gradient(student, batches, gradient_ND)
        point = FrontierPoint(
            signal=name,
            kind=column.kind,
            column=column.name,
            bytes_per_position=sum(parts.values()),
            parts=parts,
            kl_nats=reconstruction_kl(dense, signal, temperature=temperature),
            step=angle_between(step, reference_step),
            position=angle_between([gradient_ND], [reference_ND]),
        )
        points.append(point)
        show(f"{name}: {point.bytes_per_position:,.1f} bytes/position, {point.step.degrees:.1f} degrees")
    return points


def store_and_read(
    column: Column, hidden_NE: Float[Tensor, "N E"], head: OutputHead, rows: Sequence[TeacherRow]
) -> tuple[TeacherSignal, dict[str, float]]:
    """Measure a column, encode it and read it back.

    Args:
        column: What would be stored.
        hidden_NE: The teacher's final hidden states.
        head: The teacher's head.
        rows: Their positions are the N; draws depend on them.

    Returns:
        The signal as a cached teacher would give it, and its bytes per position by part.
    """
    counts = np.array([len(row.positions) for row in rows], dtype=np.int64)
    tensors = {name: tensor.cpu() for name, tensor in measure(hidden_NE, head, column, rows).items()}
    blocks = [np.frombuffer(block, dtype=np.uint8) for block in column.encode_rows(tensors, counts)]
    num_positions = int(counts.sum())
    parts = {name: size / num_positions for name, size in column.count_parts(blocks, counts).items()}
    read = {name: tensor.to(hidden_NE.device) for name, tensor in column.decode_rows(blocks, counts).items()}
    return as_signal(column, read, head), parts


def hidden_gradient(
    student_hidden_ND: Float[Tensor, "N D"], student_head: OutputHead, signal: TeacherSignal, *, temperature: float
) -> Float[Tensor, "N D"]:
    """Differentiate the summed forward KL with respect to the student's final hidden states, in float64.

    Args:
        student_hidden_ND: The student's final hidden states; not changed.
        student_head: The student's head.
        signal: The teacher's signal at the same positions.
        temperature: Of the loss.
    """
    terms = [LossTerm("forward_kl", 1.0, temperature)]
    head = doubled(student_head)
    if isinstance(signal, FinalHidden):
        signal = FinalHidden(signal.hidden_NE.double(), doubled(signal.head))
    parts = []
    for part in chunks(len(student_hidden_ND), head):
        hidden_MD = student_hidden_ND[part].detach().double().requires_grad_()
        labels_M = torch.zeros(len(hidden_MD), dtype=torch.int64, device=hidden_MD.device)  # no term reads them
        losses = head_losses(hidden_MD, head, labels_M, cut_signal(signal, part), terms=terms, fused=False)
        parts.append(torch.autograd.grad(losses.objective.total, hidden_MD)[0])
    return torch.cat(parts)


def step_gradient(student: nn.Module, batches: Sequence[Batch], gradient_ND: Float[Tensor, "N D"]) -> list[Tensor]:
    """Push a gradient of the final hidden states through the student's body, summed over the batches.

    Returns:
        The gradient of every trainable parameter that the body reaches; the head itself is left out.
    """
    student.zero_grad(set_to_none=True)
    done = 0
    for batch in batches:
        hidden_MD = final_hidden(student, batch)
        stop = done + len(hidden_MD)
        hidden_MD.backward(gradient_ND[done:stop].to(hidden_MD.dtype))
        done = stop
    gradients = [parameter.grad for parameter in student.parameters() if parameter.grad is not None]
    student.zero_grad(set_to_none=True)
    return gradients


def angle_between(gradients: Sequence[Tensor], reference: Sequence[Tensor]) -> Angle:
    """Measure the angle between two gradients that are given in pieces; sums are float64.

    Equal gradients give 0 degrees and ratio 1. The half-angle form keeps its digits near 0, where a cosine has none.

    Source:
        Kahan 2006, "How futile are mindless assessments of roundoff in floating-point computation?", section 12.
    """
    norm, reference_norm = total_norm(gradients), total_norm(reference)
    if norm == 0.0 or reference_norm == 0.0:
        return Angle(0.0 if norm == reference_norm else 90.0, math.nan if reference_norm == 0.0 else 0.0)
    pairs = [(g.double() / norm, r.double() / reference_norm) for g, r in zip(gradients, reference, strict=True)]
    apart, together = total_norm([g - r for g, r in pairs]), total_norm([g + r for g, r in pairs])
    return Angle(math.degrees(2 * math.atan2(apart, together)), norm / reference_norm)


def total_norm(pieces: Sequence[Tensor]) -> float:
    """Give the Euclidean norm of all pieces together."""
    return math.sqrt(sum(float(piece.double().square().sum()) for piece in pieces))


def reconstruction_kl(dense: FinalHidden, signal: TeacherSignal, *, temperature: float) -> float | None:
    """Average KL(live || reconstructed) over the positions, in nats, at a temperature.

    Hidden states give their own distribution. A top-k gives its kept entries and spreads the tail evenly over the
    other ids. Samples give none: an id that was not drawn would have probability 0.
    """
    if not isinstance(signal, FinalHidden | TopK) or not len(dense.hidden_NE):
        return None
    head, total = doubled(dense.head), 0.0
    for part in chunks(len(dense.hidden_NE), head):
        live = teacher_logits(FinalHidden(dense.hidden_NE[part].double(), head)) / temperature
        live_NU, stored_NU = live.log_softmax(dim=1), stored_logprobs(cut_signal(signal, part), head, temperature)
        total += float((live_NU.exp() * (live_NU - stored_NU)).sum())
    return total / len(dense.hidden_NE)


def stored_logprobs(signal: TeacherSignal, head: OutputHead, temperature: float) -> Float[Tensor, "N U"]:
    """Give the full distribution that a stored signal stands for, in float64."""
    if isinstance(signal, FinalHidden):
        logits_NU = teacher_logits(FinalHidden(signal.hidden_NE.double(), head))
        return (logits_NU / temperature).log_softmax(dim=1)
    assert isinstance(signal, TopK)
    kept_NK = signal.logprobs_NK.double() / temperature - signal.log_z_N[float(temperature)].double()[:, None]
    num_rest = signal.vocab_size - kept_NK.shape[1]
    tail_N = (1 - kept_NK.exp().sum(dim=1)).clamp(min=1e-12) / max(num_rest, 1)
    probs_NU = tail_N[:, None].expand(-1, signal.vocab_size).log()
    spread_NU = probs_NU.scatter(1, signal.ids_NK, kept_NK)
    return spread_NU - spread_NU.logsumexp(dim=1, keepdim=True)


def recommend(points: Sequence[FrontierPoint], *, max_degrees: float) -> FrontierPoint | None:
    """Choose the smallest signal whose step lies within ``max_degrees`` of the dense one; None when there is none."""
    close = [point for point in points if point.step.degrees <= max_degrees]
    return min(close, key=lambda point: (point.bytes_per_position, point.step.degrees), default=None)


def doubled(head: OutputHead) -> OutputHead:
    """Give the head in float64 and without gradients; numbers are the same."""
    bias_V = None if head.bias_V is None else head.bias_V.detach().double()
    return OutputHead(head.weight_VD.detach().double(), bias_V, head.scale, head.softcap)


def chunks(num_positions: int, head: OutputHead) -> list[slice]:
    """Cut positions so that the logits of a chunk stay small."""
    size = max(1, CHUNK_ELEMENTS // head.weight_VD.shape[0])
    return [slice(start, min(start + size, num_positions)) for start in range(0, num_positions, size)]
