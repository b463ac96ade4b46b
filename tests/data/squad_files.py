"""Questions in every shape that a source may have, and tasks over them."""

import json
from pathlib import Path
from typing import Any

from tutelage.data import Question, ReadingTask

TEMPLATE = "Context: {context}\nQuestion: {question}\nAnswer:"


def reading_task(**changes: Any) -> ReadingTask:
    return ReadingTask(**({"name": "squad", "template": TEMPLATE} | changes))


def paragraph(number: int, *, questions: int = 2) -> dict[str, Any]:
    context = f"Town {number} has a mayor called Ann{number} and a river called Bee{number}."
    spans = [("mayor", f"Ann{number}"), ("river", f"Bee{number}")][:questions]
    qas = [
        {
            "id": f"q{number}-{what}",
            "question": f"What is the {what} of town {number} called?",
            "answers": [{"text": name, "answer_start": context.index(name)}],
        }
        for what, name in spans
    ]
    return {"context": context, "qas": qas}


def official(numbers: range, *, title: str = "Towns") -> dict[str, Any]:
    return {"version": "1.1", "data": [{"title": title, "paragraphs": [paragraph(each) for each in numbers]}]}


def write_official(path: Path, numbers: range) -> Path:
    path.write_text(json.dumps(official(numbers)), encoding="utf-8")
    return path


def flat(numbers: range) -> list[dict[str, Any]]:
    """The same questions with the columns that the hub's copies have."""
    rows = []
    for number in numbers:
        made = paragraph(number)
        for qa in made["qas"]:
            answers = {key: [each[key] for each in qa["answers"]] for key in ("text", "answer_start")}
            rows.append({**qa, "title": "Towns", "context": made["context"], "answers": answers})
    return rows


def question(context: str, answer: str, *, key: str = "q", ask: str = "Who?", start: int | None = None) -> Question:
    place = context.index(answer) if start is None else start
    return Question(key, f"cluster-{key}", {"context": context, "question": ask}, (answer,), answer, place)
