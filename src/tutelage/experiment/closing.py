"""What a user does with a run's result: where each student is, and how to ask it.

In: the folders of the finished runs. Out: lines for the screen.
"""

import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tutelage.store import read_input

CHECKPOINT = "checkpoint"


def closing_lines(runs: Sequence[Path]) -> list[str]:
    """Name the best student of every task, by its validation score, and the commands and the Python that use it."""
    best: dict[tuple[str, str], tuple[float, Path]] = {}
    for folder in runs:
        if not (folder / CHECKPOINT).is_dir():
            continue
        record: dict[str, Any] = json.loads(read_input(folder, "run.json"))
        name, score = (record["task"], record["student"]), _validation(record)
        if name not in best or score > best[name][0]:  # the first of equals, as in a search
            best[name] = (score, folder)
    lines = [line for (task, student), (_, folder) in best.items() for line in _student(task, student, folder)]
    return [*lines, *(_python(next(iter(best.values()))[1]) if best else [])]


def _validation(record: dict[str, Any]) -> float:
    value = record["metrics"].get("validation", {}).get(record["primary_metric"])
    return -float("inf") if value is None else float(value)


def _student(task: str, student: str, folder: Path) -> Iterator[str]:
    path = shlex.quote(str(folder))
    yield f"student {student} on {task}, the best on validation: {folder / CHECKPOINT}"
    yield f"  tutelage predict {path} --data FILE"
    yield f"  tutelage chat {path}"


def _python(folder: Path) -> Iterator[str]:
    path = json.dumps(str(folder / CHECKPOINT), ensure_ascii=False)
    yield "in Python:"
    yield "  from transformers import AutoModelForCausalLM, AutoTokenizer"
    yield f"  model, tokenizer = (x.from_pretrained({path}) for x in (AutoModelForCausalLM, AutoTokenizer))"
