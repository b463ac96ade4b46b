"""Rows out of one local file, line by line, with errors that name the line.

In: the path of a GLUE TSV, JSONL, Parquet or official SQuAD file. Out: ``Record``s.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tutelage.data.records import Record
from tutelage.data.squad import read_squad
from tutelage.errors import DataError

MAX_LINE_BYTES = 64 * 2**20  # a line beyond this is no labelled text; read whole it could take all memory


def read_rows(path: Path) -> list[Record]:
    """Read a file whose ending says what it is.

    Raises:
        DataError: If it is missing, empty, of another kind, or has an unreadable row.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"{path} ends in {path.suffix or 'nothing'}. Expected one of {', '.join(READERS)}; convert it first."
        )
    if not path.is_file():
        raise DataError(f"{path} does not exist or is not a file. Check `source` in the recipe and its folder.")
    rows = list(reader(path))
    if not rows:
        raise DataError(f"{path} holds no rows. Expected at least one labelled text; check how it was written.")
    return rows


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number, text) at line feeds only: other separators of Unicode belong to the text."""
    with path.open("rb") as stream:
        number = 0
        while raw := stream.readline(MAX_LINE_BYTES):
            number += 1
            if len(raw) == MAX_LINE_BYTES:
                raise DataError(
                    f"{path}:{number} is longer than {MAX_LINE_BYTES // 2**20} MiB. Is it one row per line?"
                )
            try:
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{path}:{number} is not UTF-8 (byte {error.start} of the line is 0x{raw[error.start]:02x}). "
                    "Save the file as UTF-8."
                ) from error
            yield number, text.removesuffix("\n").removesuffix("\r")


def _read_tsv(path: Path) -> Iterator[Record]:
    """GLUE's own form: a header, then one row per line; quotes are plain characters."""
    header: list[str] = []
    for number, line in _lines(path):
        cells = line.split("\t")
        if number == 1:
            header = _checked_header(path, cells)
        elif not line:
            continue
        elif len(cells) != len(header):
            raise DataError(
                f"{path}:{number} has {len(cells)} tab-separated cells, the header has {len(header)} "
                f"({', '.join(header)}). A text must not hold tabs or line breaks; use JSONL for such texts."
            )
        else:
            yield Record(dict(zip(header, cells, strict=True)), f"{path}:{number}")


def _checked_header(path: Path, cells: list[str]) -> list[str]:
    header = [cell.strip() for cell in cells]
    if len(header) < 2 or len(set(header)) != len(header) or "" in header:
        raise DataError(
            f"{path}:1 is not a header: {header}. Expected distinct column names between tabs, such as "
            "sentence<TAB>label."
        )
    return header


def _read_jsonl(path: Path) -> Iterator[Record]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            values = json.loads(line, object_pairs_hook=_object_without_duplicates)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}:{number} is not valid JSON ({error}). Expected one object per line.") from error
        if not isinstance(values, dict):
            raise DataError(
                f"{path}:{number} holds a {type(values).__name__}. Expected one JSON object per line, such as "
                '{"text": "...", "label": "..."}.'
            )
        yield Record(values, f"{path}:{number}")


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} occurs twice")
    return values


def _read_parquet(path: Path) -> Iterator[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file ({error}). Write it again.") from error
    for index, values in enumerate(table.to_pylist()):
        yield Record(values, f"{path}[row {index}]")


READERS: dict[str, Callable[[Path], Iterator[Record]]] = {
    ".tsv": _read_tsv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
    ".json": read_squad,
}
