"""Make a recipe's teacher cache whole again: what is damaged goes, what is missing is taught again.

In: a loaded recipe. Out: the folders that were deleted; a finished teach stage.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

from tutelage.cache import verify_cache
from tutelage.cache.repair import delete_shards
from tutelage.config import LoadedRecipe
from tutelage.experiment.pipeline import run_recipe
from tutelage.experiment.stored import recipe_context, require_fingerprints


def repair_recipe(loaded: LoadedRecipe, *, show: Callable[[str], None], command: str) -> list[Path]:
    """Delete the damaged shards of a recipe's teacher and run the teach stage for what is missing.

    The stage's own small folder goes first: a kill in between leaves a stage that is "to do", and the next run
    completes it. The same rows give the same content, so nothing that was trained on them is made again.

    Raises:
        DataError: If the recipe's tasks were not taught.
        LockedError: If another process runs the same experiment.
    """
    context = recipe_context(loaded, show=show)
    fingerprints = require_fingerprints(context)
    damaged: list[Path] = []
    for fingerprint in dict.fromkeys(fingerprints.values()):
        found = verify_cache(context.folders.cache, fingerprint)
        for task in [task for task, own in fingerprints.items() if own == fingerprint and found]:
            shutil.rmtree(context.folders.taught(task))
        delete_shards(context.folders.cache, fingerprint, found)
        damaged += found
    if damaged:
        run_recipe(loaded, until="teach", show=show, command=command)
    return damaged
