"""Token rows of questions with their answers, and prompts to be answered.

In: ``Question``s, a task and a tokenizer. Out: ``StudentRow``s whose targets are the answer and its end of turn, or
``ReadingPrompt``s with one or several windows of the context.

Room for ``max_answer_length`` tokens and the end of turn is kept behind every prompt, so a context is cut at the same
place in training and evaluation. Only :func:`reading_rows` with ``keep_answers`` ever looks at an answer to choose what
is read of a context, for rows to train on; prompts never do.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tutelage.data.prompts import Tokenizer, batch_ids, opening_ids, plain_ids, shortened, words_of
from tutelage.data.reading import Question, ReadingTask
from tutelage.data.rows import Rows, join_row
from tutelage.data.task import Prompt
from tutelage.data.windows import sliding_windows, window_with
from tutelage.types import StudentRow

LINE_BREAK = re.compile(r"\s*\n\s*")  # with the blanks around it
DEFAULT_ANSWER_LENGTH = 30  # tokens; 99 % of SQuAD's answers are shorter


@dataclass(frozen=True)
class ReadingPrompt:
    """A question as a model reads it: the ids of one prompt, or of several over the parts of a long context."""

    item_key: str
    windows: tuple[np.ndarray, ...]  # int32 each, in the order of the context
    is_shortened: bool  # a part of the context is in no window


def reading_rows(
    tokenizer: Tokenizer,
    task: ReadingTask,
    questions: Sequence[Question],
    *,
    max_length: int,
    max_answer_length: int = DEFAULT_ANSWER_LENGTH,
    end_of_turn_id: int,
    keep_answers: bool = False,
) -> Rows:
    """Make one row per question: prompt, a blank and the answer on one line, end of turn.

    Left out and counted, never cut: ``answer_too_long`` (over ``max_answer_length`` tokens) and, with ``keep_answers``,
    ``answer_outside_window``.

    Args:
        tokenizer: The model's own.
        task: The template.
        questions: What to learn from.
        max_length: Tokens of a row at most.
        max_answer_length: Tokens of an answer at most, its end not counted.
        end_of_turn_id: The token that ends an answer; a target like the answer itself.
        keep_answers: Where a context is too long, choose the part that holds the gold answer; for training rows. The
            beginning is kept otherwise.

    Raises:
        DataError: If template and question leave no room for a context.
    """
    opening, room = opening_ids(tokenizer), max_length - max_answer_length - 1
    room -= len(opening)
    answer_ids = batch_ids(tokenizer, [words_of(one_line(question.answer), lead=" ") for question in questions])
    prompts = [task.filled(question) for question in questions]
    left_out: Counter[str] = Counter()
    rows: list[StudentRow] = []
    num_shortened = 0
    encoded = batch_ids(tokenizer, prompts)
    for question, prompt, ids, own in zip(questions, prompts, encoded, answer_ids, strict=True):
        if len(own) > max_answer_length:
            left_out["answer_too_long"] += 1
            continue
        if len(ids) > room:
            part = _part(tokenizer, prompt, question, room=room, keep_answer=keep_answers)
            if part is None:
                left_out["answer_outside_window"] += 1
                continue
            ids = plain_ids(tokenizer, part)
            num_shortened += 1
        prompt_ids = np.concatenate([opening, np.asarray(ids, dtype=np.int32)])
        answer = np.asarray(own, dtype=np.int32)
        rows.append(join_row(prompt_ids, answer, item_key=question.item_key, end_of_turn_id=end_of_turn_id))
    return Rows(rows, num_shortened, dict(left_out))


def reading_prompts(
    tokenizer: Tokenizer,
    task: ReadingTask,
    questions: Sequence[Question],
    *,
    max_length: int,
    max_answer_length: int = DEFAULT_ANSWER_LENGTH,
    doc_stride: int | None = None,
) -> list[ReadingPrompt]:
    """Make one prompt per question; its answers are not read.

    Args:
        tokenizer: The model's own.
        task: The template.
        questions: What to ask.
        max_length: Tokens of prompt and answer at most.
        max_answer_length: Tokens that an answer may take.
        doc_stride: Read a context that is too long in windows, each beginning so many tokens behind the one before;
            None reads its beginning.

    Raises:
        DataError: If template and question leave no room for a context.
    """
    opening, room = opening_ids(tokenizer), max_length - max_answer_length - 1
    room -= len(opening)
    prompts = [task.filled(question) for question in questions]
    made = []
    for question, prompt, ids in zip(questions, prompts, batch_ids(tokenizer, prompts), strict=True):
        windows = [ids]
        if is_long := len(ids) > room:
            parts = _parts(tokenizer, prompt, room=room, doc_stride=doc_stride, item_key=question.item_key)
            windows = [plain_ids(tokenizer, part) for part in parts]
        whole = tuple(np.concatenate([opening, np.asarray(each, dtype=np.int32)]) for each in windows)
        made.append(ReadingPrompt(question.item_key, whole, is_long and doc_stride is None))
    return made


def one_line(answer: str) -> str:
    """Write an answer of several lines with blanks in place of its line breaks; any other stays as it is.

    A model's answer ends at a line's end, so no other form could ever be right. Exact match and F1 take every run of
    white space for one blank, on both sides.
    """
    return LINE_BREAK.sub(" ", answer)


def _part(tokenizer: Tokenizer, prompt: Prompt, question: Question, *, room: int, keep_answer: bool) -> Prompt | None:
    if not keep_answer:
        return shortened(tokenizer, prompt, room, question.item_key)
    span = (question.answer_start, question.answer_end)
    return window_with(tokenizer, prompt, span, room=room, item_key=question.item_key)


def _parts(tokenizer: Tokenizer, prompt: Prompt, *, room: int, doc_stride: int | None, item_key: str) -> list[Prompt]:
    if doc_stride is None:
        return [shortened(tokenizer, prompt, room, item_key)]
    return sliding_windows(tokenizer, prompt, room=room, stride=doc_stride, item_key=item_key)
