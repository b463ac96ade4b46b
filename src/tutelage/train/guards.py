"""Nothing trains on a lie: what must hold before a step may change a weight.

In: rows, teacher signals, losses, gradients. Out: nothing, or an error that names step and rows.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import xxhash
from torch import Tensor, nn

from tutelage.errors import AlignmentError, DataError, NumericsError, TrainingError
from tutelage.types import (
    Batch,
    DenseLogits,
    FinalHidden,
    HiddenStates,
    Pooled,
    Sampled,
    StudentRow,
    TeacherSignal,
    TeacherSignals,
    TopK,
)

NUM_NAMED = 5


def name_some(names: Sequence[str]) -> str:
    """List a few names, and how many more there are."""
    rest = len(names) - NUM_NAMED
    return ", ".join(names[:NUM_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def check_rows(rows: Sequence[StudentRow]) -> None:
    """Refuse rows from which nothing can be learned.

    Raises:
        DataError: If there are no rows, or a row has no supervised target.
    """
    if not rows:
        raise DataError("There are no rows to train on. Check the task's `data` and its `limit`.")
    empty = [row.item_key for row in rows if not row.target_mask.any()]
    if empty:
        raise DataError(
            f"{len(empty)} of {len(rows)} rows have no supervised target: {name_some(empty)}. A row must keep its "
            "answer; raise `max_length` or drop the row."
        )


def check_signals(signals: TeacherSignals, batch: Batch, *, step: int) -> None:
    """Refuse whatever a teacher said about a batch that is not finite, or about something else than the batch.

    Raises:
        AlignmentError: If the number of positions, rows or tokens differs.
        NumericsError: With the rows of the non-finite values.
    """
    if signals.distribution is not None:
        check_signal(signals.distribution, batch, step=step)
    for states in (*signals.hidden.values(), *signals.pooled.values()):
        check_states(states, batch, step=step)


def check_states(states: HiddenStates | Pooled, batch: Batch, *, step: int) -> None:
    """Refuse hidden states of other rows or tokens than were asked for, and values that are not finite.

    Raises:
        AlignmentError: If rows and vectors do not match in number.
        NumericsError: With the rows of the non-finite vectors.
    """
    if isinstance(states, HiddenStates):
        counts, values_PE = np.array([len(tokens) for tokens in states.tokens]), states.hidden_PE
    else:
        counts, values_PE = np.ones(len(states.pooled_BE), dtype=np.int64), states.pooled_BE
    if len(counts) != len(batch.item_keys) or counts.sum() != len(values_PE):
        raise AlignmentError(
            f"Step {step}: the teacher gave {len(values_PE)} vectors of layer {states.layer} for {counts.sum()} places "
            f"of {len(counts)} rows, the batch has {len(batch.item_keys)} rows. Both must come from the same rows; "
            "teach again."
        )
    bad_P = ~values_PE.isfinite().all(dim=1)
    if bad_P.any():
        rows = np.repeat(np.arange(len(counts)), counts)[bad_P.cpu().numpy()]
        names = [batch.item_keys[row] for row in np.unique(rows)]
        raise NumericsError(
            f"Step {step}: the teacher's states of layer {states.layer} are not finite at {int(bad_P.sum())} of "
            f"{len(bad_P)} places, rows {name_some(names)}. Nothing was changed. Verify the cache or change the "
            "teacher's dtype."
        )


def check_signal(signal: TeacherSignal, batch: Batch, *, step: int) -> None:
    """Refuse a teacher signal that is not finite, or is for other positions than the batch's.

    Dense logits may be minus infinity (a padded vocabulary), and the padding of samples anything; nothing else may.

    Raises:
        AlignmentError: If the number of positions differs.
        NumericsError: With the rows of the non-finite positions.
    """
    if isinstance(signal, DenseLogits):
        signal_NX, bad_NX = signal.logits_NU, signal.logits_NU.isnan() | signal.logits_NU.isposinf()
    elif isinstance(signal, FinalHidden):
        signal_NX, bad_NX = signal.hidden_NE, ~signal.hidden_NE.isfinite()
    elif isinstance(signal, TopK):
        signal_NX = torch.cat([signal.logprobs_NK, *(z_N.unsqueeze(1) for z_N in signal.log_z_N.values())], dim=1)
        bad_NX = ~signal_NX.isfinite()
    elif isinstance(signal, Sampled):
        signal_NX, is_padding_NX = signal.weights_NK, signal.weights_NK == 0
        bad_NX = ~(signal.weights_NK.isfinite() & (signal.logprobs_NK.isfinite() | is_padding_NX))
    else:
        return
    if signal_NX.shape[0] != batch.num_targets:
        raise AlignmentError(
            f"The teacher's signal covers {signal_NX.shape[0]} positions, the batch supervises {batch.num_targets} "
            f"(step {step}). Both must come from the same rows; teach again."
        )
    if bad_NX.any():
        bad_N = bad_NX.any(dim=1).cpu().numpy()
        raise NumericsError(
            f"Step {step}: the teacher's signal is not finite at {int(bad_N.sum())} of {len(bad_N)} positions, rows "
            f"{name_some(rows_at(batch, bad_N))}. Nothing was changed. Verify the cache or change the teacher's dtype."
        )


def rows_at(batch: Batch, mask_N: np.ndarray) -> list[str]:
    """Name the rows to which the chosen supervised positions belong."""
    counts = [len(row.positions) for row in batch.teacher_rows]
    row_of_N = np.repeat(np.arange(len(counts)), counts)
    return [batch.item_keys[index] for index in np.unique(row_of_N[mask_N])]


def check_counts(found: Mapping[str, float], planned: Mapping[str, int], *, step: int) -> None:
    """Refuse a step that was divided by another number than it holds: its gradient would be of another size.

    Args:
        found: By unit, what the losses of all micro-batches and ranks counted.
        planned: By unit, what divided their sums.
        step: Number of the step, from 1.

    Raises:
        AlignmentError: With the unit concerned.
    """
    for unit, count in planned.items():
        if found[unit] != count:
            raise AlignmentError(
                f"Step {step}: the losses counted {found[unit]:g} {unit}, the plan {count}. No weight was changed. "
                "Signals and plan must be of the same rows; teach again."
            )


def check_losses(
    objective: float, micro_sums: Sequence[float], row_groups: Sequence[Sequence[str]], *, step: int
) -> None:
    """Refuse a step whose loss is not finite, or exactly zero.

    Args:
        objective: The step's, over all ranks, so that all of them refuse together.
        micro_sums: This rank's sums, per micro-batch.
        row_groups: The item keys, per micro-batch.
        step: Number of the step, from 1.

    Raises:
        NumericsError: With the rows of the micro-batches concerned.
    """
    if not math.isfinite(objective):
        bad = [
            key for each, keys in zip(micro_sums, row_groups, strict=True) if not math.isfinite(each) for key in keys
        ]
        raise NumericsError(
            f"Step {step}: the loss is {objective}; it comes from rows {name_some(bad) or 'of another process'}. "
            "No weight was changed. Lower the learning rate, or look at these rows with `tutelage preview`."
        )
    if objective == 0.0:
        every = [key for keys in row_groups for key in keys]
        raise NumericsError(
            f"Step {step}: the loss is exactly 0 over rows {name_some(every)}, so nothing can be learned. Check the "
            "labels, and that student and teacher are not the same model."
        )


def check_gradients(
    grad_norm: float, parameters: dict[str, nn.Parameter], row_keys: Sequence[str], *, step: int
) -> None:
    """Refuse a step whose gradient is not finite, or is zero everywhere although the loss is not.

    Raises:
        NumericsError: With the parameters and rows concerned.
    """
    if math.isfinite(grad_norm) and grad_norm > 0.0:
        return
    bad = [name for name, p in parameters.items() if p.grad is not None and not _is_finite(p.grad)]
    if bad:
        found = f"the gradient is not finite in {name_some(bad)}"
    else:
        found = f"the gradient's norm is {grad_norm} over all {len(parameters)} trainable parameters"
    raise NumericsError(
        f"Step {step}: {found}; rows {name_some(row_keys)}. No weight was changed. Lower the learning rate, or look "
        "at these rows with `tutelage preview`."
    )


def _is_finite(gradient: Tensor) -> bool:
    return bool(gradient.isfinite().all())


def student_digest(parameters: Mapping[str, nn.Parameter]) -> str:
    """Digest the student's trainable weights, so that the end of a run can tell whether they moved."""
    digest = xxhash.xxh3_64()
    for name, parameter in parameters.items():
        if name.startswith("student."):
            digest.update(parameter.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def check_trained(parameters: Mapping[str, nn.Parameter], *, before: str, num_steps: int, learning_rate: float) -> None:
    """Refuse to finish a run whose weights are not finite, or are those from before training.

    Args:
        parameters: The trainable ones, as they would be kept.
        before: Their :func:`student_digest` before the first step.
        num_steps: Steps made.
        learning_rate: The peak rate, for the message.

    Raises:
        NumericsError: If a weight is NaN or infinite.
        TrainingError: If no weight of the student moved.
    """
    bad = [name for name, p in parameters.items() if not _is_finite(p.detach())]
    if bad:
        raise NumericsError(
            f"After {num_steps} steps weights are not finite: {name_some(bad)}. Nothing was kept. Check the weights "
            "that training started from, or lower the learning rate."
        )
    if student_digest(parameters) == before:
        raise TrainingError(
            f"After {num_steps} steps every weight of the student is the same as before training; the run is not kept. "
            f"Raise `train.learning_rate` (it is {learning_rate:g}): its updates are below the weights' precision."
        )
