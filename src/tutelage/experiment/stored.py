"""What a recipe's finished stages left: rows as the teacher read them, and where its cache lies. No model is loaded.

In: a loaded recipe. Out: ``StoredTask``s, rows found by name, the caches of the recipe's teacher.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.config import LoadedRecipe
from tutelage.errors import DataError
from tutelage.experiment.nodes import open_graph
from tutelage.experiment.stage import Context
from tutelage.experiment.teach import TRAINED_SPLITS, splits_to_teach, taught_of

HEX_PREFIX = re.compile(r"[0-9a-fA-F]{4,32}")  # shorter ones would be found by chance


@dataclass(frozen=True)
class FoundRow:
    """One row of a task."""

    task: str
    split: str
    index: int  # among all rows of the task: train, validation, test, adapt
    row: Any  # StudentRow


@dataclass(frozen=True)
class StoredTask:
    """A prepared task; ``fingerprint`` is None until its rows were taught."""

    name: str
    context: Context
    data: Any  # TaskData
    fingerprint: str | None

    @property
    def tokenizer(self) -> Any:
        """The teacher's tokenizer."""
        return self.data.tokenizer

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What the teach stage recorded; only of a task that was taught."""
        return taught_of(self.context, self.name).facts

    @property
    def root(self) -> Path:
        """The root of the teacher cache."""
        return self.context.folders.cache

    @cached_property
    def rows(self) -> list[FoundRow]:
        """Every row that the teacher reads, with the targets of the gold labels."""
        splits = splits_to_teach(self.data.prepared.splits)
        made = [
            (name, row)
            for name, examples in splits.items()
            for row in self.data.rows(examples, for_training=name in TRAINED_SPLITS)
        ]
        return [FoundRow(self.name, split, index, row) for index, (split, row) in enumerate(made)]


def recipe_context(loaded: LoadedRecipe, *, show: Callable[[str], None]) -> Context:
    """Return the recipe's context with every finished stage found, the adapted teacher included where there is one."""
    return open_graph(loaded, show=show).context


def unprepared_tasks(loaded: LoadedRecipe) -> list[str]:
    """List the tasks whose rows were not cut yet, or for other settings."""
    context = recipe_context(loaded, show=print)
    return [task for task in context.recipe.tasks if ("prepare", task) not in context.found]


def open_stored(loaded: LoadedRecipe, *, show: Callable[[str], None]) -> list[StoredTask]:
    """Open every task of a recipe.

    Raises:
        DataError: If a task's rows are not prepared.
    """
    from tutelage.experiment.origin import taught_source
    from tutelage.experiment.task_data import view_task
    from tutelage.experiment.writer import reader_of, row_writer
    from tutelage.models.load import load_config

    context = recipe_context(loaded, show=show)
    unprepared = [task for task in context.recipe.tasks if ("prepare", task) not in context.found]
    if unprepared:
        raise DataError(
            f"The rows of task {unprepared[0]!r} are not prepared for this recipe. Run `tutelage run {loaded.path} "
            "--until prepare`; `--until teach` asks the teacher too."
        )
    writer = row_writer(context)
    num_ids = load_config(taught_source(context)).get_text_config().vocab_size
    if context.recipe.teacher.resize_embeddings:
        num_ids = max(num_ids, writer.num_ids)
    reader = reader_of(context, writer, None, num_ids=num_ids)
    return [
        StoredTask(task, context, view_task(context, task, writer, reader), task_fingerprint(context, task))
        for task in context.recipe.tasks
    ]


def task_fingerprint(context: Context, task: str) -> str | None:
    """Return the fingerprint of the teacher that taught a task's rows under these very settings, or None."""
    return taught_of(context, task).facts["fingerprint"] if ("teach", task) in context.found else None


def require_fingerprints(context: Context) -> dict[str, str]:
    """Return the teacher's fingerprint of every task.

    Raises:
        DataError: If a task was not taught, or the recipe was changed since.
    """
    found = {task: task_fingerprint(context, task) for task in context.recipe.tasks}
    missing = [task for task, fingerprint in found.items() if fingerprint is None]
    if missing:
        raise DataError(
            f"Task {missing[0]!r} was not taught under the settings of {context.loaded.path}. Run `tutelage run "
            f"{context.loaded.path} --until teach`, or name the cache's folder instead of the recipe."
        )
    return {task: fingerprint for task, fingerprint in found.items() if fingerprint is not None}


def find_row(tasks: list[StoredTask], name: str) -> tuple[StoredTask, FoundRow]:
    """Find a row by its item key, its number (tasks counted through), or the first hex digits of its row key.

    Raises:
        DataError: If nothing or several different rows are meant.
    """
    everything = [(task, row) for task in tasks for row in task.rows]
    by_item = [each for each in everything if each[1].row.item_key == name]
    if by_item:
        return by_item[0]
    if name.isdecimal() and int(name) < len(everything):
        return everything[int(name)]
    if HEX_PREFIX.fullmatch(name):
        by_key = {each[1].row.teacher_key: each for each in everything if _begins(each[1], name)}
        if len(by_key) > 1:
            raise DataError(f"{len(by_key)} row keys begin with {name}. Give more digits.")
        if by_key:
            return next(iter(by_key.values()))
    example = everything[0][1].row.item_key if everything else "none"
    raise DataError(
        f"No row is called {name!r}. Expected an item key such as {example}, a number below {len(everything)}, or at "
        "least 4 hex digits of a row key."
    )


def choose_rows(tasks: list[StoredTask], *, count: int, seed: int) -> list[tuple[StoredTask, FoundRow]]:
    """Choose training rows at random, spread over the tasks; the same seed chooses the same rows."""
    training = [(task, row) for task in tasks for row in task.rows if row.split == "train"]
    order = np.random.default_rng(seed).permutation(len(training))[:count]
    return [training[number] for number in order]


def _begins(found: FoundRow, prefix: str) -> bool:
    return found.row.teacher_key.hex().startswith(prefix.lower())
