"""The commands of ``tutelage runs``, and ``tutelage verify``.

In: a workspace. Out: tables and records on the terminal; an exit code that says whether all is as it was committed.
"""

import json as json_module
from pathlib import Path
from typing import Annotated

import typer

from tutelage.cli.arguments import OPTIONS, Json
from tutelage.cli.terminal import say, table
from tutelage.errors import IntegrityError

runs = typer.Typer(help="List finished runs, show or compare them, free what nothing refers to.", **OPTIONS)

Workspace = Annotated[Path, typer.Option(help="Folder of all results.")]
Name = Annotated[str, typer.Argument(help="RUN_ID, RUN_ID.KEY, EXPERIMENT/.. or the run's folder.", metavar="RUN")]


@runs.command("ls")
def runs_ls(workspace: Workspace = Path("runs"), json: Json = False) -> None:
    """List finished runs; of runs with one name, with the settings that differ."""
    from tutelage.cli.listing import show_runs

    show_runs(workspace, as_json=json)


@runs.command("show")
def runs_show(name: Name, workspace: Workspace = Path("runs"), json: Json = False) -> None:
    """Show one run: settings, scores, cost."""
    from tutelage.cli.listing import show_one_run

    show_one_run(workspace, name, as_json=json)


@runs.command("diff")
def runs_diff(first: Name, second: Name, workspace: Workspace = Path("runs"), json: Json = False) -> None:
    """Show what distinguishes two runs: settings, inputs, scores."""
    from tutelage.experiment.listing import compare_runs

    changed, scores = compare_runs(workspace, first, second)
    if json:
        say(json_module.dumps({"changes": changed, "metrics": scores}))
        return
    for change in changed or ["the same settings and inputs"]:
        say(change)
    say()
    rows = [(name, _number(old), _number(new)) for name, (old, new) in scores.items()]
    table(("metric", "first", "second"), rows, numbers=("first", "second"))


@runs.command("gc")
def runs_gc(
    workspace: Workspace = Path("runs"),
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it the folders are only listed.")] = False,
) -> None:
    """List or delete what no run and no newest stage refers to; runs stay."""
    from tutelage.experiment.garbage import collect_garbage, find_garbage

    found, left = collect_garbage(workspace) if yes else (find_garbage(workspace), [])
    for line in left:
        say(f"nothing was deleted: {line}")
    for each in found:
        say(f"{each.folder}: {each.reason}, {each.num_bytes / 2**20:,.1f} MiB")
    size = sum(each.num_bytes for each in found) / 2**20
    if not yes and found:
        say(f"{len(found)} folders, {size:,.1f} MiB; `tutelage runs gc --yes` deletes them")
    elif not left:
        say(f"{len(found)} folders, {size:,.1f} MiB " + ("freed" if yes else "that nothing refers to"))


def verify(
    workspace: Annotated[Path, typer.Argument(help="A workspace, or a folder in it.", metavar="WORKSPACE")] = Path(
        "runs"
    ),
) -> None:
    """Compare every file of a workspace with its manifest; exit code 3 where one differs."""
    from tutelage.experiment.verification import verify_workspace

    found = verify_workspace(workspace, show=say)
    if found.damaged:
        for problem in found.damaged.values():
            say(problem)
        raise IntegrityError(
            f"{len(found.damaged)} of {found.num_folders} folders in {workspace} are damaged. `tutelage run RECIPE` "
            "sets aside what it reads of them and makes it again; results that are named above are not to be believed."
        )
    say(f"{found.num_folders:,} folders, {found.num_bytes / 2**30:.2f} GiB: every file is as it was committed")


def _number(value: object) -> str:
    return "-" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
