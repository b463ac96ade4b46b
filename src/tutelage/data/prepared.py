"""A task whose rows are cut and checked, and its form on disk.

In: ``PreparedTask``. Out: ``{split}.jsonl``, ``task.json`` and ``info.json`` in a folder, and back.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tutelage.data.examples import Example
from tutelage.data.task import ClassificationTask
from tutelage.errors import IntegrityError
from tutelage.store import to_json

SPLITS = ("train", "adapt", "validation", "test")
TASK_FILE = "task.json"
INFO_FILE = "info.json"


@dataclass(frozen=True)
class PreparedTask:
    """A task with its rows: ``train`` (distillation), ``adapt`` (teacher), ``validation``, ``test``."""

    task: ClassificationTask
    splits: dict[str, list[Example]]
    info: dict[str, Any]


def write_prepared(folder: Path, prepared: PreparedTask) -> None:
    """Write the files into ``folder``; the caller commits it through ``store.new_artifact``."""
    for name in SPLITS:
        lines = (json.dumps(asdict(example), ensure_ascii=True, sort_keys=True) for example in prepared.splits[name])
        (folder / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    (folder / TASK_FILE).write_text(to_json(asdict(prepared.task)), encoding="utf-8")
    (folder / INFO_FILE).write_text(to_json(prepared.info), encoding="utf-8")


def read_prepared(folder: Path) -> PreparedTask:
    """Read what :func:`write_prepared` wrote.

    Raises:
        IntegrityError: If a file is missing or not what was written.
    """
    try:
        fields = json.loads((folder / TASK_FILE).read_text(encoding="utf-8"))
        fields["labels"], fields["verbalisers"] = tuple(fields["labels"]), tuple(fields["verbalisers"])
        info = json.loads((folder / INFO_FILE).read_text(encoding="utf-8"))
        splits = {name: _read_split(folder / f"{name}.jsonl") for name in SPLITS}
        return PreparedTask(ClassificationTask(**fields), splits, info)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"{folder} is not a readable prepared task ({error}). Delete it and run again; the data are cut anew."
        ) from error


def _read_split(path: Path) -> list[Example]:
    with path.open(encoding="utf-8") as stream:
        return [Example(**json.loads(line)) for line in stream]
