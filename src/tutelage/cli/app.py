"""The commands of ``tutelage``.

In: arguments. Out: lines on the terminal, and an exit code. Whatever a command needs is imported inside it, so that
``--help`` never loads torch.
"""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tutelage import __version__
from tutelage.cli.arguments import OPTIONS, Json, Mode, Overrides, Plugins, RecipeFile, load
from tutelage.cli.cache import cache
from tutelage.cli.compare import compare
from tutelage.cli.failures import EXIT_CODES, hide_secrets_in_tracebacks, reported_failures
from tutelage.cli.runs import runs, verify
from tutelage.cli.terminal import paragraph, say, warn
from tutelage.errors import ConfigError
from tutelage.store.secrets import TOKEN, without_tokens


class Commands(TyperGroup):
    """Commands whose failures become one line and a documented exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        with reported_failures():
            return super().invoke(ctx)


APP_OPTIONS: dict[str, Any] = OPTIONS | {"add_completion": True}
app = typer.Typer(
    cls=Commands,
    help="Distil a large language model into a small one, and know that it worked.",
    epilog=EXIT_CODES,
    pretty_exceptions_enable=False,
    **APP_OPTIONS,
)
app.add_typer(runs, name="runs")
app.add_typer(cache, name="cache")
app.command()(compare)


def _print_version(wanted: bool) -> bool:
    if wanted:
        say(__version__)
        raise typer.Exit
    return wanted


Control = Annotated[
    bool, typer.Option("--control", help="Add the control whose teacher rows are shuffled; it must lose.")
]
Workspace = Annotated[Path, typer.Option(help="Folder of all results.")]
NewTokens = Annotated[int, typer.Option(help="Of an answer to a text or a conversation, at most.", min=1)]
STAGE_NAMES = ("prepare", "adapt", "teach", "shrink", "score", "trials", "train", "report")  # experiment.STAGES
_ONE_OF = f"One of {', '.join(STAGE_NAMES)}."
Only = Annotated[str | None, typer.Option(help=f"Run this stage alone. {_ONE_OF}", metavar="STAGE")]
Until = Annotated[str | None, typer.Option(help=f"Stop after this stage. {_ONE_OF}", metavar="STAGE")]


def main() -> None:
    """Run the command that the process's arguments name; ends with ``SystemExit``."""
    hide_secrets_in_tracebacks()
    # Calling `app` itself would put Typer's own traceback printer in place of ours.
    typer.main.get_command(app)(prog_name="tutelage")


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options before any command."""


@app.command()
def demo(overrides: Overrides = None, control: Control = False) -> None:
    """Distil the embedded model on the embedded reviews; needs nothing of yours."""
    from tutelage.cli.scaffold import DEMO

    _run(
        DEMO, overrides, mode=None, only=None, until=None, control=control, command=_command("demo", overrides, control)
    )


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Name of the experiment; NAME.yaml is written.")],
    data: Annotated[
        str | None,
        typer.Option(
            help="Your file or folder: CSV, TSV, JSON, JSONL, Parquet, text, also .gz or .zst.", metavar="FILE"
        ),
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="Its column with the text, where it is not found by itself.", metavar="COLUMN")
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="Its column with the label, where it is not found by itself.", metavar="COLUMN")
    ] = None,
    folder: Annotated[Path, typer.Option(help="Where to write it.")] = Path(),
) -> None:
    """Write a commented recipe to start from: for the embedded sample, or for your own file."""
    from tutelage.cli.scaffold import write_recipe

    if any(TOKEN.search(text) for text in (name, data or "")):
        raise ConfigError("NAME or --data holds what looks like an access token; nothing was written. Rename the file.")
    path, found = write_recipe(name, folder=folder, data=data, text=text, label=label)
    for line in found:
        say(line)
    say(f"wrote {path}; next: tutelage plan {path}")


@app.command("ls")
def list_all(workspace: Workspace = Path("runs")) -> None:
    """List recipes here and what the workspace holds."""
    from tutelage.cli.listing import show_experiments, show_recipes

    show_recipes(Path())
    say()
    show_experiments(workspace)


@app.command()
def plan(
    recipe: RecipeFile,
    overrides: Overrides = None,
    mode: Mode = None,
    control: Control = False,
    plugin: Plugins = None,
    json: Json = False,
) -> None:
    """Check a recipe and show what a run would do, what is finished and what it costs."""
    from tutelage.cli.plan import show_plan

    show_plan(load(recipe, overrides, mode, plugins=plugin, runs=True), control=control, as_json=json)


@app.command()
def preview(
    recipe: RecipeFile,
    overrides: Overrides = None,
    mode: Mode = None,
    rows: Annotated[int, typer.Option(help="How many.", min=1)] = 3,
    seed: Annotated[int, typer.Option(help="Which ones.", min=0)] = 0,
    top: Annotated[int, typer.Option(help="Teacher's entries per position.", min=1)] = 5,
    json: Json = False,
) -> None:
    """Show training rows with their targets marked, and what the teacher said where it was asked already."""
    from tutelage.cli.preview import show_preview

    show_preview(load(recipe, overrides, mode), count=rows, seed=seed, top=top, as_json=json)


@app.command()
def run(
    recipe: RecipeFile,
    overrides: Overrides = None,
    mode: Mode = None,
    only: Only = None,
    until: Until = None,
    control: Control = False,
    plugin: Plugins = None,
) -> None:
    """Run a recipe; what is finished is skipped, what was stopped goes on."""
    words = [shown_path(recipe), *(overrides or [])]
    command = _command("run", words, control, plugins=plugin, mode=mode, only=only, until=until)
    _run(recipe, overrides, mode=mode, only=only, until=until, control=control, command=command, plugins=plugin)


@app.command()
def report(
    source: Annotated[Path, typer.Argument(help="A recipe, or an experiment's folder.", metavar="RECIPE|FOLDER")],
    overrides: Overrides = None,
    mode: Mode = None,
    to: Annotated[Path | None, typer.Option(help="Write it into this folder; default the experiment's.")] = None,
    plugin: Plugins = None,
) -> None:
    """Build the report of what is finished."""
    command = _command("report", [shown_path(source), *(overrides or [])], False, plugins=plugin, mode=mode)
    if not source.is_dir():
        _run(
            source, overrides, mode=mode, only="report", until=None, control=False, command=command, report_to=to,
            plugins=plugin,
        )  # fmt: skip
        return
    from tutelage.report import build_report

    built = build_report(source, question="", command=command, to=to)
    say(built.terminal)
    if built.page is None:
        warn(f"{source} cannot be written to, so no page was made; `--to FOLDER` makes it elsewhere")
        return
    say(f"report: {built.page}")


@app.command()
def predict(
    run: Annotated[str, typer.Argument(help="RUN_ID, EXPERIMENT/RUN_ID, or the run's folder.", metavar="RUN")],
    data: Annotated[str, typer.Option(help="Rows to answer; labels are not needed.", metavar="FILE")],
    out: Annotated[Path | None, typer.Option(help="FILE.jsonl or FILE.csv; default standard output.")] = None,
    form: Annotated[str | None, typer.Option("--format", help="jsonl or csv; default by the file's name.")] = None,
    split: Annotated[str | None, typer.Option(help="Of a source with several splits.")] = None,
    max_new_tokens: NewTokens = 256,
    workspace: Workspace = Path("runs"),
) -> None:
    """Let a finished student answer the rows of a file."""
    from tutelage.cli.predict import predict_file

    predict_file(workspace, run, data, out=out, form=form, split=split, max_new_tokens=max_new_tokens)


@app.command()
def chat(
    runs: Annotated[list[str], typer.Argument(help="Finished runs; all of them answer.", metavar="RUN...")],
    teacher: Annotated[bool, typer.Option("--teacher", help="Let the first run's teacher answer too.")] = False,
    max_new_tokens: NewTokens = 256,
    workspace: Workspace = Path("runs"),
) -> None:
    """Talk to finished students: each line of standard input is answered by each of them."""
    from tutelage.cli.chat import chat_with

    chat_with(workspace, runs, teacher=teacher, max_new_tokens=max_new_tokens)


@app.command()
def schema(
    json: Annotated[bool, typer.Option("--json", help="As a JSON Schema, for editors.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="As the reference in docs/recipe.md.")] = False,
) -> None:
    """Print every setting of a recipe: path, type, default."""
    from tutelage.config.reference import as_json_schema, as_lines, as_markdown

    writer = as_json_schema if json else as_markdown if markdown else as_lines
    say(writer().removesuffix("\n"))


@app.command()
def version() -> None:
    """Print the version."""
    say(__version__)


app.command()(verify)


def _run(
    recipe: Path,
    overrides: list[str] | None,
    *,
    mode: str | None,
    only: str | None,
    until: str | None,
    control: bool,
    command: str,
    report_to: Path | None = None,
    plugins: list[str] | None = None,
) -> None:
    from tutelage.experiment import footer, run_recipe

    loaded = load(recipe, overrides, mode, plugins=plugins, runs=True)
    outcome = run_recipe(
        loaded, only=only, until=until, control=control, show=paragraph, command=command, report_to=report_to
    )
    if outcome.table:
        say(outcome.table)
    for line in footer(outcome):
        say(line)


def shown_path(path: Path) -> str:
    """Return a path from the current folder where it lies below it: reports are shown to others."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _command(
    name: str, arguments: list[str] | None, control: bool, *, plugins: list[str] | None = None, **options: str | None
) -> str:
    """Write the command down as a user would type it again."""
    flags = [part for option, value in options.items() if value for part in (f"--{option}", value)]
    flags += [part for plugin in plugins or () for part in ("--plugin", plugin)]
    words = ["tutelage", name, *(arguments or []), *flags, *(["--control"] if control else [])]
    return without_tokens(shlex.join(words))
