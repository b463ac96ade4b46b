"""Lay the report out as one HTML file that opens anywhere: no network, no scripts, nothing beside it.

In: the summary, tables, figures and items of each group, and what was recorded of the runs. Out: HTML text.
"""

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from tutelage.report import numerals
from tutelage.report.answer import difference_interval, direction
from tutelage.report.collect import Run
from tutelage.report.compared import compared_lines
from tutelage.report.figure_style import FigureFile
from tutelage.report.inline_svg import inline_svg
from tutelage.report.latex import to_latex
from tutelage.report.table_formats import to_csv, to_markdown
from tutelage.report.tables import Column, Table

# Provenance that two computations of the same thing share; times, host and memory stay in provenance.json.
SHOWN_PROVENANCE = ("commit", "recipe_file", "versions", "seeds", "hashes", "overrides")
INTERVAL = re.compile(r"\[[-\u2212]?[0-9.]+, [-\u2212]?[0-9.]+\]")
CODE = re.compile(r"`([^`]+)`")
CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class GroupParts:
    """Everything drawn and laid out of one task and student."""

    prefix: str  # of file names and anchors; empty when there is one group only
    summary: dict[str, Any]
    tables: Sequence[Table]
    figures: Sequence[FigureFile]
    items: dict[str, Any] | None


def page_environment() -> tuple[Environment, Markup]:
    """Return what renders a page, and the style that stands in it."""
    environment = Environment(
        loader=PackageLoader("tutelage.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["clean"] = clean
    environment.filters["sentence"] = sentence
    return environment, Markup(environment.loader.get_source(environment, "style.css")[0])  # type: ignore[union-attr]


def render_page(
    summary: dict[str, Any], groups: Sequence[GroupParts], runs: Sequence[Run], across: Sequence[Table] = ()
) -> str:
    """Return the page; equal inputs give equal bytes."""
    environment, style = page_environment()
    views = [_group_view(parts, summary["command"]) for parts in groups]
    page = environment.get_template("report.html.j2").render(
        summary=summary,
        style=style,
        groups=views,
        across=[table_view(table, across_prefix(table), summary["command"]) for table in across],
        provenance=describe_provenance(runs),
        recipe=_recipe_text(runs),
        runs=summary["runs"],
    )
    return page.rstrip() + "\n"


def clean(text: object) -> str:
    """Drop control characters and those that reorder the text around them."""
    return CONTROL_CHARACTERS.sub("", str(text))


def sentence(text: str) -> Markup:
    """Set intervals back in weight and commands as code, with minus signs, and keep numbers with their units."""
    bound = minus_sign(str(escape(text))).replace(" %", "\u00a0%").replace(" points", "\u00a0points")
    coded = CODE.sub(r"<code>\1</code>", bound)
    return Markup(INTERVAL.sub(lambda found: f'<span class="ci">{found[0]}</span>', coded))  # escaped above


def _group_view(parts: GroupParts, command: str) -> dict[str, Any]:
    group, prefix = parts.summary, parts.prefix
    heading = " · ".join(name for name in (group["task"], group["student"]) if name)
    return {
        "prefix": prefix,
        "heading": heading,
        "answer": group["answer"],
        "compared": compared_lines(group["compared"]),
        "checks": group["checks"],
        "tiles": tiles(group),
        "tables": {table.name: table_view(table, prefix, command) for table in parts.tables},
        "figures": [_figure_view(figure, prefix) for figure in parts.figures],
        "items": parts.items,
    }


def tiles(group: dict[str, Any]) -> list[dict[str, str]]:
    """Return the three or four numbers that a reader wants first: value, its interval, what it is."""
    method = next((arm for arm in group["arms"] if arm["label"] == group["answer"]["method"]), None)
    if method is None:
        return []
    found = []
    if method["share_kept"] is not None:
        share = method["share_kept"]
        verb = "reached" if share["low"] > 1 else "kept"
        words = f"of the teacher's {group['score_name']} {verb} by {method['label']}"
        found.append(_tile(f"{numerals.percent(share['estimate'])} %", numerals.percent_interval(share), words))
    if method["parameters_share"] is not None:
        words = "of the teacher's parameters"
        found.append(
            _tile(f"{numerals.percent(method['parameters_share'])} %", numerals.millions(method["parameters"]), words)
        )
    for comparison in group["comparisons"]:
        if comparison["method"] == method["label"] and comparison["rival_role"] in ("baseline", "pseudo"):
            difference = comparison["difference"]
            value = minus_sign(numerals.points(difference["estimate"]))
            words = f"points against {comparison['rival']}"
            interval = minus_sign(difference_interval(difference))
            found.append(_tile(value, interval, words, direction(comparison)))
    return found


def _tile(value: str, detail: str, words: str, state: str = "plain") -> dict[str, str]:
    return {"value": value, "detail": detail, "words": words, "state": state}


def minus_sign(text: str) -> str:
    """Replace hyphens before numbers by minus signs; the one in ``5e-5`` stays."""
    return re.sub(r"(?<![\w.])-(?=\d)", "\u2212", text)


def across_prefix(table: Table) -> str:
    """Return what stands before the name of a table over tasks: its student, where there are several."""
    return f"{table.place}-" if table.place else ""


def table_view(table: Table, prefix: str, command: str) -> dict[str, Any]:
    """Return a table as the template shows it, with its files as addresses."""
    rows = [
        {"marked": index in table.marked, "cells": [_cell_view(table, index, column) for column in table.columns]}
        for index in range(len(table.rows))
    ]
    files = {
        "csv": ("text/csv", to_csv(table)),
        "tex": ("text/plain", to_latex(table, command=command)),
        "md": ("text/markdown", to_markdown(table, command=command)),
    }
    return {
        "anchor": f"{prefix}{table.name}",
        "title": table.title,
        "note": f"{table.note} Shaded: {table.marked_note}" if table.marked and table.marked_note else table.note,
        "columns": table.columns,
        "rows": rows,
        "files": [
            {"name": f"{prefix}{table.name}.{suffix}", "suffix": suffix, "address": _data_address(kind, content)}
            for suffix, (kind, content) in files.items()
        ],
    }


def _data_address(kind: str, content: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content.encode()).decode()}"


def _cell_view(table: Table, index: int, column: Column) -> dict[str, Any]:
    text = clean(table.shown(table.rows[index], column))
    if not column.numeric:
        return {"value": "–" if text == numerals.MISSING else text, "interval": "", "numeric": False, "best": False}
    value, bracket, interval = minus_sign(text).partition(" [")
    return {
        "value": "–" if value == numerals.MISSING else value,
        "interval": bracket.strip() + interval,
        "numeric": True,
        "best": table.is_best(index, column),
    }


def _figure_view(figure: FigureFile, prefix: str) -> dict[str, Any]:
    name = f"{prefix}{figure.name}"
    svg = inline_svg(figure.formats["svg"].decode(), prefix=name, alternative=figure.alternative)
    narrow = inline_svg(figure.narrow.decode(), prefix=f"{name}-narrow", alternative=figure.alternative)
    return {"name": name, "title": figure.title, "caption": figure.caption, "svg": svg, "narrow": narrow}


def describe_provenance(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return what the runs were made with; a value that differs between runs is listed with its number of runs."""
    entries = []
    for key in SHOWN_PROVENANCE:
        counts: dict[str, int] = {}
        for run in runs:
            if run.provenance.get(key):
                text = _plain(run.provenance[key])
                counts[text] = counts.get(text, 0) + 1
        if counts:
            mixed = len(counts) > 1
            values = [f"{text} ({count} runs)" if mixed else text for text, count in sorted(counts.items())]
            entries.append({"name": key.replace("_", " "), "values": values, "mixed": mixed})
    return entries


def _plain(value: Any) -> str:
    if isinstance(value, dict) and set(value) == {"source", "path", "value"}:
        return f"{value['path']} = {value['value']} ({value['source']})"
    if isinstance(value, dict):
        return "; ".join(f"{key} {_plain(entry)}" for key, entry in sorted(value.items()) if entry is not None)
    if isinstance(value, list):
        return ", ".join(_plain(entry) for entry in value)
    return str(value)


def _recipe_text(runs: Sequence[Run]) -> str:
    recipe = next((run.provenance["recipe"] for run in runs if run.provenance.get("recipe")), None)
    return json.dumps(recipe, indent=2, ensure_ascii=False) if recipe else ""
