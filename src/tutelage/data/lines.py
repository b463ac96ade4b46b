"""Bytes and lines of one file, compressed or not, with errors that name the line.

In: a path. Out: a stream of bytes, the whole content, or numbered lines of text.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from tutelage.errors import DataError

MAX_LINE_BYTES = 64 * 2**20  # a line beyond this is no labelled text; read whole it could take all memory
MAX_WHOLE_BYTES = 2 * 2**30  # of a file that is parsed in one piece; beyond it the rows belong into JSONL
COMPRESSED_ENDINGS = (".gz", ".zst")
COMPRESSIONS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}  # by the first bytes, whatever the name says
WIDE_MARKS = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
REENCODE = (
    "Save it as UTF-8 (in a spreadsheet: `CSV UTF-8`), or convert it: iconv -f {encoding} -t UTF-8 {name} > new-{name}"
)


def bare_ending(path: Path) -> str:
    """Return the ending that says what is inside: ``.jsonl`` of ``rows.jsonl.gz``."""
    name = path.name.lower()
    for ending in COMPRESSED_ENDINGS:
        name = name.removesuffix(ending)
    return Path(name).suffix


def bare_stem(path: Path) -> str:
    """Return the name without its endings: ``rows`` of ``rows.jsonl.gz``."""
    name = path.name
    for ending in COMPRESSED_ENDINGS:
        name = name[: -len(ending)] if name.lower().endswith(ending) else name
    return Path(name).stem


@contextmanager
def open_bytes(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading; gzip and zstd are decompressed on the way.

    Raises:
        DataError: If the file is missing, or cannot be read or decompressed to its end.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist or is not a file. Check `source` in the recipe and its folder.")
    import pyarrow as pa

    try:
        with path.open("rb") as stream:
            start = stream.read(4)
            stream.seek(0)
            compression = next((kind for mark, kind in COMPRESSIONS.items() if start.startswith(mark)), None)
            if compression is None:
                yield stream
            else:
                yield cast(BinaryIO, io.BufferedReader(pa.input_stream(stream, compression=compression)))
    except (pa.ArrowException, OSError) as error:
        cause = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DataError(f"{path} cannot be read ({cause}). Check its permissions, or fetch it again.") from error


def whole_bytes(path: Path) -> bytes:
    """Return what is in a file that can only be parsed in one piece.

    Raises:
        DataError: As :func:`open_bytes`; if it is larger than ``MAX_WHOLE_BYTES``.
    """
    with open_bytes(path) as stream:
        content = stream.read(MAX_WHOLE_BYTES + 1)
    if len(content) > MAX_WHOLE_BYTES:
        raise DataError(f"{path} is larger than {MAX_WHOLE_BYTES // 2**30} GiB. Write its rows as JSONL, one per line.")
    refuse_wide(path, content[:4])
    return content


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number, text) at line feeds only: other separators of Unicode belong to the text.

    Raises:
        DataError: As :func:`open_bytes`; if a line is no UTF-8 or endless.
    """
    with open_bytes(path) as stream:
        number = 0
        while raw := stream.readline(MAX_LINE_BYTES):
            number += 1
            if number == 1:
                refuse_wide(path, raw[:4])
            if len(raw) == MAX_LINE_BYTES:
                raise DataError(
                    f"{path}:{number} is longer than {MAX_LINE_BYTES // 2**20} MiB. Is it one row per line?"
                )
            try:
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                advice = REENCODE.format(encoding="WINDOWS-1252", name=path.name)
                raise DataError(
                    f"{path}:{number} is not UTF-8 (byte {error.start} of the line is 0x{raw[error.start]:02x}; older "
                    f"files are often Windows-1252). {advice}"
                ) from error
            yield number, text.removesuffix("\n").removesuffix("\r")


def refuse_wide(path: Path, start: bytes) -> None:
    """Refuse a file whose first bytes show one of the wide encodings.

    Raises:
        DataError: With the encoding's name and the remedy.
    """
    encoding = next((name for mark, name in WIDE_MARKS.items() if start.startswith(mark)), None)
    if encoding is None and len(start) == 4 and b"\x00" in start:  # without a mark: every second byte is zero
        encoding = "UTF-16LE" if start[1:2] == b"\x00" else "UTF-16BE"
    if encoding is not None:
        raise DataError(f"{path} is {encoding}, not UTF-8. {REENCODE.format(encoding=encoding, name=path.name)}")
