"""Write a table as CSV or Markdown.

In: a :class:`Table`. Out: text. CSV keeps every digit; Markdown shows what people read.
"""

import csv
import io
import re
from typing import Any

from tutelage.report.tables import Cell, Column, Table

# A spreadsheet runs a text cell that begins like this as a formula (OWASP, CSV injection).
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
MARKDOWN_SPECIAL = re.compile(r"([\\`*_\[\]<>|])")
WHITESPACE = re.compile(r"\s+")


def to_csv(table: Table) -> str:
    """Write raw values; an interval becomes three columns, a text cell that looks like a formula is quoted."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    header: list[str] = []
    for column in table.columns:
        header += (
            [column.key, f"{column.key}_low", f"{column.key}_high"] if has_interval(table, column) else [column.key]
        )
    writer.writerow([guard_formula(name) for name in header])
    for row in table.rows:
        cells: list[Any] = []
        for column in table.columns:
            value = row.get(column.key)
            cells += _csv_interval(value) if has_interval(table, column) else [_csv_cell(value)]
        writer.writerow(cells)
    return stream.getvalue()


def has_interval(table: Table, column: Column) -> bool:
    """Tell whether the column's values are intervals."""
    return any(isinstance(row.get(column.key), dict) for row in table.rows)


def _csv_interval(value: Cell) -> list[Any]:
    return [value[key] for key in ("estimate", "low", "high")] if isinstance(value, dict) else ["", "", ""]


def _csv_cell(value: Any) -> Any:
    if value is None:
        return ""
    return guard_formula(value) if isinstance(value, str) else value


def guard_formula(text: str) -> str:
    """Put an apostrophe before text that a spreadsheet would run."""
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text


def to_markdown(table: Table, *, command: str) -> str:
    """Write a Markdown table with its note and the command that made it."""
    lines = [
        f"**{escape_markdown(f'{table.title}, {table.place}' if table.place else table.title)}**",
        "",
        _markdown_row([column.title for column in table.columns]),
        "|" + "|".join(" ---: " if column.numeric else " --- " for column in table.columns) + "|",
    ]
    for index, row in enumerate(table.rows):
        cells = [_markdown_cell(table, index, row, column) for column in table.columns]
        if index in table.marked and table.marked_note:
            cells[0] += " †"
        lines.append("| " + " | ".join(cells) + " |")
    note = f"{table.note} †: {table.marked_note}" if table.marked and table.marked_note else table.note
    lines += ["", escape_markdown(note), "", f"Command: {code_span(command)}"]
    return "\n".join(lines) + "\n"


def _markdown_cell(table: Table, index: int, row: dict[str, Cell], column: Column) -> str:
    value, bracket, interval = escape_markdown(table.shown(row, column)).partition(r" \[")
    return f"**{value}**{bracket}{interval}" if table.is_best(index, column) else f"{value}{bracket}{interval}"


def _markdown_row(cells: list[str]) -> str:
    return "| " + " | ".join(escape_markdown(cell) for cell in cells) + " |"


def escape_markdown(text: str) -> str:
    """Escape what Markdown or HTML in it would read; keep it on one line."""
    return MARKDOWN_SPECIAL.sub(r"\\\1", WHITESPACE.sub(" ", text))


def code_span(text: str) -> str:
    """Wrap text in more backticks than it holds in a row."""
    text = WHITESPACE.sub(" ", text)
    fence = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    return f"{fence}{text}{fence}" if fence == "`" else f"{fence} {text} {fence}"
