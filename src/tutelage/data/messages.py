"""Lists of messages become turns: who speaks, what is said, what was thought, and whether it is to be learnt.

In: the value of a column. Out: ``Turn``s; an error that names the message where it is not what it should be.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tutelage.data.parse import is_encodable
from tutelage.data.texts import ASSISTANT, ROLES, SYSTEM, USER, Turn

# ShareGPT's names of speakers; its conversations also occur with the roles of `messages`.
SHAREGPT_ROLES = {"human": USER, "gpt": ASSISTANT, **{role: role for role in ROLES}}
CALLS = ("tool_calls", "function_call")  # of a message: words that the model says outside of its content
REASONING = ("reasoning_content", "reasoning", "thinking")  # what was thought before an answer, under its usual names
LEARN = ("weight", "train", "training", "trainable", "loss")  # whether an answer is to be learnt: 1 or 0, true or false
UNCLEAR = ("mask", "masked", "loss_mask", "loss_weight", "train_detail")  # speak of it too, and nobody can tell how


def conversation(value: Any, column: str) -> list[Turn]:
    """Read a list of messages with ``role`` and ``content``, or ``from`` and ``value``.

    Raises:
        ValueError: If it is no list, or a message has no speaker or words, or asks for what is not supported.
    """
    if not isinstance(value, list):
        raise ValueError(f"column {column!r} holds a {type(value).__name__}, expected a list of turns")
    role, content = _names(value)
    roles = SHAREGPT_ROLES if role == "from" or column == "conversations" else {name: name for name in ROLES}
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
        speaker, words = roles[message[role]], flattened(message[content], where)
        is_learnt = _is_learnt(message, where)
        if speaker == ASSISTANT:
            turns.append(Turn(speaker, words, is_learnt, _reasoning(message, where)))
        else:
            turns.append(Turn(speaker, words))
    return turns


def names_not_read(value: Any, column: str) -> Iterator[str]:
    """Yield the keys of messages that mean nothing to us, as ``messages[].name``."""
    if not isinstance(value, list):
        return
    role, content = _names(value)
    for message in value:
        for name, own in message.items() if isinstance(message, dict) else ():
            speaks = message.get(role) in ("assistant", "gpt")
            known = (role, content, *LEARN, *(REASONING if speaks else ()))
            if name not in known and own not in (None, "", [], {}):
                yield f"{column}[].{name}"


def with_system(turns: list[Turn], system: str, column: str) -> list[Turn]:
    """Put the words of a column before a conversation, unless it begins with them already.

    Raises:
        ValueError: If it begins with other words for the system.
    """
    if not system:
        return turns
    if turns and turns[0].role == SYSTEM:
        if turns[0].content.strip() != system.strip():
            raise ValueError(f"column {column!r} and the first turn are two different words for the system; keep one")
        return turns
    return [Turn(SYSTEM, system), *turns]


def read_tools(value: Any) -> str | None:
    """Return a column of tools as JSON; None where there are none.

    Raises:
        ValueError: If it is no list of objects, as JSON or as it is.
    """
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"column 'tools' is not JSON ({error}); expected a list of functions") from error
    if not value:
        return None
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise ValueError(f"column 'tools' holds a {type(value).__name__}, expected a list of functions, or their JSON")
    return json.dumps(value, ensure_ascii=False)


def flattened(content: Any, where: str) -> str:
    """Join the text segments of a message; a picture or a sound has no place in the row.

    Raises:
        ValueError: If there is anything but text.
    """
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
        texts.append(checked(text, where))
    return "".join(texts)


def checked(text: str, where: str) -> str:
    """Return a text that can be written.

    Raises:
        ValueError: If it holds half of a surrogate pair.
    """
    if not is_encodable(text):
        raise ValueError(f"{where} holds half of a surrogate pair, which is no text; correct the row")
    return text


def _names(value: list[Any]) -> tuple[str, str]:
    first = value[0] if value and isinstance(value[0], dict) else {}
    return ("from", "value") if "from" in first and "role" not in first else ("role", "content")


def _is_learnt(message: Mapping[str, Any], where: str) -> bool:
    unclear = [name for name in UNCLEAR if message.get(name) is not None]
    if unclear:
        raise ValueError(
            f"{where} has {unclear[0]!r}, which may mean that it is learnt or that it is not; write `train: true` or "
            "`train: false`"
        )
    found = {name: message[name] for name in LEARN if message.get(name) is not None}
    for name, value in found.items():
        if not isinstance(value, bool | int | float) or value not in (0, 1):
            raise ValueError(
                f"{where} has {name} {value!r}; expected 1 (learnt) or 0 (read, never learnt): other weights are not "
                "supported"
            )
    if len(set(map(bool, found.values()))) > 1:
        raise ValueError(f"{where} has {found}, which contradict each other; keep one")
    return all(found.values())


def _reasoning(message: Mapping[str, Any], where: str) -> str | None:
    for name in REASONING:
        value = message.get(name)
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{where} has a {type(value).__name__} as {name!r}, expected text")
        if value and value.strip():
            return checked(value, where)
    return None
