"""Small files of texts and conversations in every form, and items without a file."""

import json
from pathlib import Path
from typing import Any

from tutelage.data import TextItem, TextTask, Turn

TASK = TextTask("t")
FORMS: dict[str, dict[str, Any]] = {
    "text": {"text": "a film"},
    "alpaca": {"instruction": "Say it", "input": "softly", "output": "a film", "text": "### Say it"},
    "prompt": {"prompt": "Say it", "completion": "a film", "system": "Be kind"},
    "messages": {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Say "}, "it"]},
            {"role": "assistant", "content": "a film"},
        ]
    },
    "sharegpt": {"conversations": [{"from": "human", "value": "Say it"}, {"from": "gpt", "value": "a film"}]},
}


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_texts(path: Path, *, count: int, word: str = "film") -> Path:
    """Write distinct texts: ``film 0``, ``film 1``, .."""
    return write_rows(path, [{"text": f"{word} {number}"} for number in range(count)])


def chat_item(*turns: str, key: str = "k") -> TextItem:
    """Make a conversation of turns in order, the user first; ``system: ..`` is one before."""
    roles, made = iter(["user", "assistant"] * len(turns)), []
    for turn in turns:
        role, _, words = turn.partition(": ")
        made.append(Turn("system", words) if role == "system" else Turn(next(roles), turn))
    return TextItem(key, key, tuple(made))


def text_item(text: str, key: str = "k") -> TextItem:
    return TextItem(key, key, (Turn("document", text),))
