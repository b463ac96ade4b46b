"""A task whose rows are cut and checked, and its form on disk.

In: ``PreparedTask``. Out: ``{split}.jsonl``, ``task.json`` and ``info.json`` in a folder, and back.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tutelage.data.examples import Example
from tutelage.data.reading import Question, ReadingTask
from tutelage.data.task import ClassificationTask
from tutelage.data.texts import TextItem, TextTask, Turn
from tutelage.errors import IntegrityError
from tutelage.store import to_json

SPLITS = ("train", "adapt", "validation", "test")
TASK_FILE = "task.json"
INFO_FILE = "info.json"
READING, TEXT = "reading", "text"  # the kinds in a task file; one without a kind is a classification

Task = ClassificationTask | ReadingTask  # of those that are cut by `prepare_task`


@dataclass(frozen=True)
class PreparedTask:
    """A task with its rows: ``train`` (distillation), ``adapt`` (teacher), ``validation``, ``test``.

    The rows are ``Example``s of a classification, ``Question``s of a reading task, ``TextItem``s of a text task.
    """

    task: Task | TextTask
    splits: dict[str, list[Any]]
    info: dict[str, Any]


def write_prepared(folder: Path, prepared: PreparedTask) -> None:
    """Write the files into ``folder``; the caller commits it through ``store.new_artifact``."""
    for name in SPLITS:
        lines = (json.dumps(asdict(example), ensure_ascii=True, sort_keys=True) for example in prepared.splits[name])
        (folder / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    kinds: dict[type, str] = {ReadingTask: READING, TextTask: TEXT}
    name = kinds.get(type(prepared.task))
    kind = {"kind": name} if name else {}
    (folder / TASK_FILE).write_text(to_json(asdict(prepared.task) | kind), encoding="utf-8")
    (folder / INFO_FILE).write_text(to_json(prepared.info), encoding="utf-8")


def read_prepared(folder: Path) -> PreparedTask:
    """Read what :func:`write_prepared` wrote.

    Raises:
        IntegrityError: If a file is missing or not what was written.
    """
    try:
        fields = json.loads((folder / TASK_FILE).read_text(encoding="utf-8"))
        read_task, read_row = _READERS[fields.pop("kind", None)]
        info = json.loads((folder / INFO_FILE).read_text(encoding="utf-8"))
        splits = {name: _read_split(folder / f"{name}.jsonl", read_row) for name in SPLITS}
        return PreparedTask(read_task(fields), splits, info)
    except PermissionError:
        raise  # the folder may be sound
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"{folder} is not a readable prepared task ({error}). Delete it and run again; the data are cut anew."
        ) from error


def _read_split(path: Path, read_row: Callable[[dict[str, Any]], Any]) -> list[Any]:
    with path.open(encoding="utf-8") as stream:
        return [read_row(json.loads(line)) for line in stream]


def _classification(fields: dict[str, Any]) -> ClassificationTask:
    fields["labels"], fields["verbalisers"] = tuple(fields["labels"]), tuple(fields["verbalisers"])
    return ClassificationTask(**fields)


def _question(fields: dict[str, Any]) -> Question:
    fields["golds"] = tuple(fields["golds"])
    return Question(**fields)


def _text_item(fields: dict[str, Any]) -> TextItem:
    fields["turns"] = tuple(Turn(**turn) for turn in fields["turns"])
    return TextItem(**fields)


_READERS: dict[str | None, tuple[Callable[[dict[str, Any]], Task | TextTask], Callable[[dict[str, Any]], Any]]] = {
    None: (_classification, lambda fields: Example(**fields)),
    READING: (lambda fields: ReadingTask(**fields), _question),
    TEXT: (lambda fields: TextTask(**fields), _text_item),
}
