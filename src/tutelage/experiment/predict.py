"""What a finished student says to new rows.

In: a ``FinishedStudent`` and records that need no labels. Out: one plain record per row, in the order of the rows.

Rows become prompts by the code that evaluates, in the same batches, so that predictions on a run's own test rows are
the run's own.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.build import row_rules
from tutelage.config import Classification, Reading
from tutelage.data import TextItem, Turn
from tutelage.data.messages import read_tools
from tutelage.data.parse import id_column, read_examples
from tutelage.data.plan import reading_batches
from tutelage.data.prompts import opening_ids, plain_ids
from tutelage.data.questions import ANSWERS_COLUMN, read_questions
from tutelage.data.records import Loaded, Record, SourceInfo
from tutelage.data.sources import load_records
from tutelage.data.text_formats import LABEL, find_format
from tutelage.data.text_rows import plain_turns
from tutelage.data.texts import ASSISTANT, PLAIN
from tutelage.errors import DataError
from tutelage.experiment.students import FinishedStudent
from tutelage.experiment.text import chat_message
from tutelage.models.chat import Stops, chat_ids, find_stops
from tutelage.models.generate import Decoding, generate_batch

Progress = Callable[[int, int, float], None]
Prediction = dict[str, Any]
DEFAULT_NEW_TOKENS = 256
NEXT_PLAIN_TURN = "\nUser:"  # what our own plain turns open the next question with
STAND_IN = "."  # for the answer that a new row lacks; the readers want one, and nothing here looks at it


def read_new_rows(student: FinishedStudent, source: str, *, split: str | None, base_folder: Path) -> list[Record]:
    """Read the rows of a source as the run's own were read: delimiters, quotes and columns as its recipe says.

    Raises:
        DataError: If the source is missing, empty or unreadable, or has several splits and none was named.
    """
    rules = replace(row_rules(student.data.section.data), skip_bad=False)  # one answer per row, so none is left out
    loaded = load_records(source, split=split, base_folder=base_folder, rules=rules)
    if len(loaded.splits) > 1:
        raise DataError(f"{source} has the splits {', '.join(loaded.splits)}. Name one with `--split`.")
    return next(iter(loaded.splits.values()))


def predict(
    student: FinishedStudent,
    rows: Sequence[Record],
    *,
    max_new_tokens: int = DEFAULT_NEW_TOKENS,
    progress: Progress | None = None,
) -> list[Prediction]:
    """Let a student answer every row: ``row`` (from 1), ``id`` where the rows have one, and the answer.

    A classification gives ``label``, its ``score`` and the ``scores`` of all labels, shares that sum to 1; reading
    gives ``answer``, ``score`` and whether it was ``cut``; texts give ``answer`` and how it ended (``finish``).

    Args:
        student: The model.
        rows: At least one.
        max_new_tokens: Of an answer to a text or a conversation; a reading task has its own limit.
        progress: Called after every batch with rows done, of how many, and tokens per second.

    Raises:
        DataError: If rows are not valid: all are counted, the first three shown with their place.
    """
    match student.data.section:
        case Classification():
            answers = _classified(student, rows, progress)
        case Reading():
            answers = _read(student, rows, progress)
        case _:
            answers = _written(student, rows, max_new_tokens, progress)
    column = id_column(rows)
    for number, (row, answer) in enumerate(zip(rows, answers, strict=True), start=1):
        named = {} if column is None else {"id": row.values[column]}
        answers[number - 1] = {"row": number, **named, **answer}
    return answers


def _classified(student: FinishedStudent, rows: Sequence[Record], progress: Progress | None) -> list[Prediction]:
    task: Any = student.data.prepared.task
    labelled = [Record({**row.values, task.label_column: task.labels[0]}, row.where) for row in rows]
    examples = read_examples(task, _loaded(labelled), "new", None).examples
    items = _items(student, examples, progress)
    shares_BC = np.exp(items.logprobs_BC - np.logaddexp.reduce(items.logprobs_BC, axis=1, keepdims=True))
    return [
        {
            "label": task.labels[chosen],
            "score": float(shares[chosen]),
            "scores": dict(zip(task.labels, shares.tolist(), strict=True)),
        }
        for chosen, shares in zip(items.prediction_B.tolist(), shares_BC, strict=True)
    ]


def _read(student: FinishedStudent, rows: Sequence[Record], progress: Progress | None) -> list[Prediction]:
    task: Any = student.data.prepared.task
    # the whole context stands in itself, so it passes for an answer
    answered = [Record({**row.values, ANSWERS_COLUMN: [row.values.get("context")]}, row.where) for row in rows]
    questions = read_questions(task, _loaded(answered), "new").questions
    items = _items(student, questions, progress)
    columns = zip(items.predictions, items.confidence_B.tolist(), items.cut_B.tolist(), strict=True)
    return [{"answer": answer, "score": score, "cut": is_cut} for answer, score, is_cut in columns]


def _items(student: FinishedStudent, examples: Sequence[Any], progress: Progress | None) -> Any:
    with student.precision():
        return student.data.kind.items(
            student.data,
            student.model,
            examples,
            device=student.device,
            token_budget=student.token_budget,
            **({} if progress is None else {"progress": progress}),
        )


def _loaded(rows: Sequence[Record]) -> Loaded:
    return Loaded({"new": list(rows)}, SourceInfo("the new rows", None, None, {}), {"new": len(rows)})


def _written(
    student: FinishedStudent, rows: Sequence[Record], max_new_tokens: int, progress: Progress | None
) -> list[Prediction]:
    task: Any = student.data.prepared.task
    prompts = [
        prompt_ids(student, question_of(row), template=task.template, tools=read_tools(row.values.get("tools")))
        for row in rows
    ]
    return answer_prompts(
        student, prompts, stops=stops_of(student, template=task.template), max_new_tokens=max_new_tokens,
        progress=progress,
    )  # fmt: skip


def question_of(row: Record) -> tuple[Turn, ...]:
    """Return what is asked in a row: a text, or the turns before the assistant's last answer.

    Raises:
        DataError: If the row has no known form, naming its place.
    """
    values = _with_an_answer(row.values)
    try:
        turns = find_format(values, where=row.where).read(values)
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{row.where}: {error}") from error
    answers = [number for number, turn in enumerate(turns) if turn.role == ASSISTANT]
    return turns[: answers[-1]] if answers else turns


def _with_an_answer(values: Any) -> dict[str, Any]:
    """Put a stand-in where the answer is or would be, so that the readers of rows to learn from take the row."""
    values = {name: value for name, value in values.items() if name != LABEL}  # of the answer, which is not read
    for column in ("messages", "conversations"):
        turns = values.get(column)
        if isinstance(turns, list) and turns and isinstance(turns[-1], dict):
            speaker, words, own = ("role", "content", ASSISTANT) if "role" in turns[-1] else ("from", "value", "gpt")
            asked = turns[:-1] if turns[-1].get(speaker) in (ASSISTANT, "gpt") else turns
            return {**values, column: [*asked, {speaker: own, words: STAND_IN}]}
    if "instruction" in values:
        return {**values, "output": STAND_IN}
    if "prompt" in values:
        return {**values, "response" if "response" in values else "completion": STAND_IN}
    return values


def prompt_ids(
    student: FinishedStudent, turns: Sequence[Turn], *, template: str, tools: str | None = None
) -> np.ndarray:
    """Write turns up to where the student goes on: a document as it is, a conversation by its template."""
    tokenizer = student.data.tokenizer
    if TextItem("", "", tuple(turns)).is_document:
        return np.concatenate([opening_ids(tokenizer), plain_ids(tokenizer, turns[0].content)]).astype(np.int32)
    if uses_chat(student, template=template):
        described = json.loads(tools) if tools else None
        return chat_ids(tokenizer, list(map(chat_message, turns)), tools=described, date=student.data.date)
    tokens = plain_turns(tokenizer, [*turns, Turn(ASSISTANT, STAND_IN)], end_of_turn_id=student.data.end_of_turn_id)
    return tokens.ids[: tokens.spans[-1][0]]


def uses_chat(student: FinishedStudent, *, template: str) -> bool:
    """Say whether conversations are written by the tokenizer's own template."""
    return template != PLAIN and bool(student.data.tokenizer.chat_template)


def stops_of(student: FinishedStudent, *, template: str) -> Stops:
    """Return what ends an answer: the end tokens of the model and its rows, or where the next turn begins."""
    is_chat = uses_chat(student, template=template)
    found = find_stops(student.data.tokenizer, student.model, chat=is_chat)
    strings = found.strings if is_chat else (*found.strings, NEXT_PLAIN_TURN)
    return Stops(tuple(sorted({*found.ids, student.data.end_of_turn_id})), strings)


def answer_prompts(
    student: FinishedStudent,
    prompts: Sequence[np.ndarray],
    *,
    stops: Stops,
    max_new_tokens: int,
    progress: Progress | None = None,
) -> list[Prediction]:
    """Write a greedy answer to every prompt, in batches.

    Raises:
        AlignmentError: If a prompt leaves no room for an answer, or holds tokens that the model has no embedding for.
    """
    written_ids = ((f"prompt {number}", prompt) for number, prompt in enumerate(prompts, start=1))
    student.data.reader.check(written_ids, student.data.tokenizer)
    limit = getattr(student.model.config.get_text_config(), "max_position_embeddings", None)
    groups = reading_batches([len(prompt) + max_new_tokens for prompt in prompts], token_budget=student.token_budget)
    answers: dict[int, Prediction] = {}
    num_tokens, began = 0, time.monotonic()
    for group in reversed(groups):  # longest first: memory
        own = [prompts[number] for number in group]
        room = max_new_tokens if limit is None else max(1, min(max_new_tokens, limit - max(map(len, own))))
        with student.precision():
            written = generate_batch(
                student.model, student.data.tokenizer, own, decoding=Decoding(stops, max_new_tokens=room)
            )
        for number, answer in zip(group, written, strict=True):
            answers[number] = {"answer": answer.text.strip(), "finish": answer.finish}
            num_tokens += len(answer.ids)
        if progress is not None:
            progress(len(answers), len(prompts), num_tokens / (time.monotonic() - began))
    return [answers[number] for number in range(len(prompts))]
