"""One's own rows through the batch plan and the training loop.

In: token ids with marked targets, a student, a teacher. Out: a trained student and ``TrainResult``.
"""

import dataclasses
import difflib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from torch import nn

from tutelage.errors import ConfigError, DataError
from tutelage.losses.kd import DEFAULT_ALPHA, kd_terms
from tutelage.models.fingerprint import model_fingerprint
from tutelage.store import folder_lock, value_digest
from tutelage.teacher import CachedTeacher, LiveTeacher
from tutelage.train.loop import train
from tutelage.train.module import DistillationModule
from tutelage.train.options import TrainOptions
from tutelage.train.progress import TrainProgress
from tutelage.train.state import TrainResult
from tutelage.train.teachers import Teacher
from tutelage.types import LossTerm, StudentRow, row_key


def make_row(ids: ArrayLike, targets: ArrayLike, *, name: str = "") -> StudentRow:
    """Make a row of token ids and say which of them are learned.

    Args:
        ids: Token ids, [T].
        targets: bool [T], True where the *token* is a target; or labels as transformers has them: -100 where a token is
            no target, the token's own id where it is. Token 0 cannot be one: no logit predicts it.
        name: What messages and logs call the row; by default its key.

    Raises:
        DataError: If the lengths differ, nothing or the first token is a target, or a label is not the token's id.
    """
    row_ids, marks = np.asarray(ids), np.asarray(targets)
    if row_ids.ndim != 1 or row_ids.dtype.kind not in "iu" or marks.shape != row_ids.shape:
        raise DataError(
            f"ids have shape {row_ids.shape} and dtype {row_ids.dtype}, targets shape {marks.shape}; expected whole "
            "numbers of shape (T,) and as many targets"
        )
    if marks.dtype != np.bool_:
        wrong = np.flatnonzero((marks != -100) & (marks != row_ids))
        if len(wrong):
            raise DataError(
                f"the label of token {wrong[0]} is {marks[wrong[0]]}, its id {row_ids[wrong[0]]}; expected the token's "
                "own id or -100: labels are not shifted here"
            )
        marks = marks != -100
    if not marks.any() or marks[0]:
        found = "token 0 is a target, and no logit predicts it" if marks.any() else "no token is a target"
        raise DataError(f"{found}; expected a prompt of one token at least, and at least one target after it")
    row_ids = row_ids.astype(np.int32)
    key = row_key(row_ids)
    return StudentRow(name or key.hex(), row_ids, marks, key)


def train_rows(
    student: nn.Module,
    rows: Sequence[StudentRow],
    teacher: nn.Module | Teacher | None,
    folder: str | os.PathLike[str],
    *,
    pad_id: int,
    temperature: float = 1.0,
    divergence: str = "forward_kl",
    alpha: float = DEFAULT_ALPHA,
    beta: float | None = None,
    skew: float | None = None,
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
    select_by: str = "accuracy",
    show: Callable[[Any], None] | None = None,
    **options: Any,
) -> TrainResult:
    """Train a student on rows of one's own, as a recipe's ``logit`` method trains on a task's.

    The batch plan knows every step's number of targets beforehand, the loss reaches the output head in chunks, a
    stopped run goes on bit for bit with the same call, and a step whose numbers are not finite is refused.

    Args:
        student: A causal language model of transformers with float32 weights, on its device; trained in place.
        rows: From :func:`make_row`.
        teacher: A model that reads every batch (same token ids), :meth:`Cache.teacher`, anything with
            ``signal(batch)``, or None to learn from the rows alone.
        folder: Where the run's logs, checkpoints and final weights go; of this run alone.
        pad_id: Token that fills padded rows.
        temperature: As of :func:`kd_loss`; so are divergence, alpha, beta and skew.
        divergence: See temperature.
        alpha: See temperature.
        beta: See temperature.
        skew: See temperature.
        evaluate: Called with the student in evaluation mode; returns validation metrics, higher is better.
        select_by: The metric that chooses the weights which the student ends with.
        show: Called after each step; by default a line of progress on a terminal.
        **options: Fields of ``tutelage.train.options.TrainOptions``: learning_rate, max_steps,
            per_device_train_batch_size and so on.

    Raises:
        DataError: If there are no rows.
        ConfigError: If an option is unknown or not valid.
        TrainingError: If the folder holds a run of other rows or settings, or nothing trains.
        NumericsError: If a signal, a loss or a gradient is not finite; the weights are as before that step.
        PreemptedError: If a signal asked to stop; the state is saved.
    """
    if not rows:
        raise DataError("there are no rows; expected at least one from make_row(ids, targets)")
    _check_names(options)
    terms = [LossTerm("cross_entropy", 1.0)]
    if teacher is not None:
        terms = kd_terms(divergence, temperature=temperature, alpha=alpha, beta=beta, skew=skew)
    source = LiveTeacher(teacher, kind="final_hidden") if isinstance(teacher, nn.Module) else teacher
    device = next(student.parameters()).device
    with folder_lock(Path(folder)), TrainProgress() as progress:
        return train(
            DistillationModule(student, terms),
            rows,
            source,
            TrainOptions(**options),
            folder=Path(folder),
            pad_id=pad_id,
            device=device,
            evaluate=evaluate,
            select_by=select_by,
            show=show or progress,
            run_key=value_digest([_identity(student), _identity(teacher)]),
        )


def _check_names(options: dict[str, Any]) -> None:
    known = [field.name for field in dataclasses.fields(TrainOptions)]
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise ConfigError(
                f"train_rows has no option {name!r}; "
                + (f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}")
            )


def _identity(model: object) -> str:
    """Tell models apart: a checkpoint of another student's first weights, or made under another teacher, is refused."""
    if isinstance(model, nn.Module):
        return model_fingerprint(model, dtype=next(model.parameters()).dtype)
    if isinstance(model, CachedTeacher):
        return value_digest([model.fingerprint, model.column.name])
    return type(model).__qualname__
