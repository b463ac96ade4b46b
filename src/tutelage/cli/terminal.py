"""What reaches the terminal: lines and tables without control characters.

In: text that may come from a user's file. Out: plain lines; on a terminal, tables with borders.
"""

import sys
import textwrap
from collections.abc import Collection, Sequence
from typing import Any

from tutelage.store.secrets import without_tokens

# C0 and C1 controls but newline and tab, and the marks that reorder text (Unicode TR 9).
_DROPPED = [*range(0x09), *range(0x0B, 0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
RICH_PADDING = 3  # of a column, as rich draws it
CONTROLS = dict.fromkeys(_DROPPED)


def printable(text: object) -> str:
    """Drop control characters and access tokens: text from a file must not move the cursor or hide other text."""
    return without_tokens(str(text).translate(CONTROLS))


def say(text: object = "", *, to_errors: bool = False) -> None:
    """Print one line or several, at once visible; ``to_errors`` means standard error."""
    stream = sys.stderr if to_errors else sys.stdout
    encoding = stream.encoding or "utf-8"
    stream.write(printable(text).encode(encoding, "replace").decode(encoding) + "\n")
    stream.flush()


def warn(text: object) -> None:
    """Print a warning to standard error."""
    say(f"warning: {text}", to_errors=True)


def paragraph(text: object) -> None:
    """Print a line that a terminal breaks between words; elsewhere it stays one line."""
    if not sys.stdout.isatty() or hasattr(sys.stdout, "rich_proxied_file"):  # a live display breaks lines itself
        say(text)
        return
    from rich.console import Console
    from rich.text import Text

    Console().print(Text(printable(text)))


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, numbers: Collection[str] = ()) -> None:
    """Print a table without its empty columns: with rich on a terminal, as aligned plain lines elsewhere.

    No word is ever broken: where the longest words of all columns do not fit side by side on a terminal, each row
    becomes a line of its own that goes on below. ``numbers`` end flush right.
    """
    cells = [[printable(cell).replace("\n", " ") for cell in row] for row in rows]
    kept = [number for number in range(len(columns)) if not rows or any(row[number] for row in cells)]
    columns, cells = [columns[number] for number in kept], [[row[number] for number in kept] for row in cells]
    if sys.stdout.isatty():
        _rich_table(columns, cells, numbers)
        return
    widths = [max(len(row[i]) for row in [list(columns), *cells]) for i in range(len(columns))]
    for row in [list(columns), *cells]:
        laid = zip(row, widths, columns, strict=True)
        say("  ".join(f"{cell:{'>' if name in numbers else '<'}{width}}" for cell, width, name in laid).rstrip())


def _rich_table(columns: Sequence[str], cells: Sequence[Sequence[str]], numbers: Collection[str]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    longest = [
        max(max(map(len, text.split()), default=0) for text in (name, *(row[number] for row in cells)))
        for number, name in enumerate(columns)
    ]
    if sum(longest) + RICH_PADDING * len(columns) > console.width:
        _rows_as_paragraphs(columns, cells, console.width)
        return
    shown = Table(box=box.SIMPLE_HEAD)
    for column, least in zip(columns, longest, strict=True):
        justify = "right" if column in numbers else "left"
        shown.add_column(column, overflow="fold", justify=justify, min_width=least)
    for row in cells:
        shown.add_row(*(Text(cell) for cell in row))
    console.print(shown)


def _rows_as_paragraphs(columns: Sequence[str], cells: Sequence[Sequence[str]], width: int) -> None:
    for row in [columns, *cells]:
        text = "  ".join(cell for cell in row if cell)
        say(textwrap.fill(text, width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False))
