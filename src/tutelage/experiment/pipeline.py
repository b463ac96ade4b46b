"""A recipe run from beginning to end: its graph is walked, what is finished is skipped, the report is built.

In: a loaded recipe. Out: finished folders, a report.
"""

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tutelage.config import LoadedRecipe
from tutelage.errors import ConfigError, DataError
from tutelage.experiment.audit import append_event, peak_memory_bytes
from tutelage.experiment.checks import require_sound
from tutelage.experiment.checks.workspace import nearest_existing
from tutelage.experiment.closing import closing_lines
from tutelage.experiment.graph import STAGES, Node
from tutelage.experiment.nodes import RecipeGraph, open_graph
from tutelage.store import folder_lock, is_writable, sweep_temporaries, write_json
from tutelage.train.overall import RunProgress
from tutelage.train.signals import preempted_by_signals


@dataclass(frozen=True)
class Outcome:
    """What a run of a recipe leaves on the screen."""

    report: Path | None
    table: str
    timings: dict[str, float]  # seconds per stage, in this process
    skipped: int
    seconds: float
    runs: tuple[Path, ...] = field(default=())  # the folders of the recipe's finished runs


def run_recipe(
    loaded: LoadedRecipe,
    *,
    only: str | None = None,
    until: str | None = None,
    control: bool = False,
    show: Callable[[str], None],
    command: str = "",
    report_to: Path | None = None,
) -> Outcome:
    """Run every stage of a recipe that is not finished.

    Args:
        loaded: The recipe.
        only: Run this stage alone; what it reads must be finished.
        until: Stop after this stage.
        control: Add the permuted-teacher control.
        show: Receives lines for the screen.
        command: How a user would start this again; recorded with every number.
        report_to: Where ``only="report"`` writes; default the experiment's folder.

    Raises:
        ConfigError: If a stage's name is unknown, or an input of ``only`` is not finished.
        RecipeError: Everything that files, configurations and tokenizers show to be wrong, before anything runs.
        LockedError: If another process runs the same experiment.
        TutelageError: Whatever a stage refuses, with its exit code.
    """
    wanted = wanted_stages(only, until)
    command = command or f"tutelage run {loaded.path.name}"
    began = time.perf_counter()
    graph = open_graph(loaded, show=show, command=command, control=control)
    context, root = graph.context, graph.context.folders.root
    if wanted == ("report",):  # reads finished runs and writes only its own folder
        page, table = report(graph, to=report_to)
        return _outcome(graph, page, table, began)
    if not nearest_existing(root).is_dir():  # no lock can be taken in a file, so the checks have to say it now
        require_sound(context)
    with preempted_by_signals(), folder_lock(root):
        sweep_temporaries(root)
        sweep_temporaries(context.folders.workspace / "models")
        recipe = context.recipe
        append_event(root, {"event": "run", "command": command, "mode": recipe.mode, "recipe": loaded.path.name})
        make_all(graph, wanted, alone=only is not None)
        page, table = report(graph) if "report" in wanted else (None, "")
        seconds = round(time.perf_counter() - began, 3)
        append_event(root, {"event": "done", "skipped": len(context.skipped), "seconds": seconds})
    return _outcome(graph, page, table, began)


def wanted_stages(only: str | None, until: str | None) -> tuple[str, ...]:
    """Return the stages that a command asks for.

    Raises:
        ConfigError: If a name is unknown.
    """
    for name in (only, until):
        if name is not None and name not in STAGES:
            raise ConfigError(f"There is no stage {name!r}. Expected one of {', '.join(STAGES)}.")
    return (only,) if only is not None else STAGES[: STAGES.index(until) + 1] if until is not None else STAGES


def make_all(graph: RecipeGraph, wanted: tuple[str, ...], *, alone: bool = False) -> None:
    """Make every wanted node that is not finished, after the checks that cost nothing.

    Raises:
        RecipeError: If a check finds a mistake; nothing was made.
        TutelageError: Whatever a stage refuses.
    """
    context = graph.context
    nodes = graph.of(*wanted)
    if any(node.manifest() is None for node in nodes):
        for note in require_sound(context):
            context.show(f"note: {note.message}")
    context.overall = RunProgress([node.stage for node in nodes if node.manifest() is None])
    with context.overall:
        for node in nodes:
            if not graph.make(node, alone=alone):
                context.skip(node.stage, node.subject)
            _announce_choice(graph, node)
    chosen = {name: found for name, found in graph.chosen().items() if found}
    if chosen:
        write_json(context.folders.root / "best_config.json", chosen)
    if "train" in wanted:
        context.discard_work(context.folders.root / "work")  # what is left there belongs to settings that changed


def _announce_choice(graph: RecipeGraph, node: Node) -> None:
    """Say which trial won, once the last one of its search is finished."""
    if node.stage != "trials":
        return
    for runs in graph.students.values():
        for method, search in runs.searches.items():
            if search.trials[-1][1] is node and (winner := search.winner()) is not None:
                run, score = winner
                graph.context.show(f"chose {method}: {run.run_id} (validation {search.metric} {score:.4f})")


def report(graph: RecipeGraph, *, to: Path | None = None) -> tuple[Path | None, str]:
    """Build the report of the recipe's own finished runs, and return its page and a table for the screen.

    Args:
        graph: Of the recipe.
        to: Where ``report/`` is written; default the experiment's folder. Without a page where that is read-only.

    Raises:
        DataError: If none is finished.
    """
    from tutelage.report import build_report

    context = graph.context
    folder = context.folders.root
    runs = graph.finished_runs()
    if context.folders.workspace.is_file():
        raise ConfigError(f"workspace: {context.folders.workspace} is a file, expected a folder of results.")
    if not runs:
        raise DataError(
            f"{folder} holds no finished run with the settings of {context.loaded.path}. Run the recipe first; "
            "`tutelage runs ls` shows what is there."
        )
    search = context.recipe.report.search
    audited = is_writable(folder)
    with context.timed("report", context.recipe.name) if audited else contextlib.nullcontext():
        built = build_report(
            folder,
            question=context.recipe.report.question,
            command=context.command,
            runs=runs,
            search_folder=folder.parent / search if search else None,
            to=to,
        )
    if built.page is None:
        context.show(f"{folder} cannot be written to, so no page was made; `tutelage report --to FOLDER` makes it")
    return built.page, built.terminal


def _outcome(graph: RecipeGraph, page: Path | None, table: str, began: float) -> Outcome:
    context = graph.context
    seconds = time.perf_counter() - began
    return Outcome(page, table, context.timings, len(context.skipped), seconds, tuple(graph.finished_runs()))


def footer(outcome: Outcome) -> list[str]:
    """Return the closing lines: time per stage, load, memory, where report and students are, and how to use them."""
    shown = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in outcome.timings.items() if seconds >= 0.5)
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    lines = [
        f"time: {outcome.seconds:.0f} s ({shown or 'nothing to do'}); {outcome.skipped} finished before",
        f"load average: {load}; peak memory: {peak_memory_bytes() / 2**30:.2f} GiB",
    ]
    if outcome.report is not None:
        lines.append(f"report: {outcome.report}")
    return [*lines, *closing_lines(outcome.runs)]
