"""Build the report of an experiment: page, figures, tables and ``summary.json``, committed as one artifact.

In: the folder of an experiment. Out: ``<experiment>/report/`` and a table for the terminal.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.errors import IntegrityError
from tutelage.report.arms import group_arms
from tutelage.report.collect import Experiment, Run, collect
from tutelage.report.compared import stage_records
from tutelage.report.figures import group_figures
from tutelage.report.item_view import view_items
from tutelage.report.latex import to_latex
from tutelage.report.page import SHOWN_PROVENANCE, GroupParts, across_prefix, render_page
from tutelage.report.summary import summarise
from tutelage.report.table_formats import to_csv, to_markdown
from tutelage.report.tables import Table, across_table, group_tables
from tutelage.report.terminal import terminal_table
from tutelage.store import (
    files_digest,
    is_writable,
    new_artifact,
    read_manifest,
    safe_name,
    value_digest,
    verify_artifact,
    without_tokens,
    write_file,
    write_json,
)

REPORT_FOLDER, PAGE, SUMMARY, PROVENANCE = "report", "report.html", "summary.json", "provenance.json"
KIND = "report"


@dataclass(frozen=True)
class Built:
    """A report; ``page`` is None where its folder cannot be written to."""

    page: Path | None
    terminal: str  # plain text, at most 80 columns
    summary: dict[str, Any]


def build_report(
    experiment_folder: Path,
    *,
    question: str,
    command: str,
    runs: Sequence[Path] | None = None,
    search_folder: Path | None = None,
    to: Path | None = None,
) -> Built:
    """Write ``report/`` from the finished runs; nothing is written when it is already up to date.

    Equal runs give equal bytes: measured times go to ``provenance.json``, which no content digest covers.

    Args:
        experiment_folder: Holds one folder per run.
        question: What the experiment asks, shown above the answer; empty: what the runs' recipe asks.
        command: How to make this report again; shown with every table and figure.
        runs: The folders of exactly these runs, trials among them; default all finished ones.
        search_folder: Another experiment, whose trials chose the settings of this one.
        to: Where ``report/`` is written; default the experiment's own folder. One that cannot be written to is no
            error: the table is returned without a page.

    Raises:
        DataError: If no run has finished, or runs cannot be compared.
        IntegrityError: If a run's file is damaged.
        DiskError: If the disk is full; an older report stays.
    """
    experiment = collect(experiment_folder, runs=runs, search_folder=search_folder)
    asked = {"question": question, "search": search_folder.name if search_folder is not None else None}
    question = question or _recorded_question(experiment)
    folder = (to or experiment_folder) / REPORT_FOLDER
    key = _report_key(experiment, asked=asked, question=question, command=command)
    if _is_up_to_date(folder, key):
        summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        return Built(folder / PAGE, terminal_table(summary), summary)
    summary = summarise(experiment, question=question, command=command)
    if folder.parent.is_dir() and not is_writable(folder.parent):
        return Built(None, terminal_table(summary), summary)
    arms = group_arms(experiment.runs)
    groups = [
        GroupParts(
            _prefix(group, len(summary["groups"])),
            group,
            group_tables(group),
            group_figures(group),
            view_items(arms[group["task"], group["student"]], group["answer"]["method"]),
        )
        for group in summary["groups"]
    ]
    read = (*experiment.runs, *experiment.trials)
    students = len(summary["across"])
    across = [across_table(each, place=(each["student"] or "") if students > 1 else "") for each in summary["across"]]
    fields = {"key": key, "runs": sorted(run.content_digest for run in experiment.runs), "asked": asked}
    with new_artifact(folder, kind=KIND, fields=fields, point="report") as temporary:
        write_file(temporary / PAGE, without_tokens(render_page(summary, groups, read, across)))
        write_json(temporary / SUMMARY, summary)
        for parts in groups:
            _write_parts(temporary, parts, command)
        for table in across:
            write_table(temporary, across_prefix(table), table, command)
        write_json(
            temporary / PROVENANCE, {"seconds": [{"run_id": run.run_id, "seconds": run.seconds} for run in read]}
        )
    return Built(folder / PAGE, terminal_table(summary), summary)


def _is_up_to_date(folder: Path, key: str) -> bool:
    """Say whether a report with this key is there, and every file of it as it was written."""
    manifest = read_manifest(folder)
    if manifest is None or manifest.fields.get("key") != key:
        return False
    try:
        verify_artifact(folder)
    except IntegrityError:
        return False
    return True


def _recorded_question(experiment: Experiment) -> str:
    recipes = [run.provenance.get("recipe") or {} for run in experiment.runs]
    return next((question for recipe in recipes if (question := (recipe.get("report") or {}).get("question"))), "")


def _report_key(experiment: Experiment, *, asked: Mapping[str, Any], question: str, command: str) -> str:
    """Address the report by all that it shows, and by the code that shows it."""
    source = Path(__file__).parent
    runs: Sequence[Run] = (*experiment.runs, *experiment.trials)
    shown = [[run.run_id, run.content_digest, _stable(run.provenance)] for run in runs]
    code = [files_digest(source.glob("*.py")), files_digest((source / "templates").glob("*.*"))]
    stages = stage_records(experiment.runs, experiment.folder) if experiment.folder is not None else {}
    words = {"asked": dict(asked), "question": question, "command": command}
    return value_digest({**words, "runs": shown, "stages": stages, "code": code})


def _stable(provenance: dict[str, Any]) -> dict[str, Any]:
    return {key: provenance.get(key) for key in (*SHOWN_PROVENANCE, "recipe")}


def _prefix(group: dict[str, Any], num_groups: int) -> str:
    if num_groups == 1:
        return ""
    return "-".join(safe_name(name, what="task or student") for name in (group["task"], group["student"]) if name) + "-"


def _write_parts(folder: Path, parts: GroupParts, command: str) -> None:
    for table in parts.tables:
        write_table(folder, parts.prefix, table, command)
    for figure in parts.figures:
        for suffix, content in figure.formats.items():
            write_file(folder / "figures" / f"{parts.prefix}{figure.name}.{suffix}", content)


def write_table(folder: Path, prefix: str, table: Table, command: str) -> None:
    """Write ``tables/<prefix><name>`` as CSV, LaTeX and Markdown."""
    for suffix, text in (
        ("csv", to_csv(table)),
        ("tex", to_latex(table, command=command)),
        ("md", to_markdown(table, command=command)),
    ):
        write_file(folder / "tables" / f"{prefix}{table.name}.{suffix}", text)
