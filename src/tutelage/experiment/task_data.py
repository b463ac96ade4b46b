"""A task as one model reads it: rows to learn from, and what it takes to answer.

In: a prepared task, a tokenizer, a model. Out: ``StudentRow``s whose ids the model knows; a ``TaskData``.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tutelage.align import Reader
from tutelage.config import selection_metric
from tutelage.data import PreparedTask, Rows, WrittenAnswer, read_prepared
from tutelage.data.counts import left_out_problems
from tutelage.data.problems import DataProblemsError
from tutelage.experiment.stage import Context
from tutelage.experiment.task_kinds import TaskKind, kind_of
from tutelage.experiment.writer import RowWriter, reader_of
from tutelage.types import StudentRow


@dataclass(frozen=True)
class TaskData:
    """A prepared task with the tokenizer and the limits of one model."""

    context: Context
    name: str  # a key of `tasks`
    prepared: PreparedTask
    tokenizer: PreTrainedTokenizerBase
    reader: Reader  # the model: which of the tokenizer's ids it can read
    end_of_turn_id: int
    section: Any  # the task's section of the recipe
    kind: TaskKind = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", kind_of(self.section))

    @property
    def max_length(self) -> int:
        """Tokens of a row at most."""
        return self.section.max_length

    @property
    def date(self) -> str | None:
        """The day that chat templates write: the one that was recorded with the rows; None: today."""
        return self.prepared.info.get("date") or self.section.date

    @property
    def metric(self) -> str:
        """The metric that chooses checkpoints and grid points."""
        return selection_metric(self.context.recipe.evaluate.select_by, self.section)

    @property
    def pad_id(self) -> int:
        """The token that fills a batch; 0 where the model has no embedding for the tokenizer's own: it is masked."""
        found = int(self.tokenizer.pad_token_id)  # type: ignore[arg-type]
        return found if found < self.reader.num_ids else 0

    def rows(self, examples: Sequence[Any], *, what: str = "", for_training: bool = False) -> list[StudentRow]:
        """Return supervised rows; see :meth:`make_rows`."""
        return self.make_rows(examples, what=what, for_training=for_training).rows

    def make_rows(self, examples: Sequence[Any], *, what: str = "", for_training: bool = False) -> Rows:
        """Return supervised rows, and how many lost a part of their text or were left out.

        Args:
            examples: What to learn from.
            what: Names the rows in what is shown; nothing is shown without it.
            for_training: Whether a part of a long text may be chosen for the answer that stands in it.

        Raises:
            DataError: If a row has no target, or more rows are left out than the recipe allows.
            AlignmentError: If rows hold tokens that the model does not have.
        """
        return self._checked(self.usable_rows(examples, for_training=for_training), what)

    def usable_rows(self, examples: Sequence[Any], *, for_training: bool = True) -> Rows:
        """Return supervised rows, whatever ids the model knows.

        Raises:
            DataError: If a row has no target, or more rows are left out than the recipe allows.
        """
        kept = self.context.written.setdefault((self.name, for_training), [])
        for written_from, made in kept:
            if len(written_from) == len(examples) and all(map(operator.is_, written_from, examples)):
                return made
        made = self.kind.rows(self, examples, for_training=for_training)
        allowed = self.section.data.max_left_out
        if sum(made.left_out.values()) > 1:  # one row of a small split is no share
            problems = list(left_out_problems(made.left_out, len(examples), allowed=allowed))
            if problems:
                raise DataProblemsError(problems)
        kept.append((list(examples), made))
        return made

    def pseudo_rows(self, taught: Any, *, what: str = "") -> list[StudentRow]:
        """Return the training rows with the teacher's hard answers, without those that it left empty.

        Args:
            taught: What the teach stage stored.
            what: As for :meth:`make_rows`.

        Raises:
            CapabilityError: If the task has no answers apart from its texts.
        """
        return self._checked(self.kind.pseudo_rows(self, taught, self.prepared.splits["train"]), what).rows

    def written_rows(
        self, examples: Sequence[Any], answers: Sequence[WrittenAnswer], *, what: str = ""
    ) -> list[StudentRow]:
        """Return rows to learn from with what a teacher wrote, one per example with a usable answer.

        Args:
            examples: What was asked.
            answers: One per example.
            what: As for :meth:`make_rows`.

        Raises:
            DataError: If template and answer leave no room for a text.
            AlignmentError: If rows hold tokens that the model does not have.
        """
        return self._checked(self.kind.written_rows(self, examples, answers), what).rows

    def require_readable(self, rows: Sequence[StudentRow], reader: Reader) -> None:
        """Refuse rows with tokens that a model does not have.

        Raises:
            AlignmentError: Names rows and tokens.
        """
        reader.check(((f"row {row.item_key}", row.ids) for row in rows), self.tokenizer)

    def _checked(self, made: Rows, what: str) -> Rows:
        self.require_readable(made.rows, self.reader)
        if made.num_shortened and what:
            self.context.show(f"  {what}: {made.num_shortened:,} texts were shortened to {self.max_length} tokens")
        if made.num_split and what:
            self.context.show(f"  {what}: {made.num_split:,} texts were split into rows of {self.max_length} tokens")
        if made.left_out and what:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in made.left_out.items())
            self.context.show(f"  {what}: rows left out: {reasons}")
        return made


def open_task(
    context: Context, task_name: str, writer: RowWriter, model: PreTrainedModel, *, student: str | None = None
) -> TaskData:
    """Read a prepared task for one model.

    Args:
        context: The run.
        task_name: A key of ``tasks``.
        writer: What writes the rows.
        model: The model that reads them.
        student: The student that it is; None: the teacher.

    Raises:
        DataError: If the task does not fit the tokenizer, such as two verbalisers that it cannot tell apart.
        AlignmentError: If the model's own tokenizer is of another family than the one that writes the rows.
    """
    num_ids = int(model.get_input_embeddings().num_embeddings)  # type: ignore[arg-type]
    return view_task(context, task_name, writer, reader_of(context, writer, student, num_ids=num_ids))


def read_task(context: Context, task_name: str) -> PreparedTask:
    """Read a prepared task, once per run.

    Raises:
        IntegrityError: If a file is missing or not what was written.
    """
    folder = context.input("prepare", task_name)
    if folder not in context.prepared:
        context.prepared[folder] = read_prepared(folder)
    return context.prepared[folder]


def view_task(context: Context, task_name: str, writer: RowWriter, reader: Reader) -> TaskData:
    """Read a prepared task for a model that need not be loaded.

    Raises:
        DataError: As :func:`open_task`.
    """
    prepared, section = read_task(context, task_name), context.recipe.tasks[task_name]
    data = TaskData(context, task_name, prepared, writer.tokenizer, reader, writer.end_of_turn_id, section)
    data.kind.check(data)
    return data
