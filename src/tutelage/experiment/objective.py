"""What one run minimises: its terms, the teachers that they read, the projectors between the two widths.

In: a method, what the teacher said, the student. Out: ``Objective``, the arguments of a ``DistillationModule`` and of
``train``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from tutelage.build import loss_terms, state_terms
from tutelage.cache import Column
from tutelage.config import Feature, distribution_signal, state_weights, teacher_temperatures
from tutelage.experiment.control import PermutedTeacher, derangement, equal_targets
from tutelage.experiment.layers import compared_layers
from tutelage.experiment.matrix import Run, method_of
from tutelage.experiment.origin import taught_source
from tutelage.experiment.shrink import kept_layers
from tutelage.experiment.stage import Context
from tutelage.experiment.teach import Taught
from tutelage.models.head import plain_model
from tutelage.models.load import load_config
from tutelage.models.projectors import Projectors
from tutelage.models.shrink import decoder_layers
from tutelage.models.taps import require_taps
from tutelage.teacher import CachedTeacher
from tutelage.train.teachers import Teacher
from tutelage.types import LossTerm, StateTerm, StudentRow


@dataclass(frozen=True)
class Objective:
    """The terms of a run and what they need."""

    terms: tuple[LossTerm | StateTerm, ...]
    teachers: tuple[Teacher, ...] = ()
    projectors: Projectors | None = None


def make_objective(
    context: Context,
    run: Run,
    taught: Taught,
    student: nn.Module,
    rows: Sequence[StudentRow],
    *,
    device: torch.device,
) -> Objective:
    """Open what a run's method reads of the cache, and lay out its terms; for the control, with the rows permuted.

    Args:
        context: The run of the recipe.
        run: One student to train.
        taught: What the teacher said on the task.
        student: As it is before training.
        rows: The rows on which it will be trained.
        device: Where signals go.

    Raises:
        AlignmentError: If the method compares a layer that does not exist or is not kept.
        ModelError: If the student's layers cannot be read by number.
    """
    method = method_of(context.recipe, run)
    columns: list[Column] = []
    terms: list[LossTerm | StateTerm] = [*loss_terms(method)]
    projectors = None
    signal = distribution_signal(method)
    if signal is not None:
        columns.append(taught.column(signal, teacher_temperatures(method)))
    if state_weights(method):
        require_taps(student)
        by_layer = taught.columns_by_layer(method.signal)
        pairs = compared_layers(
            method,
            student_layers=len(decoder_layers(student)),
            teacher_layers=load_config(taught_source(context)).get_text_config().num_hidden_layers,
            available=by_layer,
            kept=kept_layers(context, run.student),
        )
        terms += state_terms(method, pairs)
        columns += [by_layer[layer] for layer in sorted({layer for _, layer in pairs})]
        if isinstance(method, Feature):
            student_width = plain_model(student).config.get_text_config().hidden_size
            projectors = Projectors(pairs, student_width, by_layer[pairs[0][1]].width, run.seed or 0)
            context.show("  layers (student-teacher): " + ", ".join(f"{own}-{other}" for own, other in pairs))
    root, fingerprint = context.folders.cache, taught.facts["fingerprint"]
    teachers: tuple[Teacher, ...] = tuple(CachedTeacher(root, fingerprint, each, device=device) for each in columns)
    if run.role == "control" and teachers:
        partner = derangement(rows, seed=run.seed or 0, alike=equal_targets if signal is not None else None)
        teachers = tuple(PermutedTeacher(teacher, partner) for teacher in teachers)  # type: ignore[arg-type]
    return Objective(tuple(terms), teachers, projectors)
