"""Raw records become questions with gold answers, or an error that names the row.

In: a ``Loaded`` source and a task. Out: ``Question``s with stable keys, and what was left out and why.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tutelage.data.examples import cluster_key, text_digest
from tutelage.data.parse import id_column, is_encodable, skipped
from tutelage.data.reading import CONTEXT_FIELD, Question, ReadingTask
from tutelage.data.records import CLUSTER_COLUMN, Loaded, Record
from tutelage.errors import DataError

ANSWERS_COLUMN = "answers"
EXPECTED = "context, question and answers ({text: [..], answer_start: [..]}, a list of texts, or one text)"


@dataclass
class QuestionsRead:
    """The questions of one split, and what became of the other rows."""

    questions: list[Question] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)  # by reason: no_answer, answer_not_in_context, bad_row
    notes: list[str] = field(default_factory=list)
    num_moved: int = 0  # answers that were not at their ``answer_start`` but elsewhere in the context


@dataclass(frozen=True)
class _Gold:
    text: str
    start: int | None  # as the source says; None where it says nothing


def read_questions(
    task: ReadingTask, loaded: Loaded, name: str, *, key_prefix: str = "", skip_bad: bool = False
) -> QuestionsRead:
    """Turn the raw rows of one split into questions.

    Every answer text counts as gold. The one to learn is the first that stands in the context: at its
    ``answer_start``, or where it first occurs when the source gives no place or a wrong one. A row without such an
    answer is left out and counted.

    Args:
        task: The template, which names columns.
        loaded: The source.
        name: The split.
        key_prefix: Precedes every item key.
        skip_bad: Leave rows out that are not valid, and count them.

    Raises:
        DataError: If columns are missing (naming those found and those expected) or hold something else: all rows
            are counted, the first three shown with their place.
    """
    records = loaded.splits[name]
    identifier = id_column(records)
    seen: Counter[str] = Counter()
    read, problems = QuestionsRead(), []
    for record in records:
        try:
            record.require_readable()
            fields = _fields(task, record)
            golds = list(_golds(record.values[ANSWERS_COLUMN]))
        except ValueError as error:
            problems.append(f"{record.where}: {error}")
            continue
        if identifier is not None:
            key = str(record.values[identifier])
        else:
            digest = text_digest(*(part for pair in sorted(fields.items()) for part in pair))
            key = f"{digest}-{seen[digest]}" if seen[digest] else digest
            seen[digest] += 1
        cluster = record.values.get(CLUSTER_COLUMN) or fields[CONTEXT_FIELD]
        _add(read, f"{key_prefix}{loaded.key_prefix}{key}", cluster_key(str(cluster)), fields, golds)
    bad, read.notes = skipped(problems, skip_bad=skip_bad)
    read.left_out.update(bad)
    if not read.questions:
        dropped = ", ".join(f"{count:,} {reason}" for reason, count in read.left_out.items()) or "no rows"
        raise DataError(
            f"{loaded.info.source}: the split {name!r} holds no question with an answer in its context ({dropped}). "
            "Expected SQuAD v1.1 form."
        )
    return read


def _add(read: QuestionsRead, item_key: str, cluster: str, fields: dict[str, str], golds: list[_Gold]) -> None:
    if not golds:
        read.left_out["no_answer"] += 1
        return
    context = fields[CONTEXT_FIELD]
    for gold in golds:
        start = gold.start
        if start is None or start < 0 or context[start : start + len(gold.text)] != gold.text:
            start = context.find(gold.text)
            read.num_moved += gold.start is not None and start >= 0
        if start >= 0:
            texts = tuple(dict.fromkeys(each.text for each in golds))
            read.questions.append(Question(item_key, cluster, fields, texts, gold.text, start))
            return
    read.left_out["answer_not_in_context"] += 1


def _fields(task: ReadingTask, record: Record) -> dict[str, str]:
    missing = [column for column in (*task.columns, ANSWERS_COLUMN) if column not in record.values]
    if missing:
        found = ", ".join(map(repr, record.values))
        raise ValueError(f"there is no column {missing[0]!r}, only {found}; expected {EXPECTED}")
    fields = {}
    for column in task.columns:
        value = record.values[column]
        if not isinstance(value, str) or not value.strip():
            shown = "empty" if isinstance(value, str) or value is None else f"a {type(value).__name__}"
            raise ValueError(f"column {column!r} is {shown}, expected words; correct or remove the row")
        if not is_encodable(value):
            raise ValueError(f"column {column!r} holds half of a surrogate pair, which is no text; correct the row")
        # a context stays as it is: answers are found by their place in it
        fields[column] = value if column == CONTEXT_FIELD else value.strip()
    return fields


def _golds(value: Any) -> Iterator[_Gold]:
    """Read answers in any of the usual shapes; blank texts are no answers, blanks around one are cut off."""
    for text, start in _pairs(value):
        is_number = start is None or (isinstance(start, int) and not isinstance(start, bool))
        if not isinstance(text, str) or not is_number:
            raise ValueError(f"column 'answers' holds {text!r} at {start!r}; expected a text and a whole number")
        if text.strip():
            before = len(text) - len(text.lstrip())
            yield _Gold(text.strip(), None if start is None else start + before)


def _pairs(value: Any) -> list[tuple[Any, Any]]:
    """Return (text, answer_start or None) pairs from lists in columns, a list of objects or texts, or one text.

    A cell of a CSV file may hold any of these as JSON.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.lstrip().startswith(("[", "{")) else [value]
        except (ValueError, RecursionError):
            value = [value]
    if isinstance(value, list):
        return [
            (each.get("text"), each.get("answer_start")) if isinstance(each, dict) else (each, None) for each in value
        ]
    if not isinstance(value, dict) or "text" not in value:
        found = f"has only {', '.join(map(repr, value))}" if isinstance(value, dict) else f"is a {type(value).__name__}"
        raise ValueError(f"column 'answers' {found}; expected {EXPECTED}")
    texts, starts = value["text"], value.get("answer_start")
    if not isinstance(texts, list):
        texts, starts = [texts], None if starts is None else [starts]
    if starts is not None and (not isinstance(starts, list) or len(starts) != len(texts)):
        raise ValueError(
            f"column 'answers' has {len(texts)} texts and the places {starts!r}; expected one place per text"
        )
    return list(zip(texts, starts or [None] * len(texts), strict=True))
