"""The terms of an objective that compare hidden states: token by token, or rows of a group with each other.

In: the student's hidden states from the body's one forward pass, what the teachers said. Out: sums with their counts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tutelage.align import token_index
from tutelage.errors import AlignmentError, TrainingError
from tutelage.losses import STATE_LOSSES
from tutelage.models.projectors import Projectors
from tutelage.models.taps import pooled_rows
from tutelage.types import Batch, LossSum, StateTerm, TeacherSignals

SETTINGS: dict[str, Callable[[StateTerm], dict[str, Any]]] = {
    "relation_distance": lambda term: {"pairs_per_sample": term.per_sample},
    "relation_angle": lambda term: {"form": term.form, "triplets_per_sample": term.per_sample},
}


@dataclass(frozen=True)
class StudentStates:
    """The student's hidden states [B, T, D] by layer number, for one batch."""

    batch: Batch
    by_layer: Mapping[int, Tensor]

    def grid(self, layer: int) -> Float[Tensor, "G D"]:
        """Return a layer's states over the flattened grid, padding included."""
        return self.by_layer[layer].flatten(0, 1)


def check_state_terms(terms: Sequence[StateTerm], projectors: Projectors | None) -> None:
    """Refuse terms that no loss, or no projector, belongs to.

    Raises:
        TrainingError: With the term concerned.
    """
    for term in terms:
        if term.kind not in STATE_LOSSES or not term.pairs:
            raise TrainingError(
                f"The term {term.kind!r} compares the layer pairs {list(term.pairs)}; expected one of "
                f"{', '.join(STATE_LOSSES)} and at least one pair."
            )
        mapped = () if projectors is None else projectors.pairs
        if STATE_LOSSES[term.kind].reads == "hidden" and not set(term.pairs) <= set(mapped):
            raise TrainingError(
                f"{term.kind} compares the layer pairs {list(term.pairs)}, but there are projectors for "
                f"{list(mapped)}. Make `Projectors` for the same pairs."
            )
        if STATE_LOSSES[term.kind].reads == "pooled" and len(term.pairs) != 1:
            raise TrainingError(f"{term.kind} compares one vector per row; expected one layer pair, got {term.pairs}.")


def unit_of(term: StateTerm) -> str:
    """Name what a term's sum is divided by: tokens with stored states, or groups of rows."""
    return "tokens" if STATE_LOSSES[term.kind].reads == "hidden" else "groups"


def state_sum(
    term: StateTerm, student: StudentStates, signals: TeacherSignals, projectors: Projectors | None
) -> LossSum:
    """Sum one term over a batch; gradients flow to the student and its projectors.

    Raises:
        AlignmentError: If a layer was not read from the teacher, or tokens, rows or widths do not fit together.
    """
    if unit_of(term) == "groups":
        return _group_sum(term, student, signals)
    assert projectors is not None, "check_state_terms has seen to it"
    sums = [_layer_sum(term, pair, student, signals, projectors) for pair in term.pairs]
    return LossSum(torch.stack([each.total for each in sums]).mean(), sums[0].count)


def _layer_sum(
    term: StateTerm, pair: tuple[int, int], student: StudentStates, signals: TeacherSignals, projectors: Projectors
) -> LossSum:
    """Compare one pair of layers at the P tokens that the teacher's column stores."""
    states = _of_layer(signals.hidden, pair[1], term)
    index_P = token_index(student.batch, states.tokens)
    student_PE = projectors(*pair, student.grid(pair[0])[index_P])
    teacher_PE = states.hidden_PE
    if student_PE.shape != teacher_PE.shape:
        raise AlignmentError(
            f"Teacher layer {pair[1]} has states of shape {list(teacher_PE.shape)}, the projected student layer "
            f"{pair[0]} {list(student_PE.shape)}. Expected projectors of the teacher's width; make them for this "
            "teacher."
        )
    return STATE_LOSSES[term.kind].compute(student_PE, teacher_PE)


def _group_sum(term: StateTerm, student: StudentStates, signals: TeacherSignals) -> LossSum:
    """Compare the rows of each group with each other, by one vector per row."""
    student_layer, teacher_layer = term.pairs[0]
    batch = student.batch
    if not batch.group_sizes:
        raise AlignmentError(f"{term.kind} compares rows of a group, but the batch has no groups; set `group_rows`.")
    student_BD = pooled_rows(student.grid(student_layer), batch)
    teacher_BE = _of_layer(signals.pooled, teacher_layer, term).pooled_BE
    settings = SETTINGS[term.kind](term)
    return STATE_LOSSES[term.kind].compute(
        student_BD, teacher_BE, batch.group_sizes, seeds=batch.group_seeds or None, **settings
    )


def _of_layer(by_layer: Mapping[int, Any], layer: int, term: StateTerm) -> Any:
    if layer not in by_layer:
        raise AlignmentError(
            f"{term.kind} compares with teacher layer {layer}, but the teachers gave layers {sorted(by_layer)}. Add "
            "the layer to the signal's `layers` and teach again."
        )
    return by_layer[layer]
