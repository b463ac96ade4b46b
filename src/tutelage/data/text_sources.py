"""Sources of texts, opened and not yet read: rows come one by one, so that a stream may end early.

In: the recipe's ``source``. Out: a ``TextSource``: where it comes from, and an iterator of records per split.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tutelage.data.files import READERS
from tutelage.data.records import Record, SourceInfo
from tutelage.data.saved import HUB_ID, hub_tables, is_saved_folder, saved_tables, table_source
from tutelage.data.sources import OFFICIAL_TEST_NAMES, SAMPLE_PREFIX, TRAIN_NAMES, load_records
from tutelage.errors import DataError
from tutelage.store import file_sha256

Rows = Callable[[], Iterator[Record]]
SPLIT_NAMES = (*TRAIN_NAMES, *OFFICIAL_TEST_NAMES)
PARQUET_BATCH = 1024  # rows in memory at a time


@dataclass(frozen=True)
class TextSource:
    """An opened source; every call of a split's function reads it from its beginning."""

    info: SourceInfo
    splits: dict[str, Rows]


def open_texts(
    source: str,
    *,
    subset: str | None = None,
    data_dir: str | None = None,
    revision: str | None = None,
    streaming: bool = False,
    base_folder: Path = Path(),
) -> TextSource:
    """Open a source; local files are read row by row in any case.

    Args:
        source: ``sample:NAME``; a ``.jsonl``, ``.parquet``, ``.tsv`` or ``.json`` (a list of objects) file; a folder of
            such files, or saved by ``datasets``; a hub id.
        subset: The hub's configuration name.
        data_dir: A folder inside a folder, or inside a data set of the hub.
        revision: The hub commit or tag.
        streaming: Read a data set of the hub over the network as far as it is needed, in place of downloading it.
        base_folder: What relative paths are relative to.

    Raises:
        DataError: If the source is missing, naming what was expected.
    """
    if source.startswith(SAMPLE_PREFIX):
        loaded = load_records(source)
        return TextSource(loaded.info, {name: partial(iter, records) for name, records in loaded.splits.items()})
    path = base_folder / Path(source).expanduser()
    if path.is_dir():
        path = path / data_dir if data_dir is not None else path
        return _open_saved(path, source) if is_saved_folder(path) else _open_folder(path, source)
    if path.is_file() or path.suffix.lower() in TEXT_READERS:
        return _open_files({"train": [path]}, source, notes=())
    if not HUB_ID.fullmatch(source):
        endings = ", ".join(TEXT_READERS)
        raise DataError(f"{path} does not exist. Expected sample:NAME, a file ({endings}), a folder or a hub id.")
    tables = hub_tables(source, subset=subset, revision=revision, data_dir=data_dir, streaming=streaming)
    return _of_tables(tables, table_source(tables, source=source, revision=revision, hashes=None))


def _open_saved(folder: Path, source: str) -> TextSource:
    tables, hashes = saved_tables(folder)
    return _of_tables(tables, table_source(tables, source=source, revision=None, hashes=hashes))


def _of_tables(tables: dict[str, Any], info: SourceInfo) -> TextSource:
    return TextSource(info, {name: partial(_table_rows, table, info.source, name) for name, table in tables.items()})


def _table_rows(table: Iterable[dict[str, Any]], source: str, name: str) -> Iterator[Record]:
    for index, values in enumerate(table):
        yield Record(dict(values), f"{source}:{name}[{index}]")


def _open_folder(folder: Path, source: str) -> TextSource:
    """Open a folder of shards; a name that begins with a split's name (``validation-00000.jsonl``) belongs to it."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder. Check `source` and `data_dir`.")
    files: dict[str, list[Path]] = {}
    passed_over = []
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix.lower() in TEXT_READERS:
            files.setdefault(_split_of(path), []).append(path)
        elif path.is_file() and not path.name.startswith("."):
            passed_over.append(path.name)
    if not files:
        raise DataError(
            f"{folder} holds no file that ends in {', '.join(TEXT_READERS)}, and was not saved by `datasets`. Put the "
            "shards right into it, or name one file."
        )
    notes = (f"files of other kinds were passed over: {', '.join(passed_over)}",) if passed_over else ()
    return _open_files(files, source, notes=notes)


def _split_of(path: Path) -> str:
    stem = path.stem.lower()
    named = [name for name in SPLIT_NAMES if stem == name or stem.startswith((f"{name}-", f"{name}_", f"{name}."))]
    return named[0] if named else "train"


def _open_files(files: dict[str, list[Path]], source: str, *, notes: tuple[str, ...]) -> TextSource:
    hashes = {}
    for path in [path for paths in files.values() for path in paths]:
        if path.suffix.lower() not in TEXT_READERS:
            found = path.suffix or "nothing"
            raise DataError(f"{path} ends in {found}. Expected one of {', '.join(TEXT_READERS)}; convert it first.")
        if not path.is_file():
            raise DataError(f"{path} does not exist or is not a file. Check `source` in the recipe and its folder.")
        hashes[path.name] = file_sha256(path)
    splits = {name: partial(_file_rows, paths) for name, paths in files.items()}
    return TextSource(SourceInfo(source, None, None, hashes, notes), splits)


def _file_rows(paths: list[Path]) -> Iterator[Record]:
    for path in paths:
        yield from TEXT_READERS[path.suffix.lower()](path)


def _parquet_rows(path: Path) -> Iterator[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=PARQUET_BATCH):
                for values in batch.to_pylist():
                    yield Record(values, f"{path}[row {number}]")
                    number += 1
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file ({error}). Write it again.") from error


def _json_rows(path: Path) -> Iterator[Record]:
    """Read one JSON list of objects, the form in which Alpaca and ShareGPT were first published."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON ({error}). Expected a list of objects; or use JSONL.") from error
    if not isinstance(content, list):
        raise DataError(f"{path} holds a {type(content).__name__}. Expected a list of objects, one per row.")
    for index, values in enumerate(content):
        if not isinstance(values, dict):
            raise DataError(f"{path}[{index}] is a {type(values).__name__}. Expected an object with columns.")
        yield Record(values, f"{path}[{index}]")


TEXT_READERS: dict[str, Callable[[Path], Iterator[Record]]] = {
    ".jsonl": READERS[".jsonl"],
    ".parquet": _parquet_rows,
    ".tsv": READERS[".tsv"],
    ".json": _json_rows,
}
