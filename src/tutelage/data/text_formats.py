"""The five forms in which texts and conversations are shared, told apart by their columns.

In: raw records. Out: turns; an error that names the row where a value is not what its column promises.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from tutelage.data.parse import is_encodable
from tutelage.data.texts import ASSISTANT, DOCUMENT, ROLES, SYSTEM, USER, Turn
from tutelage.errors import DataError

# ShareGPT's names of speakers; its conversations also occur with the roles of `messages`.
SHAREGPT_ROLES = {"human": USER, "gpt": ASSISTANT, **{role: role for role in ROLES}}
CALLS = ("tool_calls", "function_call")  # of a message: words that the model says outside of its content
EXPECTED = (
    "`messages`, `conversations`, `instruction` with `output`, `prompt` with `response` or `completion`, or `text`"
)

Values = Mapping[str, Any]


class EmptyRowError(ValueError):
    """A row that is well formed and has nothing to learn: it is left out and counted."""


@dataclass(frozen=True)
class TextFormat:
    """One form: the columns that it is known by, and how a row of it becomes turns."""

    name: str
    columns: tuple[tuple[str, ...], ...]  # every one must be there, under one of its names
    read: Callable[[Values], tuple[Turn, ...]]

    def fits(self, columns: Collection[str]) -> bool:
        """Return whether a row with these columns is of this form."""
        return all(any(name in columns for name in names) for names in self.columns)


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
    task, extra = _words(values, "instruction"), _optional(values, "input")
    return _asked(values, f"{task}\n\n{extra}" if extra else task, _words(values, "output"))


def _read_prompt(values: Values) -> tuple[Turn, ...]:
    answer = "response" if "response" in values else "completion"
    return _asked(values, _words(values, "prompt"), _words(values, answer))


def _asked(values: Values, question: str, answer: str) -> tuple[Turn, ...]:
    system = _optional(values, SYSTEM)
    opening = (Turn(SYSTEM, system),) if system else ()
    return (*opening, Turn(USER, question), Turn(ASSISTANT, answer))


def _read_messages(values: Values) -> tuple[Turn, ...]:
    return _conversation(
        values["messages"], "messages", role="role", content="content", roles={role: role for role in ROLES}
    )


def _read_sharegpt(values: Values) -> tuple[Turn, ...]:
    turns = values["conversations"]
    first = turns[0] if isinstance(turns, list) and turns and isinstance(turns[0], dict) else {}
    role, content = ("role", "content") if "role" in first else ("from", "value")
    return _conversation(turns, "conversations", role=role, content=content, roles=SHAREGPT_ROLES)


def _conversation(value: Any, column: str, *, role: str, content: str, roles: Mapping[str, str]) -> tuple[Turn, ...]:
    if not isinstance(value, list):
        raise ValueError(f"column {column!r} holds a {type(value).__name__}, expected a list of turns")
    turns = []
    for number, message in enumerate(value):
        where = f"{column}[{number}]"
        if not isinstance(message, dict) or role not in message or content not in message:
            found = ", ".join(map(repr, message)) if isinstance(message, dict) else f"a {type(message).__name__}"
            raise ValueError(f"{where} has {found}, expected an object with {role!r} and {content!r}")
        if message[role] not in roles:
            raise ValueError(f"{where} is said by {message[role]!r}, expected one of {', '.join(roles)}")
        calls = [name for name in CALLS if message.get(name)]
        if calls:
            raise ValueError(
                f"{where} has {calls[0]!r}, which is not supported; remove the row or write the call as text"
            )
        turns.append(Turn(roles[message[role]], _flattened(message[content], where)))
    if not any(turn.role == ASSISTANT and turn.content.strip() for turn in turns):
        raise EmptyRowError("no assistant turn has words")
    return tuple(turns)


def _flattened(content: Any, where: str) -> str:
    """Join the text segments of a message; a picture or a sound has no place in the row."""
    segments = content if isinstance(content, list) else [content]
    texts = []
    for segment in segments:
        text = segment
        if isinstance(segment, dict):
            kind = segment.get("type", "text")
            if kind != "text":
                raise ValueError(f"{where} holds a segment of type {kind!r}, expected text only; remove the row")
            text = segment.get("text")
        if not isinstance(text, str):
            raise ValueError(f"{where} says a {type(text).__name__}, expected text or a list of text segments")
        texts.append(_checked(text, where))
    return "".join(texts)


def _words(values: Values, column: str) -> str:
    value = values.get(column)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise EmptyRowError(f"column {column!r} is empty")
    if not isinstance(value, str):
        raise ValueError(f"column {column!r} holds a {type(value).__name__}, expected text")
    return _checked(value, f"column {column!r}")


def _optional(values: Values, column: str) -> str:
    value = values.get(column)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"column {column!r} holds a {type(value).__name__}, expected text or nothing")
    return _checked(value, f"column {column!r}") if value and value.strip() else ""


def _checked(text: str, where: str) -> str:
    if not is_encodable(text):
        raise ValueError(f"{where} holds half of a surrogate pair, which is no text; correct the row")
    return text


# The richest first: instruction data are often delivered with a column `text` that holds them once more, rendered.
FORMATS = (
    TextFormat("messages", (("messages",),), _read_messages),
    TextFormat("sharegpt", (("conversations",),), _read_sharegpt),
    TextFormat("alpaca", (("instruction",), ("output",)), _read_alpaca),
    TextFormat("prompt", (("prompt",), ("response", "completion")), _read_prompt),
    TextFormat("text", (("text",),), _read_text),
)
