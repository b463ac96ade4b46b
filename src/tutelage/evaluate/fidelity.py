"""How close a student's next-token distributions are to its teacher's.

In: a student, rows with supervised targets, and anything that gives a ``TeacherSignal`` for a
``Batch``. Out: KL(teacher || student) per target and the share of equal top-1 tokens.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tutelage.data.collate import batch_to, collate
from tutelage.data.plan import reading_batches
from tutelage.errors import CapabilityError, DataError, NumericsError
from tutelage.evaluate.choices import chunk_rows
from tutelage.evaluate.cut import cut_signal
from tutelage.evaluate.mode import reading_mode
from tutelage.losses import head_losses
from tutelage.losses.precision import no_autocast
from tutelage.models.head import final_hidden, find_head
from tutelage.teacher.logits import head_logits
from tutelage.types import Batch, DenseLogits, FinalHidden, LossTerm, OutputHead, StudentRow, TeacherSignal, TopK

FIDELITY_SIGNALS = ("final_hidden", "topk")  # kinds whose record says how likely every token, or every bucket, is
FORWARD_KL = LossTerm("forward_kl", weight=1.0, temperature=1.0)


@runtime_checkable
class SignalSource(Protocol):
    """A live or cached teacher."""

    def signal(self, batch: Batch) -> TeacherSignal:
        """Return the teacher's signal at the batch's N supervised positions."""
        ...


def fidelity(
    model: nn.Module,
    rows: Sequence[StudentRow],
    teacher: SignalSource,
    *,
    pad_id: int,
    token_budget: int,
    device: torch.device | str,
) -> dict[str, float]:
    """Compare a student with its teacher at every supervised position of ``rows``, at T = 1.

    KL is over the whole vocabulary for dense and final-hidden signals (0 when both models agree),
    and over the k + 1 buckets for top-k, which can only be smaller. No ``[N, V]`` array is larger
    than one chunk. Sums over batches are float64.

    Args:
        model: The student; run in evaluation mode, which is put back. An ``autocast`` applies to its body.
        rows: With at least one supervised target in all.
        teacher: Gives ``DenseLogits``, ``FinalHidden`` or ``TopK``.
        pad_id: Fills the rows of a batch; never read.
        token_budget: Padded tokens per forward pass.
        device: Where the student is, and the signal.

    Returns:
        ``kl_to_teacher`` in nats per target, ``top1_agreement`` in [0, 1], ``num_targets``.

    Raises:
        CapabilityError: If the teacher's signal has no token distribution. Samples are refused too: their KL is an
            estimate whose noise hides small differences, and the top token need not be among them.
        DataError: If the rows hold no supervised target.
        NumericsError: If a batch's KL is not finite; names its rows.
    """
    total_nats, num_equal, num_targets = 0.0, 0, 0
    lengths = np.array([row.ids.shape[0] for row in rows], dtype=np.int64)
    with reading_mode(model):
        for indices in reading_batches(lengths, token_budget=token_budget):
            batch = batch_to(collate([rows[index] for index in indices], pad_id=pad_id), device)
            if batch.num_targets == 0:
                continue
            batch_nats, batch_equal = _compare(model, batch, teacher.signal(batch))
            if not np.isfinite(batch_nats):
                raise NumericsError(
                    f"KL to the teacher is {batch_nats} in a batch with the rows {batch.item_keys[:5]}; expected a "
                    "finite number. The student's weights or the teacher's signal hold NaN or infinity."
                )
            total_nats += batch_nats
            num_equal += batch_equal
            num_targets += batch.num_targets
    if num_targets == 0:
        raise DataError(
            f"Fidelity needs supervised targets: found none in {len(rows)} rows. Give rows that hold an answer."
        )
    return {
        "kl_to_teacher": total_nats / num_targets,
        "top1_agreement": num_equal / num_targets,
        "num_targets": num_targets,
    }


def _compare(model: nn.Module, batch: Batch, signal: TeacherSignal) -> tuple[float, int]:
    """Return the sum of KL in nats and the number of equal top-1 tokens; the heads' products are float32."""
    hidden_ND = final_hidden(model, batch)
    head = find_head(model)
    chunk = chunk_rows(head)
    total_nats, num_equal = 0.0, 0
    for start in range(0, batch.num_targets, chunk):
        part = slice(start, start + chunk)
        total_nats += _kl_nats(hidden_ND[part], head, batch.labels_N[part], _positions(signal, part))
        num_equal += _num_equal_top(hidden_ND[part], head, _positions(signal, part))
    return total_nats, num_equal


def _kl_nats(
    hidden_ND: Float[Tensor, "N D"], head: OutputHead, labels_N: Int[Tensor, " N"], signal: TeacherSignal
) -> float:
    losses = head_losses(
        hidden_ND, head, labels_N, signal, terms=[FORWARD_KL], fused=False, compute_dtype=torch.float32
    )
    return float(losses.parts[FORWARD_KL.name].total)


def _num_equal_top(hidden_ND: Float[Tensor, "N D"], head: OutputHead, signal: TeacherSignal) -> int:
    with no_autocast(hidden_ND.device):
        student_top_N = head_logits(hidden_ND, head).argmax(dim=-1)
        return int((student_top_N == _teacher_top(signal)).sum())


def _positions(signal: TeacherSignal, part: slice) -> TeacherSignal:
    """Cut a signal down to some of its positions, if it can be compared at all."""
    if not isinstance(signal, DenseLogits | FinalHidden | TopK):
        raise CapabilityError(
            f"Fidelity needs the teacher's token distribution, found {type(signal).__name__}. "
            "Use the signal final_hidden or topk: samples estimate a loss, but hold neither the top token nor a KL "
            "that is 0 for equal models."
        )
    return cut_signal(signal, part)


def _teacher_top(signal: TeacherSignal) -> Int[Tensor, " N"]:
    match signal:
        case DenseLogits():
            return signal.logits_NU.argmax(dim=-1)
        case FinalHidden():
            return head_logits(signal.hidden_NE, signal.head).argmax(dim=-1)
        case TopK():
            return signal.ids_NK.gather(1, signal.logprobs_NK.argmax(dim=-1, keepdim=True)).squeeze(1)
    raise AssertionError("_positions refuses every other signal")
