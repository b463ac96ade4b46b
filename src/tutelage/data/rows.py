"""Token rows to train on, and prompts to score.

In: examples, a task and a tokenizer. Out: ``StudentRow``s whose targets are the answer and its end
of turn, or ``ChoicePrompt``s with one candidate answer per class.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tutelage.data.examples import Example
from tutelage.data.prompts import (
    Tokenizer,
    answer_room,
    check_verbalisers,
    fit_prompts,
    plain_ids,
    verbaliser_ids,
)
from tutelage.data.task import ClassificationTask, Prompt
from tutelage.errors import DataError
from tutelage.types import StudentRow, row_key

__all__ = ["ChoicePrompt", "Rows", "check_verbalisers", "choice_prompts", "classification_rows", "student_row"]


@dataclass(frozen=True)
class Rows:
    """Rows in the order of their examples, how many lost a part of their text, and how many were left out, and why.

    ``num_split`` counts examples that became several rows, which loses nothing.
    """

    rows: list[StudentRow]
    num_shortened: int
    left_out: Mapping[str, int] = field(default_factory=dict)
    num_split: int = 0


@dataclass(frozen=True)
class ChoicePrompt:
    """A prompt and the token ids of every class's answer, in the order of the labels."""

    item_key: str
    prompt_ids: np.ndarray  # int32
    choice_ids: list[np.ndarray]  # int32 each; without the end of turn
    gold: int
    cluster_key: str = ""


def student_row(
    tokenizer: Tokenizer,
    prompt: Prompt | str,
    answer: str,
    *,
    item_key: str,
    max_length: int,
    end_of_turn_id: int,
) -> tuple[StudentRow, bool]:
    """Make one row: prompt ids, answer ids, end of turn; the last two are the targets.

    Prompt and answer are tokenised apart and concatenated, so the target mask needs no search.

    Args:
        tokenizer: The model's own.
        prompt: A filled template whose text may be shortened; a plain string may not.
        answer: What is to be learnt.
        item_key: Names the row in messages.
        max_length: Tokens of the whole row at most.
        end_of_turn_id: The token that ends an answer.

    Returns:
        The row, and whether its text was shortened.

    Raises:
        DataError: If the answer has no tokens, or the row cannot be made to fit.
    """
    prompt = Prompt(prompt, "", "") if isinstance(prompt, str) else prompt
    answer_ids = plain_ids(tokenizer, answer)
    fitted = fit_prompts(tokenizer, [prompt], room=max_length - len(answer_ids) - 1, item_keys=[item_key])
    row = join_row(fitted.ids[0], answer_ids, item_key=item_key, end_of_turn_id=end_of_turn_id)
    return row, fitted.num_shortened > 0


def classification_rows(
    tokenizer: Tokenizer,
    task: ClassificationTask,
    examples: Sequence[Example],
    *,
    answers: Sequence[int] | None = None,
    max_length: int,
    end_of_turn_id: int,
) -> Rows:
    """Make one row per example.

    Args:
        tokenizer: The model's own.
        task: Template and verbalisers.
        examples: What to learn from.
        answers: Class index per example, such as a teacher's choice; default the gold ones.
        max_length: Tokens of a row at most. The room kept for the answer is that of the longest
            one, so a text is cut at the same place here and in :func:`choice_prompts`.
        end_of_turn_id: The token that ends an answer; a target like the answer itself.

    Raises:
        DataError: If verbalisers clash, or a row has no target or cannot be made to fit.
    """
    check_verbalisers(tokenizer, task)
    classes = [example.gold for example in examples] if answers is None else list(answers)
    choices = verbaliser_ids(tokenizer, task)
    fitted = _fitted(tokenizer, task, examples, max_length)
    rows = [
        join_row(ids, choices[chosen], item_key=example.item_key, end_of_turn_id=end_of_turn_id)
        for example, ids, chosen in zip(examples, fitted.ids, classes, strict=True)
    ]
    return Rows(rows, fitted.num_shortened)


def choice_prompts(
    tokenizer: Tokenizer,
    task: ClassificationTask,
    examples: Sequence[Example],
    *,
    max_length: int,
    end_of_turn_id: int,
) -> list[ChoicePrompt]:
    """Make one prompt per example, to score every class's answer; the gold answer is only carried along.

    ``end_of_turn_id`` is not appended: a choice is scored by its words. Room is kept for it, so that
    prompts equal those of the training rows.

    Raises:
        DataError: If verbalisers clash, the end of turn is among them, or a prompt cannot be made to fit.
    """
    check_verbalisers(tokenizer, task)
    choices = verbaliser_ids(tokenizer, task)
    for label, ids in zip(task.labels, choices, strict=True):
        if end_of_turn_id in ids:
            raise DataError(f"tasks.{task.name}.verbalisers.{label} holds the end-of-turn token. Leave it out.")
    fitted = _fitted(tokenizer, task, examples, max_length)
    return [
        ChoicePrompt(example.item_key, ids, choices, example.gold, example.cluster_key)
        for example, ids in zip(examples, fitted.ids, strict=True)
    ]


def _fitted(tokenizer: Tokenizer, task: ClassificationTask, examples: Sequence[Example], max_length: int):
    room = max_length - answer_room(tokenizer, task)
    prompts = [task.filled(example) for example in examples]
    return fit_prompts(tokenizer, prompts, room=room, item_keys=[example.item_key for example in examples])


def join_row(
    prompt_ids: np.ndarray, answer_ids: np.ndarray, *, item_key: str, end_of_turn_id: int | None
) -> StudentRow:
    """Make a row of prompt ids, answer ids and the end of turn (None: it has not ended); all but the first are targets.

    Raises:
        DataError: If the answer or the prompt has no tokens.
    """
    if len(answer_ids) == 0:
        raise DataError(f"{item_key} has no supervised target: its answer has no tokens. Correct or remove the row.")
    if len(prompt_ids) == 0:
        raise DataError(f"{item_key} has an empty prompt, so nothing predicts its first target. Add a template.")
    end = [] if end_of_turn_id is None else [end_of_turn_id]
    ids = np.concatenate([prompt_ids, answer_ids, end]).astype(np.int32)
    target_mask = np.zeros(len(ids), dtype=bool)
    target_mask[len(prompt_ids) :] = True
    return StudentRow(item_key=item_key, ids=ids, target_mask=target_mask, teacher_key=row_key(ids))
