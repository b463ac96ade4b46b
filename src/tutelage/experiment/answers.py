"""What a finished teach stage keeps of one row beside distributions over tokens: class scores and written answers.

In: a stored task and one of its rows. Out: ``LabelScores``, ``WrittenAnswers``; None where the recipe has none. No
model is loaded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tutelage.cache import CacheReader, ClassScoresColumn
from tutelage.cache.sequences import Answer, SequencesColumn
from tutelage.data import teacher_row
from tutelage.experiment.sequences import SPLIT, task_prompts
from tutelage.experiment.stored import FoundRow, StoredTask
from tutelage.experiment.teach import sequences_column_of, signal_columns_of
from tutelage.teacher.sequences import read_sequences
from tutelage.types import TeacherRow

RAW_TEMPLATE = "raw"  # of a column whose prompts are no chat turns


@dataclass(frozen=True)
class LabelScores:
    """The teacher's log-probability of each label's words at a row's first target."""

    column: str
    labels: tuple[str, ...]
    logprobs: tuple[float, ...]


@dataclass(frozen=True)
class WrittenAnswers:
    """What the teacher wrote to a row's prompt, and under which settings."""

    column: SequencesColumn
    prompt: TeacherRow
    samples: list[Answer]


class RowReader:
    """Reads single rows of one taught task; columns are opened once."""

    def __init__(self, task: StoredTask) -> None:
        """Look at what the stage stored.

        Args:
            task: With a fingerprint.
        """
        assert task.fingerprint is not None, "a task that was not taught has no rows to read"
        self.task, self._fingerprint = task, task.fingerprint

    def label_scores(self, found: FoundRow) -> LabelScores | None:
        """Read a row's class scores; None for a task without labels of one token each.

        Raises:
            CacheError: If they are damaged or missing.
        """
        if self._scores is None:
            return None
        row = teacher_row(found.row)
        read = self._scores.read([row.key], [self._scores.column.positions_of(row)])
        labels = self.task.data.prepared.task.labels
        return LabelScores(self._scores.column.name, tuple(labels), tuple(read["scores_NC"][0].double().tolist()))

    def answers(self, found: FoundRow) -> WrittenAnswers | None:
        """Read what the teacher wrote to a row's prompt; None when it was not asked to.

        Raises:
            CacheError: If the answers are damaged or missing.
        """
        if self._sequences is None or found.split != SPLIT:
            return None
        examples = self.task.data.prepared.splits[SPLIT]
        asked = [example for example in examples if example.item_key == found.row.item_key][:1]
        prompts = prompt_rows(self.task, self._sequences, asked)
        samples = read_sequences(self.task.root, self._fingerprint, self._sequences, prompts)[0]
        return WrittenAnswers(self._sequences, prompts[0], samples)

    @cached_property
    def _scores(self) -> CacheReader | None:
        for column in signal_columns_of(self.task.facts):
            if isinstance(column, ClassScoresColumn):
                return CacheReader(self.task.root, self._fingerprint, column)
        return None

    @cached_property
    def _sequences(self) -> SequencesColumn | None:
        return sequences_column_of(self.task.facts)


def prompt_rows(task: StoredTask, column: Any, examples: Sequence[Any]) -> list[TeacherRow]:
    """Build the prompts that the teach stage asked, in the order of the examples.

    Args:
        task: Whose examples they are.
        column: The ``SequencesColumn`` that holds the answers; it knows whether prompts were chat turns.
        examples: Of the split that is asked.
    """
    room = task.data.max_length - column.max_new_tokens
    prompts, _ = task_prompts(task.data, examples, chat=column.template != RAW_TEMPLATE, room=room)
    return prompts
