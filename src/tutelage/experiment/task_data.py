"""A task as one model reads it: rows to learn from, and what it takes to answer.

In: a prepared task, a tokenizer, a model. Out: ``StudentRow``s whose ids the model knows; a ``TaskData``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tutelage.align import check_ids
from tutelage.config import selection_metric
from tutelage.data import PreparedTask, Rows, WrittenAnswer, read_prepared
from tutelage.data.counts import left_out_problems
from tutelage.data.problems import DataProblemsError
from tutelage.experiment.stage import Context
from tutelage.experiment.task_kinds import TaskKind, kind_of
from tutelage.models.load import end_of_turn_id
from tutelage.types import StudentRow


@dataclass(frozen=True)
class TaskData:
    """A prepared task with the tokenizer and the limits of one model."""

    context: Context
    prepared: PreparedTask
    tokenizer: PreTrainedTokenizerBase
    num_ids: int  # the model's embeddings
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
        """The token that fills a batch."""
        return int(self.tokenizer.pad_token_id)  # type: ignore[arg-type]

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
            AlignmentError: If a row holds an id that the model has no embedding for.
        """
        return self._checked(self.usable_rows(examples, for_training=for_training), what)

    def usable_rows(self, examples: Sequence[Any], *, for_training: bool = True) -> Rows:
        """Return supervised rows, whatever ids the model knows.

        Raises:
            DataError: If a row has no target, or more rows are left out than the recipe allows.
        """
        made = self.kind.rows(self, examples, for_training=for_training)
        allowed = self.section.data.max_left_out
        if sum(made.left_out.values()) > 1:  # one row of a small split is no share
            problems = list(left_out_problems(made.left_out, len(examples), allowed=allowed))
            if problems:
                raise DataProblemsError(problems)
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
            AlignmentError: If a row holds an id that the model has no embedding for.
        """
        return self._checked(self.kind.written_rows(self, examples, answers), what).rows

    def _checked(self, made: Rows, what: str) -> Rows:
        for row in made.rows:
            check_ids(row.ids, self.num_ids, f"row {row.item_key}")
        if made.num_shortened and what:
            self.context.show(f"  {what}: {made.num_shortened:,} texts were shortened to {self.max_length} tokens")
        if made.num_split and what:
            self.context.show(f"  {what}: {made.num_split:,} texts were split into rows of {self.max_length} tokens")
        if made.left_out and what:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in made.left_out.items())
            self.context.show(f"  {what}: rows left out: {reasons}")
        return made


def open_task(context: Context, task_name: str, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> TaskData:
    """Read a prepared task for one model.

    Raises:
        DataError: If the task does not fit this tokenizer, such as two verbalisers that it cannot tell apart.
    """
    num_ids = model.get_input_embeddings().num_embeddings
    return view_task(context, task_name, tokenizer, model.config, num_ids=num_ids)  # type: ignore[arg-type]


def view_task(
    context: Context, task_name: str, tokenizer: PreTrainedTokenizerBase, model_config: Any, *, num_ids: int
) -> TaskData:
    """Read a prepared task for a model of which only tokenizer and config are loaded.

    Raises:
        DataError: As :func:`open_task`.
    """
    data = TaskData(
        context,
        read_prepared(context.input("prepare", task_name)),
        tokenizer,
        num_ids,
        end_of_turn_id(tokenizer, model_config),
        context.recipe.tasks[task_name],
    )
    data.kind.check(data)
    return data
