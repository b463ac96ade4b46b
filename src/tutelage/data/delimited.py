"""Rows out of CSV and TSV files: which mark separates cells, and whether quotes are form or text, by the whole file.

In: a path, and what the recipe says of it. Out: a ``Table``: the way to read it, said in a note, and its ``Record``s.

Two habits share these endings. Spreadsheets and pandas put quotes around a cell that holds a delimiter, a quote or a
line break, and double the quotes inside. GLUE's files hold one row per line, and a quote is a character of the text.
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tutelage.data.lines import MAX_LINE_BYTES, bare_ending, numbered_lines
from tutelage.data.records import Record, RowRules
from tutelage.errors import DataError

CSV_DELIMITERS = (",", ";", "\t", "|")  # a semicolon is what spreadsheets write where the comma is decimal
COLA = ("source", "label", "mark", "sentence")  # GLUE's CoLA has no header
MAX_HEADER_CELL = 100  # characters; a longer one is a text, not the name of a column
NO_HEADER = "If the file has no header, name its columns: `columns: [text, label]`"


@dataclass(frozen=True)
class Table:
    """How one file is read."""

    path: Path
    delimiter: str
    quoted: bool
    header: tuple[str, ...]
    has_header: bool
    notes: tuple[str, ...] = ()

    def rows(self) -> Iterator[Record]:
        """Yield the rows; one with another number of cells than the header becomes a record with a problem."""
        for number, cells in _cells(self.path, self.delimiter, quoted=self.quoted):
            if self.has_header and number == 1:
                continue
            where = f"{self.path}:{number}"
            if len(cells) == len(self.header):
                yield Record(dict(zip(self.header, cells, strict=True)), where)
            else:
                yield Record({}, where, self._problem(len(cells)))

    def _problem(self, found: int) -> str:
        name = "tab-separated cells" if self.delimiter == "\t" else f"cells between {self.delimiter!r}"
        return (
            f"has {found} {name}, the header has {len(self.header)} ({', '.join(self.header)}). A text with a "
            "delimiter or a line break stands in quotes; or use JSONL for such texts"
        )


@dataclass
class _Survey:
    """What reading a whole file with quotes as form shows."""

    num_cells: set[int] = field(default_factory=set)
    num_quoted: int = 0
    has_quoted_breaks: bool = False  # a cell over several lines
    is_mixed: bool = False  # a quote inside an unquoted cell: no writer of quoted cells leaves one
    columns: dict[int, list[int]] = field(default_factory=dict)  # cells, quoted, quoted without need, by column
    commas: list[int] = field(default_factory=lambda: [0, 0])  # unquoted cells with a comma; cells quoted for it alone

    def add(self, column: int, cell: str, delimiter: str, *, quoted: bool) -> None:
        counts = self.columns.setdefault(column, [0, 0, 0])
        counts[0] += bool(cell)
        if not quoted:
            self.is_mixed |= '"' in cell
            self.commas[0] += "," in cell
            return
        self.num_quoted += 1
        counts[1] += bool(cell)
        self.has_quoted_breaks |= "\n" in cell
        if not (delimiter in cell or '"' in cell or "\n" in cell or "\r" in cell or cell != cell.strip()):
            if "," in cell:
                self.commas[1] += 1  # spreadsheets quote these in TSV files too, and then every one of them
            else:
                counts[2] += 1

    @property
    def is_written_so(self) -> bool:
        """Whether a writer of quoted cells can have written this: it quotes where it must, or a whole column."""
        columns = all(not needless or quoted == cells for cells, quoted, needless in self.columns.values())
        commas = not self.commas[1] or not self.commas[0] or all(q == n for n, q, _ in self.columns.values() if q)
        return columns and commas and not self.is_mixed


def open_table(path: Path, rules: RowRules) -> Table:
    """Decide how a CSV or TSV file is read, by the whole of it.

    Raises:
        DataError: If its first line is no header and the recipe names no columns, or no way of reading it fits.
    """
    if bare_ending(path) == ".csv":
        delimiter, quoted, notes = _csv_form(path, rules)
    else:
        delimiter = "\t"
        quoted, notes = _tsv_form(path, rules)
    first = next(_cells(path, delimiter, quoted=quoted), None)
    if first is None:
        raise DataError(f"{path} holds no rows. Expected a header and at least one row; check how it was written.")
    header, has_header, more = _header(path, first[1], rules, is_tsv=bare_ending(path) != ".csv")
    return Table(path, delimiter, quoted, header, has_header, (*notes, *more))


def _csv_form(path: Path, rules: RowRules) -> tuple[str, bool, tuple[str, ...]]:
    _, line = next(numbered_lines(path), (0, ""))
    found = [mark for mark in CSV_DELIMITERS if mark in line] or [","]
    if rules.quotes == "none":
        return found[0], False, ()
    surveys: dict[str, _Survey] = {}
    errors: list[DataError] = []
    for delimiter in found:
        try:
            surveys[delimiter] = _survey(path, delimiter)
        except DataError as error:
            errors.append(error)
    if surveys:
        best = next((mark for mark, survey in surveys.items() if len(survey.num_cells) == 1), next(iter(surveys)))
        return best, True, _csv_notes(path, best, surveys[best])
    counts = {len(cells) for _, cells in _cells(path, found[0], quoted=False)}
    if len(counts) == 1 and rules.quotes == "auto":
        return found[0], False, (f"{path.name}: quotes are read as characters of the text, since they do not pair up",)
    raise errors[0]


def _csv_notes(path: Path, delimiter: str, survey: _Survey) -> tuple[str, ...]:
    notes = []
    if delimiter != ",":
        notes.append(f"{path.name}: cells are separated by {delimiter!r}")
    if survey.num_quoted:
        notes.append(f"{path.name}: quotes around {survey.num_quoted:,} cells are not part of the text")
    return tuple(notes)


def _tsv_form(path: Path, rules: RowRules) -> tuple[bool, tuple[str, ...]]:
    if rules.quotes != "auto":
        return rules.quotes == "csv", ()
    if not any('"' in line for _, line in numbered_lines(path)):
        return False, ()
    plain = {len(cells) for _, cells in _cells(path, "\t", quoted=False)}
    verbatim = (
        f"{path.name}: quotes are read as characters of the text, as in GLUE's files; `quotes: csv` unquotes cells"
    )
    try:
        survey = _survey(path, "\t")
    except DataError:
        return False, (verbatim,)
    is_quoted = len(survey.num_cells) == 1 and survey.num_quoted > 0
    if len(plain) == 1:  # a cell over several lines would show in the plain reading as lines of another length
        is_quoted = is_quoted and survey.is_written_so and not survey.has_quoted_breaks
    if not is_quoted:
        return False, (verbatim,)
    note = (
        f"{path.name}: quotes around {survey.num_quoted:,} cells are not part of the text, as spreadsheets and pandas"
    )
    return True, (f"{note} write them; `quotes: none` keeps them",)


def _survey(path: Path, delimiter: str) -> _Survey:
    """Read a whole file with quotes as form, the first line aside."""
    survey = _Survey()
    lines: list[str] = []
    for number, cells in _quoted_cells(path, delimiter, lines):
        survey.num_cells.add(len(cells))
        raw, place = "".join(lines), 0
        lines.clear()
        for column, cell in enumerate(cells):
            quoted = raw[place : place + 1] == '"'
            if number > 1:
                survey.add(column, cell, delimiter, quoted=quoted)
            place += len(cell) + 1 + (2 + cell.count('"') if quoted else 0)
    return survey


def _cells(path: Path, delimiter: str, *, quoted: bool) -> Iterator[tuple[int, list[str]]]:
    """Yield (first line's number, cells) of every row that is not blank."""
    if quoted:
        yield from _quoted_cells(path, delimiter, [])
        return
    for number, line in numbered_lines(path):
        if line:
            yield number, line.split(delimiter)


def _quoted_cells(path: Path, delimiter: str, lines: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Read rows with the `csv` module; ``lines`` collects what was read of the file for each of them.

    Raises:
        DataError: If quotes do not pair up; names the line on which the row begins.
    """
    csv.field_size_limit(MAX_LINE_BYTES)

    def feed() -> Iterator[str]:
        for _, line in numbered_lines(path):
            lines.append(f"{line}\n")
            yield lines[-1]

    reader = csv.reader(feed(), delimiter=delimiter, strict=True)
    number = 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(
                f"{path}:{number} has quotes that do not pair up ({error}). A quote inside a quoted cell is written "
                "twice; `quotes: none` reads quotes as characters of the text."
            ) from error
        if cells:
            yield number, cells
        lines.clear()
        number = reader.line_num + 1


def _header(
    path: Path, cells: Sequence[str], rules: RowRules, *, is_tsv: bool
) -> tuple[tuple[str, ...], bool, tuple[str, ...]]:
    """Return the names of the columns, whether the first row holds them, and a note where they were guessed."""
    if any("\r" in cell.strip() for cell in cells):
        raise DataError(f"{path}:1 has carriage returns inside a row. Save the file with line feeds as line ends.")
    names = tuple(cell.strip() for cell in cells)
    if rules.columns is not None:
        if len(rules.columns) != len(cells):
            raise DataError(
                f"{path}:1 has {len(cells)} cells, and `columns` names {len(rules.columns)} "
                f"({', '.join(rules.columns)}). Name every column of the file."
            )
        return rules.columns, names == rules.columns, ()
    if is_tsv and len(cells) == len(COLA) and names[1] in ("0", "1") and names[2] in ("", "*"):
        return COLA, False, (f"{path.name}: read as GLUE's CoLA, without a header: {', '.join(COLA)}",)
    if names and not names[0]:
        names = ("unnamed", *names[1:])  # pandas writes its index into a column without a name
    least = 2 if is_tsv and not names[0].isidentifier() else 1
    counted = tuple(map(str, range(len(names))))  # pandas' names for columns that have none
    is_bad = len(names) < least or len(set(names)) != len(names) or "" in names
    if (
        is_bad
        or any(len(name) > MAX_HEADER_CELL for name in names)
        or (names != counted and any(map(_is_number, names)))
    ):
        raise DataError(
            f"{path}:1 is not a header: {[name[:MAX_HEADER_CELL] for name in names]}. Expected distinct column names, "
            f"such as sentence and label. {NO_HEADER}."
        )
    return names, True, ()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
