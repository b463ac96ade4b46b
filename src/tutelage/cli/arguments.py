"""Arguments that several commands share, and the recipe behind them.

In: what a user typed. Out: a loaded, checked recipe.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from tutelage.cli.terminal import warn

OPTIONS: dict[str, Any] = {"no_args_is_help": True, "add_completion": False, "rich_markup_mode": None}

RecipeFile = Annotated[Path, typer.Argument(help="The recipe, a YAML file.", metavar="RECIPE")]
Source = Annotated[Path, typer.Argument(help="A recipe, or a cache's folder.", metavar="RECIPE|FOLDER")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Settings that replace the recipe's: train.learning_rate=2e-5", metavar="PATH=VALUE"),
]
Mode = Annotated[str | None, typer.Option(help="fast or full; replaces the recipe's.")]
Plugins = Annotated[
    list[str] | None,
    typer.Option("--plugin", help="A file of the recipe's `plugins` that may run; once for each.", metavar="FILE"),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def load(
    recipe: Path, overrides: list[str] | None, mode: str | None, *, plugins: list[str] | None = None, runs: bool = False
) -> Any:
    """Load a recipe, print its warnings, and check that its losses are defined.

    Args:
        recipe: The file.
        overrides: From the command line.
        mode: From the command line.
        plugins: Those that may run.
        runs: Whether the command needs the recipe's own losses; one that only looks rows up does not.

    Raises:
        ConfigError: If it is not valid.
        CapabilityError: If a loss is not defined for its signal.
    """
    from tutelage.config import check_capabilities, load_recipe

    loaded = load_recipe(recipe, overrides or [], mode=mode, plugins=(plugins or []) if runs else None)
    for warning in loaded.warnings:
        warn(warning)
    check_capabilities(loaded.recipe)
    return loaded
