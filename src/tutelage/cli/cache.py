"""The commands ``tutelage cache ...``: look at what the teacher said, check it, copy it out.

In: arguments. Out: tables on the terminal, Parquet files, an exit code.
"""

import json as json_module
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from tutelage.cli.arguments import OPTIONS, Json, Mode, Overrides, RecipeFile, Source, load
from tutelage.cli.failures import EXIT_CODES
from tutelage.cli.terminal import paragraph, say, table, warn
from tutelage.errors import ConfigError, IntegrityError

cache = typer.Typer(help="Look into a teacher cache, check it, copy it out.", epilog=EXIT_CODES, **OPTIONS)

DEFAULT_TOKENS = 1e9
FRONTIER_COLUMNS = ("signal", "bytes/position", "angle", "length", "angle per position", "KL in nats")
FORMER_PARTS = ("ids", "metadata")  # every other part of a position is a value


@cache.command("report")
def cache_report(
    source: Source,
    overrides: Overrides = None,
    mode: Mode = None,
    tokens: Annotated[float, typer.Option(help="Tokens to forecast the size for.", min=1)] = DEFAULT_TOKENS,
    frontier: Annotated[bool, typer.Option("--frontier", help="Measure bytes against fidelity on own rows.")] = False,
    max_angle: Annotated[float, typer.Option(help="Largest acceptable angle of a step, in degrees.", min=0)] = 10.0,
    positions: Annotated[int, typer.Option(help="Supervised positions that the frontier reads.", min=1)] = 128,
    rows: Annotated[int, typer.Option(help="Rows that the frontier reads at most.", min=1)] = 64,
    temperature: Annotated[float, typer.Option(help="Of the frontier's loss.", min=1e-3)] = 1.0,
    seed: Annotated[int, typer.Option(help="Which rows the frontier reads.", min=0)] = 0,
    json: Json = False,
) -> None:
    """Show what a cache holds and costs, or what to store.

    With --frontier: which signal is worth its bytes for a recipe's rows, as a table, a figure and a recommendation.
    """
    if frontier:
        show_frontier(
            load(require_recipe(source, "--frontier"), overrides, mode),
            as_json=json, max_degrees=max_angle, num_positions=positions, num_rows=rows, temperature=temperature,
            seed=seed,
        )  # fmt: skip
        return
    from tutelage.cache.overview import cache_figures, head_bytes

    caches = find_sources(source, overrides, mode)
    figures = {each: cache_figures(each) for each in caches}
    if empty := [each.folder for each, columns in figures.items() if not columns]:
        raise IntegrityError(
            f"{empty[0]} holds no intact shard. `tutelage cache verify --repair RECIPE` teaches again what is missing."
        )
    if json:
        records = [
            {**asdict(column), "bytes_per_position": column.bytes_per_position, "forecast": column.forecast(tokens)}
            for columns in figures.values()
            for column in columns
        ]
        heads = {each.teacher: head_bytes(each) for each in caches}
        say(json_module.dumps({"columns": records, "head_bytes": heads, "forecast_tokens": tokens}))
        return
    for number, (each, columns) in enumerate(figures.items()):
        if number:
            say()
        show_figures(each, columns, head_bytes(each), tokens)


@cache.command("inspect")
def cache_inspect(
    recipe: RecipeFile,
    row: Annotated[str, typer.Argument(help="Item key, number, or first hex digits of the row's key.", metavar="ROW")],
    overrides: Overrides = None,
    mode: Mode = None,
    top: Annotated[int, typer.Option(help="Teacher's entries per position.", min=1)] = 5,
    json: Json = False,
) -> None:
    """Show one row and what the teacher said of it.

    Its tokens and targets, the teacher's most likely tokens at every stored position, class scores, written answers.
    """
    from tutelage.cli.preview import show_row

    show_row(load(recipe, overrides, mode), row, top=top, as_json=json)


@cache.command("verify")
def cache_verify(
    source: Source,
    overrides: Overrides = None,
    mode: Mode = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Delete what is damaged; a recipe teaches it again.")
    ] = False,
    json: Json = False,
) -> None:
    """Read every byte; exit 3 when something is wrong.

    For a recipe its rows are looked up too: a folder does not know which rows belong in it.
    """
    from tutelage.cache import verify_cache

    caches = find_sources(source, overrides, mode)
    damaged = {each: verify_cache(each.root, each.teacher) for each in caches}
    found = [folder for folders in damaged.values() for folder in folders]
    missing = {} if source.is_dir() or found else _missing(source, overrides, mode)
    if json:
        teachers = [each.teacher for each in caches]
        damaged_paths = [str(path) for path in found]
        say(json_module.dumps({"teachers": teachers, "damaged": damaged_paths, "missing": missing}))
    else:
        for each in caches:
            wrong = f"{len(damaged[each])} damaged" if damaged[each] else "rows missing" if missing else "intact"
            say(f"{each.folder}: {wrong}")
        for folder in found:
            say(f"  damaged: {folder}")
        for task, reason in missing.items():
            say(f"  missing, of task {task}: {reason}")
    if (found or missing) and not repair:
        where = ", ".join(str(each.folder) for each in caches)
        remedy = "`--repair` deletes it" if source.is_dir() else "`--repair` deletes it and teaches it again"
        if not found:
            raise IntegrityError(f"Rows of {', '.join(missing)} are missing in {where}; `--repair` teaches them again.")
        raise IntegrityError(f"{len(found)} damaged in {where}; {remedy}.")
    if found or missing:
        _repair(source, overrides, mode, damaged, quiet=json)


@cache.command("export")
def cache_export(
    source: Source,
    overrides: Overrides = None,
    mode: Mode = None,
    to: Annotated[Path | None, typer.Option(help="Folder for the Parquet files.", metavar="DIR")] = None,
) -> None:
    """Write a cache as plain Parquet files.

    One file per column, one line per position.
    """
    from tutelage.cache.export import export_cache

    if to is None:
        raise typer.BadParameter("where to? give a folder", param_hint="--to")
    in_the_way = next(path for path in (to, *to.absolute().parents) if path.exists())
    if not in_the_way.is_dir():
        raise ConfigError(f"--to {to} cannot be a folder: {in_the_way} is a file. Choose another folder.")
    caches = find_sources(source, overrides, mode)
    for each in caches:
        for path in export_cache(each.root, each.teacher, to if len(caches) == 1 else to / each.teacher):
            say(f"wrote {path}")


def find_sources(source: Path, overrides: list[str] | None, mode: str | None) -> list[Any]:
    """Find the caches below a folder, or those of a recipe's teacher."""
    from tutelage.cache.overview import TeacherCache, find_caches

    if source.is_dir():
        if overrides or mode:
            raise ConfigError(f"{source} is a folder: it takes no PATH=VALUE and no --mode. Name the recipe instead.")
        return find_caches(source)
    if not source.exists():
        raise ConfigError(
            f"{source} does not exist. Expected a recipe, a workspace, its `cache` folder, or a teacher's folder in "
            "it; `tutelage new NAME` writes a recipe to start from."
        )
    from tutelage.experiment.stored import recipe_context, require_fingerprints

    context = recipe_context(load(source, overrides, mode), show=say)
    fingerprints = dict.fromkeys(require_fingerprints(context).values())
    return [TeacherCache(context.folders.cache, fingerprint) for fingerprint in fingerprints]


def require_recipe(source: Path, option: str) -> Path:
    """Refuse a folder where a recipe is needed.

    Raises:
        ConfigError: If it is a folder.
    """
    if source.is_dir():
        raise ConfigError(f"{option} needs the recipe (its rows and its student); {source} is a folder.")
    return source


def show_figures(each: Any, columns: list[Any], head: int, tokens: float) -> None:
    """Print one teacher's columns: size by part, covered mass, forecast."""
    say(f"{each.folder}" + (f" (head {_size(head)})" if head else ""))
    table(
        ("column", "rows", "positions", "size"),
        [
            (column.column, f"{column.num_rows:,}", f"{column.num_positions:,}", _size(column.num_bytes))
            for column in columns
        ],
        numbers=("rows", "positions", "size"),
    )
    say("bytes per position:")  # a table of its own: with eight columns a terminal of 80 breaks the columns' names
    table(
        ("column", "all", "ids", "values", "metadata"),
        [(column.column, *(f"{size:,.1f}" for size in size_cells(column))) for column in columns],
        numbers=("all", "ids", "values", "metadata"),
    )
    for column in columns:
        if column.covered_mass:
            masses = ", ".join(f"{mass:.1%} at T = {t:g}" for t, mass in column.covered_mass.items())
            paragraph(f"covered mass of {column.column}: {masses}")
        if column.num_damaged:
            warn(f"{column.num_damaged} damaged shards of {column.column} are left out; see `tutelage cache verify`")
    say(f"forecast for {tokens:,.0f} tokens, as many of them supervised as here, or every one:")
    forecasts = [(column.column, column.forecast(tokens)) for column in columns]
    table(
        ("column", "as here", "every one"),
        [
            (name, _size(sizes["as_here"]), _size(sizes["every_token"]) if "every_token" in sizes else "-")
            for name, sizes in forecasts
        ],
        numbers=("as here", "every one"),
    )


def size_cells(column: Any) -> tuple[float, float, float, float]:
    """Give bytes per position: all, ids, values, metadata; what is no id and no metadata is a value."""
    values = sum(size for part, size in column.parts.items() if part not in FORMER_PARTS)
    return column.bytes_per_position, column.parts.get("ids", 0.0), values, column.parts.get("metadata", 0.0)


def show_frontier(loaded: Any, *, as_json: bool, **options: Any) -> None:
    """Measure the frontier and print its table, its recommendation and where the figure is."""
    from tutelage.experiment.frontier import recipe_frontier

    found = recipe_frontier(loaded, show=lambda line: None if as_json else say(line), **options)
    if as_json:
        points = [asdict(point) for point in found.points]
        recommended = found.recommended.signal if found.recommended is not None else None
        content = {"facts": found.facts, "points": points, "recommended": recommended, "sentence": found.sentence}
        say(json_module.dumps({**content, "files": [str(path) for path in found.files]}))
        return
    say()
    table(
        FRONTIER_COLUMNS,
        [
            (
                ("* " if point is found.recommended else "  ") + point.signal,
                f"{point.bytes_per_position:,.1f}",
                f"{point.step.degrees:.1f}\N{DEGREE SIGN}",
                f"{point.step.norm_ratio:.2f}",
                f"{point.position.degrees:.1f}\N{DEGREE SIGN}",
                "-" if point.kl_nats is None else f"{point.kl_nats:.4f}",
            )
            for point in found.points
        ],
        numbers=FRONTIER_COLUMNS[1:],
    )
    paragraph(found.sentence)
    for path in found.files:
        say(f"wrote {path}")


def _missing(source: Path, overrides: list[str] | None, mode: str | None) -> dict[str, str]:
    from tutelage.experiment.repair import missing_rows

    return missing_rows(load(source, overrides, mode), show=say)


def _repair(
    source: Path, overrides: list[str] | None, mode: str | None, damaged: dict[Any, list[Path]], *, quiet: bool
) -> None:
    show = (lambda line: None) if quiet else say
    if not source.is_dir():
        from tutelage.experiment.repair import repair_recipe

        command = shlex.join(["tutelage", "cache", "verify", "--repair", str(source), *(overrides or [])])
        repair_recipe(load(source, overrides, mode), show=show, command=command)
        show("repaired")
        return
    from tutelage.cache.repair import delete_shards

    for each, folders in damaged.items():
        for folder in delete_shards(each.root, each.teacher, folders):
            show(f"  deleted: {folder}")
    show("what was deleted is taught again by the next `tutelage run RECIPE`; name the recipe here to do it now")


def _size(num_bytes: float) -> str:
    """Write bytes in the largest unit that leaves at least 1."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            return f"{num_bytes:,.0f} {unit}" if unit == "bytes" else f"{num_bytes:,.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:,.1f} TiB"
