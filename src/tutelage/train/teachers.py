"""What a step asks of its teachers: one each for every signal that the objective reads.

In: teachers, a batch. Out: ``TeacherSignals``; how many tokens have hidden states, before anything is read.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from tutelage.data.collate import teacher_row
from tutelage.errors import AlignmentError, TrainingError
from tutelage.types import Batch, HiddenStates, Pooled, StudentRow, TeacherRow, TeacherSignal, TeacherSignals


@runtime_checkable
class Teacher(Protocol):
    """Anything that can say one thing about a batch: live or cached."""

    def signal(self, batch: Batch) -> TeacherSignal:
        """Return the signal at the batch's N supervised positions, at tokens of its rows, or per row."""
        ...


@runtime_checkable
class StatesTeacher(Teacher, Protocol):
    """A teacher that may give hidden states, and knows beforehand at how many tokens."""

    def num_tokens(self, rows: Sequence[TeacherRow]) -> dict[int, int]:
        """Count, by layer, the tokens of some rows whose hidden states are given; nothing for other signals."""
        ...


def as_teachers(teacher: Teacher | Sequence[Teacher] | None) -> tuple[Teacher, ...]:
    """List the teachers of a run: none, one or several."""
    if teacher is None:
        return ()
    return (teacher,) if isinstance(teacher, Teacher) else tuple(teacher)


def read_signals(teachers: Sequence[Teacher], batch: Batch) -> TeacherSignals:
    """Ask every teacher about one batch.

    Raises:
        TrainingError: If two of them give a distribution, or the states of one layer.
    """
    distributions: list[TeacherSignal] = []
    hidden: dict[int, HiddenStates] = {}
    pooled: dict[int, Pooled] = {}
    for teacher in teachers:
        match teacher.signal(batch):
            case HiddenStates() as states:
                hidden[states.layer] = states
            case Pooled() as vectors:
                pooled[vectors.layer] = vectors
            case distribution:
                distributions.append(distribution)
    if len(distributions) > 1 or len(distributions) + len(hidden) + len(pooled) < len(teachers):
        raise TrainingError(
            f"{len(teachers)} teachers gave {len(distributions)} distributions, hidden states of layers "
            f"{sorted(hidden)} and pooled states of layers {sorted(pooled)}. Expected one distribution at most, and "
            "every layer once."
        )
    return TeacherSignals(distributions[0] if distributions else None, hidden, pooled)  # type: ignore[arg-type]


def count_tokens(teachers: Sequence[Teacher], rows: Sequence[StudentRow]) -> int:
    """Count the tokens of some rows at which the teachers give hidden states, without reading any.

    Raises:
        AlignmentError: If layers differ in their tokens: no single number could divide their mean.
        TrainingError: If no teacher gives hidden states.
    """
    asked = [teacher_row(row) for row in rows]
    counts = {
        layer: count
        for teacher in teachers
        if isinstance(teacher, StatesTeacher)
        for layer, count in teacher.num_tokens(asked).items()
    }
    if len(set(counts.values())) > 1:
        raise AlignmentError(
            f"The layers' hidden states are stored at different tokens (tokens by layer: {counts}). Expected all from "
            "one `hidden` signal, with one token_subset_ratio and seed."
        )
    if not counts:
        raise TrainingError(
            "The objective compares hidden states, but no teacher gives any. Pass one teacher per layer that is "
            "compared."
        )
    return next(iter(counts.values()))
