"""Make a recipe's teacher cache whole again: what is damaged goes, what is missing is taught again.

In: a recipe's graph. Out: the folders that were deleted; a finished teach stage.
"""

from collections.abc import Callable
from pathlib import Path

from tutelage.cache import CacheReader, verify_cache
from tutelage.cache.final_hidden import FinalHiddenColumn
from tutelage.cache.layout import head_folder
from tutelage.cache.repair import delete_shards
from tutelage.cache.teacher_head import has_head
from tutelage.config import LoadedRecipe
from tutelage.data import teacher_row
from tutelage.errors import IntegrityError
from tutelage.experiment.answers import prompt_rows
from tutelage.experiment.pipeline import run_recipe
from tutelage.experiment.sequences import SPLIT
from tutelage.experiment.stored import StoredTask, open_stored, recipe_context, require_fingerprints
from tutelage.experiment.teach import sequences_column_of, signal_columns_of
from tutelage.store import set_aside


def repair_recipe(loaded: LoadedRecipe, *, show: Callable[[str], None], command: str) -> list[Path]:
    """Delete the damaged shards of a recipe's teacher and run the teach stage for what is missing.

    The stage's own small folder steps aside first: a kill in between leaves a stage that is "to do", and the next run
    completes it. The same rows give the same content, so nothing that was trained on them is made again. The rows
    themselves are compared with their manifest before any of this.

    Raises:
        DataError: If the recipe's tasks were not taught.
        IntegrityError: If the prepared rows are damaged.
        LockedError: If another process runs the same experiment.
    """
    context = recipe_context(loaded, show=show)
    fingerprints = require_fingerprints(context)
    incomplete = missing_rows(loaded, show=show)
    damaged: list[Path] = []
    for fingerprint in dict.fromkeys(fingerprints.values()):
        found = verify_cache(context.folders.cache, fingerprint)
        for task in [
            task for task, own in fingerprints.items() if own == fingerprint and (found or task in incomplete)
        ]:
            set_aside(context.input("teach", task))
        delete_shards(context.folders.cache, fingerprint, found)
        damaged += found
    if damaged or incomplete:
        run_recipe(loaded, until="teach", show=show, command=command)
    return damaged


def missing_rows(loaded: LoadedRecipe, *, show: Callable[[str], None]) -> dict[str, str]:
    """Say, by task, what a finished teach stage once stored and its cache no longer holds.

    A shard that is gone leaves no trace in the cache itself: only the recipe knows which rows belong there.

    Raises:
        DataError: If the recipe's tasks were not taught.
    """
    tasks = open_stored(loaded, show=show)
    require_fingerprints(tasks[0].context)
    found = {task.name: first_missing(task) for task in tasks}
    return {name: reason for name, reason in found.items() if reason is not None}


def first_missing(task: StoredTask) -> str | None:
    """Look every row of a taught task up in every column that its stage stored; None when all are there."""
    assert task.fingerprint is not None, "the caller checks that the task was taught"
    rows = [teacher_row(found.row) for found in task.rows]
    try:
        for column in signal_columns_of(task.facts):
            reader = CacheReader(task.root, task.fingerprint, column)
            reader.digest([row.key for row in rows], [column.positions_of(row) for row in rows])
            if isinstance(column, FinalHiddenColumn) and not has_head(task.root, task.fingerprint):
                return f"{head_folder(task.root, task.fingerprint)} is missing or damaged."
        if (column := sequences_column_of(task.facts)) is not None:
            prompts = prompt_rows(task, column, task.data.prepared.splits[SPLIT])
            reader = CacheReader(task.root, task.fingerprint, column)
            reader.digest([row.key for row in prompts], [column.positions_of(row) for row in prompts])
    except IntegrityError as error:
        return str(error)
    return None
