"""What is here: recipes, experiments, runs.

In: folders. Out: tables and records on the terminal.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tutelage.cli.terminal import say, table
from tutelage.errors import ConfigError

RECIPE_FOLDERS = (".", "recipes")
OTHER_FOLDERS = ("cache", "models")  # of a workspace: shared by its experiments


def show_recipes(folder: Path) -> None:
    """List the recipes in ``folder`` and in ``folder/recipes``."""
    rows = list(_recipe_rows(folder))
    if not rows:
        say("no recipes here; `tutelage new NAME` writes one, `tutelage demo` needs none")
        return
    table(("recipe", "name", "mode", "students", "tasks", "methods"), rows)


def _recipe_rows(folder: Path) -> Iterator[tuple[str, ...]]:
    from tutelage.config import RecipeError, load_recipe

    for path in sorted(path for each in RECIPE_FOLDERS for path in (folder / each).glob("*.yaml")):
        try:
            recipe = load_recipe(path, environment={}, plugins=None).recipe
        except RecipeError as error:
            count = len(error.problems)
            yield (
                str(path),
                f"not valid: {count} problem{'s' if count > 1 else ''} (tutelage plan {path})",
                "",
                "",
                "",
                "",
            )
        except ConfigError as error:
            yield (str(path), str(error), "", "", "", "")
        else:
            yield (
                str(path),
                recipe.name,
                recipe.mode,
                *(", ".join(x) for x in (recipe.students, recipe.tasks, recipe.methods)),
            )


def show_experiments(workspace: Path) -> None:
    """List the experiments of a workspace, with finished runs and the space they take."""
    folders = workspace_folders(workspace)
    if not folders:
        say(f"nothing in {workspace} yet")
        return
    rows = []
    for path in folders:
        what = "shared by all" if path.name in OTHER_FOLDERS else str(len(list(path.glob("*/run.json"))))
        rows.append((str(path), what, _megabytes(path)))
    table(("folder", "runs", "size"), rows)


def workspace_folders(workspace: Path) -> list[Path]:
    """Return the folders of a workspace that exists; `glob` would pass over what may not be read, and show nothing.

    Raises:
        OSError: If the workspace is a file, or it or a folder in it may not be read.
    """
    if not workspace.exists():
        return []
    folders = sorted(path for path in workspace.iterdir() if path.is_dir())
    for folder in folders:
        next(folder.iterdir(), None)
    return folders


def show_runs(workspace: Path, *, as_json: bool) -> None:
    """List finished runs with their main metric."""
    from tutelage.experiment import list_runs

    workspace_folders(workspace)
    found = list_runs(workspace)
    if as_json:
        say(
            json.dumps(
                [
                    {
                        **run.record,
                        "folder": str(run.folder),
                        "content_digest": run.content_digest,
                        "differs": run.differs,
                        "damage": run.damage,
                    }
                    for run in found
                ]
            )
        )
        return
    if not found:
        say(f"no finished runs in {workspace}")
        return
    rows = [run.cells for run in found]
    table(("experiment", "run", "role", "score", "metric", "settings that differ"), rows)
    if any(run.damage for run in found):
        say("damaged runs are not to be believed; `tutelage run RECIPE` makes them again")


def show_one_run(workspace: Path, name: str, *, as_json: bool) -> None:
    """Show everything that is known about one run."""
    from tutelage.experiment import show_run

    workspace_folders(workspace)
    found = show_run(workspace, name)
    record = {**found.record, "folder": str(found.folder), "content_digest": found.content_digest}
    if as_json:
        say(json.dumps(record))
        return
    for key, value in _flat(record):
        say(f"{key}: {value}")


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _megabytes(folder: Path) -> str:
    num_bytes = sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
    return f"{num_bytes / 2**20:,.1f} MiB"
