"""The command ``compare``: finished experiments side by side.

In: folders of experiments. Out: a table on the terminal, and a page where asked for.
"""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from tutelage.cli.terminal import say
from tutelage.errors import ConfigError
from tutelage.store.secrets import without_tokens


def compare(
    experiments: Annotated[
        list[Path], typer.Argument(help="Folders of experiments, the first is held against.", metavar="EXPERIMENT...")
    ],
    out: Annotated[Path | None, typer.Option(help="Folder for a page and its tables.")] = None,
) -> None:
    """Set finished experiments side by side; arms of one name are paired over the same test items."""
    from tutelage.cli.app import shown_path
    from tutelage.report import build_comparison

    missing = [folder for folder in experiments if not folder.is_dir()]
    if missing:
        raise ConfigError(f"{missing[0]} is no folder. Expected the folder of an experiment, such as runs/NAME.")
    words = ["tutelage", "compare", *map(shown_path, experiments), *(["--out", shown_path(out)] if out else [])]
    built = build_comparison(experiments, command=without_tokens(shlex.join(words)), out=out)
    say(built.terminal.rstrip())
    if built.page is not None:
        say(f"page: {built.page}")
