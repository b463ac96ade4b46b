"""Write a table as LaTeX that fits the line it is set on.

In: a :class:`Table`. Out: a ``table`` environment; it needs the packages ``booktabs`` and ``graphicx``.
"""

import re
import textwrap

from tutelage.report import numerals
from tutelage.report.table_formats import WHITESPACE
from tutelage.report.tables import Column, Table

SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}
MINUS = re.compile(r"-(?=\d)")
NOT_IN_LABELS = re.compile(r"[^A-Za-z0-9.:_-]+")
LEAST_HEADING = 10  # characters; a narrower heading is not wrapped further


def to_latex(table: Table, *, command: str) -> str:
    r"""Write a booktabs table with its caption above.

    Headings are wrapped to the width of what stands below them. A table that is wider than the line
    all the same is scaled down to ``\linewidth``, never up.

    Args:
        table: What to write.
        command: Stands in a comment on the first line.
    """
    shown = [[table.shown(row, column) for column in table.columns] for row in table.rows]
    widths = [max(map(len, cells)) for cells in zip(*shown, strict=True)] or [0] * len(table.columns)
    headings = [heading(column, width) for column, width in zip(table.columns, widths, strict=True)]
    lines = [
        "% " + WHITESPACE.sub(" ", command),
        r"\begin{table}",
        r"  \centering",
        r"  \setlength{\belowcaptionskip}{6pt}",
        r"  \setlength{\tabcolsep}{4pt}",
        rf"  \caption{{{escape(_title(table))}. {escape(_note(table))}}}",
        rf"  \label{{tab:{NOT_IN_LABELS.sub('-', '-'.join(filter(None, (table.name, table.place))))}}}",
        r"  \resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"  \begin{{tabular}}{{{''.join(side(column) for column in table.columns)}}}",
        r"    \toprule",
        "    " + " & ".join(headings) + r" \\",
        r"    \midrule",
    ]
    for index, row in enumerate(shown):
        cells = [
            _bold(cell(text, column)) if table.is_best(index, column) else cell(text, column)
            for text, column in zip(row, table.columns, strict=True)
        ]
        if index in table.marked and table.marked_note:
            cells[0] += r"\textsuperscript{\textdagger}"
        lines.append("    " + " & ".join(cells) + r" \\")
    lines += [r"    \bottomrule", r"  \end{tabular}}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def _title(table: Table) -> str:
    return f"{table.title}, {table.place}" if table.place else table.title


def _note(table: Table) -> str:
    return f"{table.note} Dagger: {table.marked_note}" if table.marked and table.marked_note else table.note


def _bold(text: str) -> str:
    """Set the value in bold, its interval as it is."""
    value, bracket, interval = text.partition(" [")
    return rf"\textbf{{{value}}}{bracket}{interval}"


def side(column: Column) -> str:
    """Return ``r`` for numbers and ``l`` for text."""
    return "r" if column.numeric else "l"


def heading(column: Column, width: int) -> str:
    """Return a column's title, on several lines where it is longer than ``width`` characters."""
    title = column.title.replace(" %", "\N{NO-BREAK SPACE}%")  # no line of its own for a unit
    lines = textwrap.wrap(title, max(width, LEAST_HEADING), break_long_words=False, break_on_hyphens=False)
    text = r"\\".join(escape(line) for line in lines)
    return text if len(lines) < 2 else rf"\begin{{tabular}}[b]{{@{{}}{side(column)}@{{}}}}{text}\end{{tabular}}"


def cell(text: str, column: Column) -> str:
    """Return a cell; numbers have a minus sign instead of a hyphen, what is missing a dash."""
    if text == numerals.MISSING:
        return "--"
    return MINUS.sub("$-$", escape(text)) if column.numeric else escape(text)


def escape(text: str) -> str:
    """Escape every character that LaTeX reads as a command; keep it on one line."""
    return "".join(SPECIAL.get(character, character) for character in WHITESPACE.sub(" ", text))
