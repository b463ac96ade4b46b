"""The five forms in which texts and conversations are shared, told apart by their columns.

In: raw records. Out: turns; an error that names the row where a value is not what its column promises.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tutelage.data.messages import checked, conversation, names_not_read, with_system
from tutelage.data.records import CLUSTER_COLUMN
from tutelage.data.texts import ASSISTANT, DOCUMENT, USER, Turn
from tutelage.errors import DataError

EMPTY, NOT_TO_LEARN = "empty", "marked_not_to_learn"  # reasons for which a row that is well formed is left out
SYSTEM_COLUMNS = ("system", "system_prompt")
LABEL = "label"  # of answers that were judged: false marks a bad one
EXPECTED = (
    "`messages`, `conversations`, `instruction` with `output`, `prompt` with `response` or `completion`, or `text`"
)

Values = Mapping[str, Any]


class LeftOutError(ValueError):
    """A row that is well formed and has nothing to learn: it is left out and counted."""

    def __init__(self, message: str, *, reason: str = EMPTY) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class TextFormat:
    """One form: the columns that it is known by, and how a row of it becomes turns."""

    name: str
    columns: tuple[tuple[str, ...], ...]  # every one must be there, under one of its names
    read: Callable[[Values], tuple[Turn, ...]]
    others: tuple[str, ...] = ()  # columns that are read where they are there

    def fits(self, columns: Collection[str]) -> bool:
        """Return whether a row with these columns is of this form."""
        return all(any(name in columns for name in names) for names in self.columns)

    def not_read(self, values: Values) -> Iterator[str]:
        """Yield the columns of a row, and the keys of its messages, that hold something and are not read."""
        known = {next(name for name in names if name in values) for names in self.columns} | set(self.others)
        for name, value in values.items():
            if name in known:
                yield from names_not_read(value, name) if name != "history" else ()
            elif name != CLUSTER_COLUMN and value not in (None, "", [], {}):
                yield name


def find_format(columns: Collection[str], *, where: str) -> TextFormat:
    """Return the form of a row with these columns; the richest one where several fit.

    Raises:
        DataError: If none fits, with the columns that were found and those that are expected.
    """
    found = next((form for form in FORMATS if form.fits(columns)), None)
    if found is None:
        shown = ", ".join(map(repr, columns)) or "nothing"
        raise DataError(
            f"{where} has the columns {shown}, which are no known form of texts or conversations. Expected "
            f"{EXPECTED}; rename the columns or convert the file."
        )
    return found


def _read_text(values: Values) -> tuple[Turn, ...]:
    return (Turn(DOCUMENT, _words(values, "text")),)


def _read_alpaca(values: Values) -> tuple[Turn, ...]:
    task, extra = _optional(values, "instruction"), _optional(values, "input")
    question = "\n\n".join(part for part in (task, extra) if part)
    if not question:
        raise LeftOutError("columns 'instruction' and 'input' are empty")
    asked = [*_history(values), Turn(USER, question)]
    return _answered(values, asked, [Turn(ASSISTANT, _words(values, "output"))])


def _read_prompt(values: Values) -> tuple[Turn, ...]:
    answer = "response" if "response" in values else "completion"
    asked = [*_history(values), *_said(values, "prompt", USER)]
    # what stands in the prompt is asked, whoever says it
    asked = [replace(turn, is_learnt=False) if turn.role == ASSISTANT else turn for turn in asked]
    return _answered(values, asked, _said(values, answer, ASSISTANT))


def _said(values: Values, column: str, role: str) -> list[Turn]:
    if isinstance(values.get(column), list):
        return conversation(values[column], column)
    return [Turn(role, _words(values, column))]


def _history(values: Values) -> Iterator[Turn]:
    """Yield earlier questions and their answers, which are learnt as any other."""
    pairs: Any = values.get("history") or []
    if not isinstance(pairs, list):
        raise ValueError(f"column 'history' holds a {type(pairs).__name__}, expected a list of [question, answer]")
    for number, pair in enumerate(pairs):
        is_pair = isinstance(pair, list) and len(pair) == 2
        if not is_pair or not all(isinstance(each, str) for each in pair):
            raise ValueError(f"history[{number}] is {pair!r}, expected [question, answer]")
        for role, words in zip((USER, ASSISTANT), pair, strict=True):
            yield Turn(role, checked(words, f"history[{number}]"))


def _read_messages(values: Values) -> tuple[Turn, ...]:
    return _answered(values, [], conversation(values["messages"], "messages"))


def _read_sharegpt(values: Values) -> tuple[Turn, ...]:
    return _answered(values, [], conversation(values["conversations"], "conversations"))


def _answered(values: Values, asked: list[Turn], answered: list[Turn]) -> tuple[Turn, ...]:
    """Put a conversation together, behind what other columns say of it.

    Raises:
        LeftOutError: If nothing in it is to be learnt.
        ValueError: If other columns contradict it.
    """
    turns = [*asked, *answered]
    for column in SYSTEM_COLUMNS:
        turns = with_system(turns, _optional(values, column), column)
    if not any(turn.role == ASSISTANT and turn.content.strip() for turn in turns):
        raise LeftOutError("no assistant turn has words")
    if not any(turn.role == ASSISTANT and turn.content.strip() and turn.is_learnt for turn in turns):
        raise LeftOutError("no answer in it is to be learnt", reason=NOT_TO_LEARN)
    if not _is_good(values.get(LABEL)):
        raise LeftOutError("the answer is labelled as a bad one", reason=NOT_TO_LEARN)
    return tuple(turns)


def _is_good(label: Any) -> bool:
    """Return whether an answer may be learnt that was judged so.

    Raises:
        ValueError: If the label may be a judgement or a class.
    """
    if isinstance(label, str) and label.strip().lower() in ("true", "false"):
        return label.strip().lower() == "true"
    if isinstance(label, int | float) and not isinstance(label, bool) and label in (0, 1):
        raise ValueError(
            f"column 'label' is {label!r}: write true or false if it judges the answer, or rename the column if it is "
            "a class"
        )
    return label is not False


def _words(values: Values, column: str) -> str:
    value = values.get(column)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise LeftOutError(f"column {column!r} is empty")
    if not isinstance(value, str):
        raise ValueError(f"column {column!r} holds a {type(value).__name__}, expected text")
    return checked(value, f"column {column!r}")


def _optional(values: Values, column: str) -> str:
    value = values.get(column)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"column {column!r} holds a {type(value).__name__}, expected text or nothing")
    return checked(value, f"column {column!r}") if value and value.strip() else ""


BESIDE = (*SYSTEM_COLUMNS, "tools", LABEL)
# The richest first: instruction data are often delivered with a column `text` that holds them once more, rendered.
FORMATS = (
    TextFormat("messages", (("messages",),), _read_messages, BESIDE),
    TextFormat("sharegpt", (("conversations",),), _read_sharegpt, BESIDE),
    TextFormat("alpaca", (("instruction",), ("output",)), _read_alpaca, ("input", "history", *BESIDE)),
    TextFormat("prompt", (("prompt",), ("response", "completion")), _read_prompt, ("history", *BESIDE)),
    TextFormat("text", (("text",),), _read_text),
)
