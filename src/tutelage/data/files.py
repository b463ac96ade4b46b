"""Rows out of one local file: the ending says what it is, and it may be compressed with gzip or zstd.

In: a path, and how the recipe says to read it. Out: a ``RowFile``, whose rows are read when they are asked for.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path

from tutelage.data.delimited import Table, open_table
from tutelage.data.json_rows import json_rows, jsonl_rows
from tutelage.data.lines import COMPRESSED_ENDINGS, bare_ending, numbered_lines
from tutelage.data.parquet_rows import parquet_facts, parquet_rows
from tutelage.data.records import Record, RowRules
from tutelage.errors import DataError

PROGRESS_ROWS = 500_000  # some seconds
SPREADSHEETS = (".xlsx", ".xls", ".ods")


@dataclass(frozen=True)
class RowFile:
    """One opened file."""

    path: Path
    rows: Callable[[], Iterator[Record]]
    notes: tuple[str, ...] = ()
    class_names: dict[str, list[str]] = field(default_factory=dict)


def open_file(path: Path, rules: RowRules) -> RowFile:
    """Open a file whose ending says what it is.

    Raises:
        DataError: If it is missing, of another kind, too large, or not what its ending says.
    """
    opener = OPENERS.get(bare_ending(path))
    if opener is None:
        advice = "save it as CSV" if path.suffix.lower() in SPREADSHEETS else "convert it first"
        raise DataError(
            f"{path} ends in {path.suffix or 'nothing'}. Expected one of {', '.join(OPENERS)}, also with "
            f"{' or '.join(COMPRESSED_ENDINGS)} behind; {advice}."
        )
    if not path.is_file():
        raise DataError(f"{path} does not exist or is not a file. Check `source` in the recipe and its folder.")
    return opener(path, rules)


def bounded(rows: Iterable[Record], *, name: str, max_rows: int) -> Iterator[Record]:
    """Yield rows, say now and then on standard error how many, and refuse to go on beyond ``max_rows``.

    Raises:
        DataError: If there are more.
    """
    for number, record in enumerate(rows, start=1):
        if number > max_rows:
            raise DataError(too_many(name, f"more than {max_rows:,}", max_rows))
        if number % PROGRESS_ROWS == 0:
            print(f"  {name}: {number:,} rows read", file=sys.stderr)  # noqa: T201
        yield record


def too_many(name: str, found: str, max_rows: int) -> str:
    """Say that a source has too many rows to be read as a whole."""
    return (
        f"{name} has {found} rows. At most {max_rows:,} are read, since all are held in memory; give fewer, or raise "
        "`max_rows`."
    )


def _open_parquet(path: Path, rules: RowRules) -> RowFile:
    num_rows, class_names = parquet_facts(path)
    if num_rows > rules.max_rows:
        raise DataError(too_many(str(path), f"{num_rows:,}", rules.max_rows))
    return RowFile(path, partial(parquet_rows, path), class_names=class_names)


def _open_table(path: Path, rules: RowRules) -> RowFile:
    table = open_table(path, rules)
    return RowFile(path, table.rows, table.notes)


def _open_text(path: Path, rules: RowRules) -> RowFile:
    """Open a `.txt` file: a table where every line has the same tabs, else texts between blank lines, else lines."""
    tabs, has_blank_lines = set(), False
    for _, line in numbered_lines(path):
        if line.strip():
            tabs.add(line.count("\t"))
        else:
            has_blank_lines = True
    if tabs and min(tabs) > 0 and (len(tabs) == 1 or rules.columns is not None):
        return _open_table(path, rules)
    rule = "a text is what stands between blank lines" if has_blank_lines else "every line is a text"
    rows = partial(_paragraphs, path) if has_blank_lines else partial(_text_lines, path)
    return RowFile(path, rows, (f"{path.name}: {rule}",))


def _text_lines(path: Path) -> Iterator[Record]:
    for number, line in numbered_lines(path):
        if line.strip():
            yield Record({"text": line}, f"{path}:{number}")


def _paragraphs(path: Path) -> Iterator[Record]:
    first, lines = 0, []
    for number, line in chain(numbered_lines(path), [(0, "")]):
        if line.strip():
            first = first if lines else number
            lines.append(line)
        elif lines:
            yield Record({"text": "\n".join(lines)}, f"{path}:{first}")
            lines = []


def _plainly(rows: Callable[[Path], Iterator[Record]]) -> Callable[[Path, RowRules], RowFile]:
    return lambda path, rules: RowFile(path, partial(rows, path))


OPENERS: dict[str, Callable[[Path, RowRules], RowFile]] = {
    ".tsv": _open_table,
    ".csv": _open_table,
    ".jsonl": _plainly(jsonl_rows),
    ".ndjson": _plainly(jsonl_rows),
    ".json": _plainly(json_rows),
    ".parquet": _open_parquet,
    ".txt": _open_text,
}
__all__ = ["OPENERS", "RowFile", "Table", "bounded", "open_file", "too_many"]
