"""What a stored signal costs and what it keeps: bytes per position against the direction of the student's step.

In: the teacher's final hidden states and head at the supervised positions of some rows, a student, columns that could
be stored instead. Out: one :class:`FrontierPoint` per column.

Every column is measured, encoded and decoded as the teach stage would do it; bytes are those of its blocks. The
reference is the gradient of the full-vocabulary loss from the hidden states themselves.

What does not depend on the column is done once: the teacher's logits, the student's forward pass, the reference. A
backward pass is linear, so of each column only the *difference* to the reference is sent through the body: rounding is
then relative to that difference, and float32 does for what took float64.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from tutelage.cache.column import Column, TensorDict
from tutelage.evaluate.cut import cut_signal
from tutelage.losses import head_losses, teacher_logits
from tutelage.losses.precision import for_sums, sum_dtype
from tutelage.models.head import final_hidden, find_head
from tutelage.teacher.logits import TiledHead
from tutelage.teacher.measure import measure_vocabulary
from tutelage.teacher.signals import as_signal
from tutelage.types import Batch, FinalHidden, LossTerm, OutputHead, TeacherRow, TeacherSignal, TopK

CHUNK_ELEMENTS = 2**23  # float64 logits of one chunk: 64 MiB, a handful of them alive at once
NO_LENGTH = 1e-12  # relative to the reference: what rounding leaves where apart is exactly its opposite
SMALLEST_TAIL = 1e-12  # a top-k whose rounded mass reaches 1 still leaves something for the other ids


@dataclass(frozen=True)
class Angle:
    """How a gradient lies to the reference: the angle between them, and the ratio of their lengths."""

    degrees: float
    norm_ratio: float


@dataclass(frozen=True)
class StoredSignal:
    """A signal as a cached teacher would give it, and what it takes: bytes per position by part."""

    signal: TeacherSignal
    parts: dict[str, float]


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

    Losses run in float32, reconstructed distributions and all sums over parameters in float64. The activations of all
    batches are kept, as in one training step.

    Args:
        student: A causal language model with at least one trainable parameter; put into evaluation mode.
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
    dense = FinalHidden(hidden_NE, head_in(head, torch.float32))
    stored = store_and_read_all(columns, hidden_NE, head, rows)
    signals = {name: each.signal for name, each in stored.items()}
    kl_nats = reconstruction_kls(dense, signals, temperature=temperature)
    student.eval()
    body, student_head = KeptPass(student, batches), find_head(student)

    def gradient(signal: TeacherSignal) -> Tensor:
        found = hidden_gradient(body.hidden_ND, student_head, signal, temperature=temperature, dtype=torch.float32)
        return for_sums(found)

    reference_ND = gradient(dense)
    reference_step = body.push(reference_ND)
    points = []
    for name, column in columns.items():
        apart_ND = gradient(signals[name]) - reference_ND
        point = FrontierPoint(
            signal=name,
            kind=column.kind,
            column=column.name,
            bytes_per_position=sum(stored[name].parts.values()),
            parts=stored[name].parts,
            kl_nats=kl_nats.get(name),
            step=angle_beside(body.push(apart_ND), reference_step) if bool(apart_ND.any()) else Angle(0.0, 1.0),
            position=angle_beside([apart_ND], [reference_ND]),
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
    stored = store_and_read_all({"": column}, hidden_NE, head, rows)[""]
    return stored.signal, stored.parts


@torch.no_grad()
def store_and_read_all(
    columns: Mapping[str, Column], hidden_NE: Float[Tensor, "N E"], head: OutputHead, rows: Sequence[TeacherRow]
) -> dict[str, StoredSignal]:
    """Measure several columns in one pass over the teacher's head, encode them and read them back.

    Args:
        columns: What would be stored, by name.
        hidden_NE: The teacher's final hidden states.
        head: The teacher's head.
        rows: Their positions are the N; draws depend on them.
    """
    counts = np.array([len(row.positions) for row in rows], dtype=np.int64)
    measured = measure_vocabulary(hidden_NE, TiledHead(head), list(dict.fromkeys(columns.values())), rows)
    return {name: _read_back(column, measured[column], counts, head) for name, column in columns.items()}


def _read_back(column: Column, tensors: TensorDict, counts: np.ndarray, head: OutputHead) -> StoredSignal:
    on_cpu = {name: tensor.cpu() for name, tensor in tensors.items()}
    blocks = [np.frombuffer(block, dtype=np.uint8) for block in column.encode_rows(on_cpu, counts)]
    num_positions = int(counts.sum())
    parts = {name: size / num_positions for name, size in column.count_parts(blocks, counts).items()}
    read = {name: tensor.to(head.weight_VD.device) for name, tensor in column.decode_rows(blocks, counts).items()}
    return StoredSignal(as_signal(column, read, head), parts)


def hidden_gradient(
    student_hidden_ND: Float[Tensor, "N D"],
    student_head: OutputHead,
    signal: TeacherSignal,
    *,
    temperature: float,
    dtype: torch.dtype = torch.float64,
) -> Float[Tensor, "N D"]:
    """Differentiate the summed forward KL with respect to the student's final hidden states.

    Args:
        student_hidden_ND: The student's final hidden states; not changed.
        student_head: The student's head.
        signal: The teacher's signal at the same positions.
        temperature: Of the loss.
        dtype: Of every product and of the result.
    """
    if isinstance(signal, FinalHidden):
        signal = FinalHidden(signal.hidden_NE.to(dtype), head_in(signal.head, dtype))
    hidden_ND = student_hidden_ND.detach().to(dtype).requires_grad_()
    labels_N = torch.zeros(len(hidden_ND), dtype=torch.int64, device=hidden_ND.device)  # no term reads them
    terms = [LossTerm("forward_kl", 1.0, temperature)]
    losses = head_losses(hidden_ND, head_in(student_head, dtype), labels_N, signal, terms=terms, fused=True)
    return torch.autograd.grad(losses.objective.total, hidden_ND)[0]


class KeptPass:
    """One forward pass of a student's body whose graph is kept, so that many gradients can be sent back through it."""

    def __init__(self, student: nn.Module, batches: Sequence[Batch]) -> None:
        """Run the body over all batches; the student's parameters and their ``grad`` are not touched."""
        self._parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]
        self._hidden = [final_hidden(student, batch) for batch in batches]
        self.hidden_ND = torch.cat(self._hidden).detach()

    def push(self, gradient_ND: Float[Tensor, "N D"]) -> list[Tensor]:
        """Turn a gradient of the final hidden states into that of every trainable parameter that the body reaches.

        The head itself is left out. Linear in ``gradient_ND``.
        """
        parts = gradient_ND.split([len(hidden_MD) for hidden_MD in self._hidden])
        starts = [part.to(hidden.dtype) for part, hidden in zip(parts, self._hidden, strict=True)]
        found = torch.autograd.grad(self._hidden, self._parameters, starts, retain_graph=True, allow_unused=True)
        return [gradient for gradient in found if gradient is not None]


def step_gradient(student: nn.Module, batches: Sequence[Batch], gradient_ND: Float[Tensor, "N D"]) -> list[Tensor]:
    """Push one gradient of the final hidden states through the student's body, summed over the batches.

    Returns:
        The gradient of every trainable parameter that the body reaches; the head itself is left out.
    """
    return KeptPass(student, batches).push(gradient_ND)


def angle_between(gradients: Sequence[Tensor], reference: Sequence[Tensor]) -> Angle:
    """Measure the angle between two gradients that are given in pieces; see :func:`angle_beside`."""
    apart = [for_sums(g) - for_sums(r) for g, r in zip(gradients, reference, strict=True)]
    return angle_beside(apart, reference)


def angle_beside(apart: Sequence[Tensor], reference: Sequence[Tensor]) -> Angle:
    """Measure the angle of ``reference + apart`` to ``reference``, both given in pieces; sums are float64.

    ``apart`` is cut into what lies along the reference and what lies across it; the angle is ``atan2(across, along)``.
    Nothing apart gives 0 degrees and ratio 1, and angles near 0 keep their digits, where a cosine has none. Without a
    gradient the angle is 90, without a reference the ratio is NaN.
    """
    norm, reference_norm = total_norm(apart), total_norm(reference)
    if reference_norm == 0.0:
        return Angle(90.0 if norm else 0.0, math.nan)
    pairs = list(zip(apart, reference, strict=True))
    shift = sum(float(torch.dot(for_sums(a).flatten(), for_sums(r).flatten())) for a, r in pairs) / reference_norm**2
    across = math.sqrt(sum(float(torch.add(for_sums(a), r, alpha=-shift).square().sum()) for a, r in pairs))
    along = (1 + shift) * reference_norm
    ratio = math.hypot(across, along) / reference_norm
    return Angle(math.degrees(math.atan2(across, along)), ratio) if ratio > NO_LENGTH else Angle(90.0, 0.0)


def total_norm(pieces: Sequence[Tensor]) -> float:
    """Give the Euclidean norm of all pieces together."""
    return math.sqrt(sum(float(for_sums(piece).square().sum()) for piece in pieces))


@torch.no_grad()
def reconstruction_kls(
    dense: FinalHidden, signals: Mapping[str, TeacherSignal], *, temperature: float
) -> dict[str, float]:
    """Average KL(live || reconstructed) over the positions, in nats and float64, at a temperature.

    Hidden states give their own distribution. A top-k gives its kept entries and spreads the tail evenly over the
    other ids. Samples give none, and no entry here: an id that was not drawn would have probability 0.

    Args:
        dense: The live teacher; its full logits are computed once for all signals.
        signals: What was read back, by name.
        temperature: Of the distributions.
    """
    totals = {name: 0.0 for name, signal in signals.items() if isinstance(signal, FinalHidden | TopK)}
    num_positions = len(dense.hidden_NE)
    if not totals or not num_positions:
        return {}
    head = head_in(dense.head, sum_dtype(dense.hidden_NE.device))
    for part in chunks(num_positions, head):
        live_NU = full_logprobs(FinalHidden(dense.hidden_NE[part], head), temperature)
        probs_NU = live_NU.exp()
        own = float((probs_NU * live_NU).sum())
        for name in totals:
            totals[name] += own - _expected_logprob(probs_NU, cut_signal(signals[name], part), temperature)
    return {name: total / num_positions for name, total in totals.items()}


def _expected_logprob(probs_NU: Tensor, signal: TeacherSignal, temperature: float) -> float:
    """Sum ``p log s`` over ids and positions, s what the signal says."""
    if isinstance(signal, FinalHidden):
        widened = FinalHidden(signal.hidden_NE, head_in(signal.head, probs_NU.dtype))
        return float((probs_NU * full_logprobs(widened, temperature)).sum())
    assert isinstance(signal, TopK)
    kept_NK = for_sums(signal.logprobs_NK) / temperature - for_sums(signal.log_z_N[float(temperature)])[:, None]
    tail_N = (1 - kept_NK.exp().sum(dim=1)).clamp(min=SMALLEST_TAIL)
    log_mass_N = torch.logaddexp(kept_NK.logsumexp(dim=1), tail_N.log())  # rounded values need not sum to 1
    each_N = tail_N.log() - math.log(max(signal.vocab_size - kept_NK.shape[1], 1))
    live_NK = probs_NU.gather(1, signal.ids_NK)
    outside_N = (1 - live_NK.sum(dim=1)).clamp(min=0)
    return float((live_NK * kept_NK).sum() + (outside_N * each_N).sum() - log_mass_N.sum())


def full_logprobs(signal: FinalHidden, temperature: float) -> Float[Tensor, "N U"]:
    """Give the whole distribution at a temperature, in the dtype of the head."""
    return (teacher_logits(signal) / temperature).log_softmax(dim=1)


def recommend(points: Sequence[FrontierPoint], *, max_degrees: float) -> FrontierPoint | None:
    """Choose the smallest signal whose step lies within ``max_degrees`` of the dense one; None when there is none."""
    close = [point for point in points if point.step.degrees <= max_degrees]
    return min(close, key=lambda point: (point.bytes_per_position, point.step.degrees), default=None)


def head_in(head: OutputHead, dtype: torch.dtype) -> OutputHead:
    """Give the head in a wider dtype and without gradients; numbers are the same."""
    bias_V = None if head.bias_V is None else head.bias_V.detach().to(dtype)
    return OutputHead(head.weight_VD.detach().to(dtype), bias_V, head.scale, head.softcap)


def chunks(num_positions: int, head: OutputHead) -> list[slice]:
    """Cut positions so that the logits of a chunk stay small."""
    size = max(1, CHUNK_ELEMENTS // head.weight_VD.shape[0])
    return [slice(start, min(start + size, num_positions)) for start in range(0, num_positions, size)]
