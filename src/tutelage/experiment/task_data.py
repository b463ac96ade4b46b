"""A task as one model reads it: rows to learn from, prompts to answer.

In: a prepared task, a tokenizer, a model. Out: ``StudentRow``s and ``ChoicePrompt``s whose ids the model knows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tutelage.align import check_ids
from tutelage.data import (
    ChoicePrompt,
    Example,
    PreparedTask,
    check_verbalisers,
    choice_prompts,
    classification_rows,
    read_prepared,
)
from tutelage.experiment.stage import Context
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
    max_length: int

    @property
    def pad_id(self) -> int:
        """The token that fills a batch."""
        return int(self.tokenizer.pad_token_id)  # type: ignore[arg-type]

    def rows(
        self, examples: Sequence[Example], *, answers: Sequence[int] | None = None, what: str = ""
    ) -> list[StudentRow]:
        """Return supervised rows; ``answers`` replace the gold labels.

        Raises:
            DataError: If a row has no target.
            AlignmentError: If a row holds an id that the model has no embedding for.
        """
        made = classification_rows(
            self.tokenizer,
            self.prepared.task,
            examples,
            answers=answers,
            max_length=self.max_length,
            end_of_turn_id=self.end_of_turn_id,
        )
        for row in made.rows:
            check_ids(row.ids, self.num_ids, f"row {row.item_key}")
        if made.num_shortened and what:
            self.context.show(f"  {what}: {made.num_shortened:,} texts were shortened to {self.max_length} tokens")
        return made.rows

    def prompts(self, examples: Sequence[Example]) -> list[ChoicePrompt]:
        """Return prompts whose choices are scored."""
        return choice_prompts(
            self.tokenizer,
            self.prepared.task,
            examples,
            max_length=self.max_length,
            end_of_turn_id=self.end_of_turn_id,
        )


def open_task(context: Context, task_name: str, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> TaskData:
    """Read a prepared task for one model.

    Raises:
        DataError: If two verbalisers cannot be told apart by this tokenizer.
    """
    prepared = read_prepared(context.folders.prepared(task_name))
    check_verbalisers(tokenizer, prepared.task)
    return TaskData(
        context,
        prepared,
        tokenizer,
        model.get_input_embeddings().num_embeddings,  # type: ignore[arg-type]
        end_of_turn_id(tokenizer, model.config),
        context.recipe.tasks[task_name].max_length,
    )
