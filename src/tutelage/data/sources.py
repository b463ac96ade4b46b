"""Every way in which rows may be given, behind one function for all kinds of task.

In: the recipe's ``source``. Out: a ``Source`` whose rows are read when they are asked for; ``Loaded`` has all of them.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tutelage.data.files import OPENERS, RowFile, bounded, open_file, too_many
from tutelage.data.folders import OFFICIAL_TEST_NAMES, find_files
from tutelage.data.json_rows import json_rows
from tutelage.data.lines import bare_ending
from tutelage.data.parse import raise_problems
from tutelage.data.records import CLUSTER_COLUMN, DEFAULT_RULES, Loaded, Record, RowRules, SourceInfo
from tutelage.data.saved import HUB_ID, hub_tables, is_saved_folder, saved_tables, table_classes, table_source
from tutelage.errors import DataError
from tutelage.samples import find_sample, sample_data
from tutelage.store import file_sha256

__all__ = ["OFFICIAL_TEST_NAMES", "SAMPLE_PREFIX", "TRAIN_NAMES", "Source", "load_records", "open_source"]

SAMPLE_PREFIX = "sample:"
FACTS_SAMPLE = "country-facts"
TRAIN_NAMES = ("train",)
MIN_ABSOLUTE_RATING = 0.5  # on -4 .. 4; closer to neutral than that, 20 raters do not agree on a sign

Rows = Callable[[], Iterator[Record]]


@dataclass(frozen=True)
class Source:
    """An opened source; every call of a split's function reads it from its beginning.

    ``dropped`` counts what the source's own rule leaves out, by split and reason; ``class_names`` holds the names
    behind integer columns, where the source declares them; ``key_prefix`` precedes the ids in item keys.
    """

    info: SourceInfo
    splits: dict[str, Rows]
    class_names: dict[str, list[str]] = field(default_factory=dict)
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)
    key_prefix: str = ""


def open_source(
    source: str,
    *,
    subset: str | None = None,
    data_dir: str | None = None,
    revision: str | None = None,
    streaming: bool = False,
    base_folder: Path = Path(),
    rules: RowRules = DEFAULT_RULES,
) -> Source:
    """Open a source; local files are read row by row in any case.

    Args:
        source: ``sample:NAME``; a CSV, TSV, JSON, JSONL, Parquet or text file, also compressed with gzip or zstd; a
            folder of such files (as on a hub, or GLUE's), or saved by ``datasets``; a hub id.
        subset: The hub's configuration name; also of a local folder that a README describes.
        data_dir: A folder inside a folder, or inside a data set of the hub.
        revision: The hub commit or tag; nothing else has revisions.
        streaming: Read a data set of the hub over the network as far as it is needed, in place of downloading it.
        base_folder: What relative paths are relative to: the recipe's folder.
        rules: How files are read; where bad rows are skipped, they stay as records with a problem.

    Raises:
        DataError: If the source is missing, naming what was expected.
    """
    if source.startswith(SAMPLE_PREFIX):
        return _open_sample(source)
    path = base_folder / Path(source).expanduser()
    if path.is_dir():
        path = path / data_dir if data_dir is not None else path
        return _open_saved(path, source, rules) if is_saved_folder(path) else _open_folder(path, source, subset, rules)
    if path.is_file() or bare_ending(path) in OPENERS:
        return _open_files({"train": [open_file(path, rules)]}, source, rules)
    if not HUB_ID.fullmatch(source):
        raise DataError(
            f"{path} does not exist. Expected sample:NAME, a file ({', '.join(OPENERS)}), a folder or a hub id."
        )
    tables = hub_tables(source, subset=subset, revision=revision, data_dir=data_dir, streaming=streaming)
    return _of_tables(tables, table_source(tables, source=source, revision=revision, hashes=None), rules)


def load_records(
    source: str,
    *,
    split: str | None = None,
    subset: str | None = None,
    revision: str | None = None,
    base_folder: Path = Path(),
    rules: RowRules = DEFAULT_RULES,
) -> Loaded:
    """Read every split of a source, or only ``split``.

    Args:
        source: See :func:`open_source`, as for the other arguments.
        split: Keep this split only.
        subset: The hub's configuration name, such as ``sst2`` of ``glue``.
        revision: The hub commit or tag.
        base_folder: What relative paths are relative to.
        rules: How files are read; where bad rows are skipped, they stay as records with a problem.

    Raises:
        DataError: If the source is missing, empty or unreadable, or has no such split.
    """
    opened = open_source(source, subset=subset, revision=revision, base_folder=base_folder, rules=rules)
    if split is not None and split not in opened.splits:
        raise DataError(f"{source} has no split {split!r}. It has: {', '.join(opened.splits)}.")
    names = list(opened.splits) if split is None else [split]
    splits = {name: list(opened.splits[name]()) for name in names}
    if not rules.skip_bad:
        records = [record for rows in splits.values() for record in rows]
        raise_problems([f"{each.where} {each.problem}." for each in records if each.problem is not None])
    if not any(splits.values()):
        raise DataError(f"{source} holds no rows: it is empty, or has a header alone. Check how it was written.")
    dropped = {name: opened.dropped.get(name, {}) for name in names}
    rows_read = {name: len(rows) + sum(dropped[name].values()) for name, rows in splits.items()}
    return Loaded(splits, opened.info, rows_read, dropped, opened.class_names, opened.key_prefix)


def _open_saved(folder: Path, source: str, rules: RowRules) -> Source:
    tables, hashes = saved_tables(folder)
    return _of_tables(tables, table_source(tables, source=source, revision=None, hashes=hashes), rules)


def _of_tables(tables: dict[str, Any], info: SourceInfo, rules: RowRules) -> Source:
    for name, table in tables.items():
        num_rows = len(table) if hasattr(table, "__len__") else 0
        if num_rows > rules.max_rows:
            raise DataError(too_many(f"{info.source}:{name}", f"{num_rows:,}", rules.max_rows))
    splits = {name: partial(_table_rows, table, info.source, name, rules) for name, table in tables.items()}
    return Source(info, splits, table_classes(tables))


def _table_rows(table: Iterable[dict[str, Any]], source: str, name: str, rules: RowRules) -> Iterator[Record]:
    rows = (Record(dict(values), f"{source}:{name}[{index}]") for index, values in enumerate(table))
    return bounded(rows, name=f"{source}:{name}", max_rows=rules.max_rows)


def _open_folder(folder: Path, source: str, subset: str | None, rules: RowRules) -> Source:
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder. Check `source` and `data_dir`.")
    found = find_files(folder, subset=subset)
    files = {split: [open_file(path, rules) for path in paths] for split, paths in found.splits.items()}
    return _open_files(files, source, rules, notes=found.notes, class_names=found.class_names, folder=folder)


def _open_files(
    files: dict[str, list[RowFile]],
    source: str,
    rules: RowRules,
    *,
    notes: Iterable[str] = (),
    class_names: dict[str, list[str]] | None = None,
    folder: Path | None = None,
) -> Source:
    every = [file for opened in files.values() for file in opened]
    hashes = {
        file.path.name if folder is None else file.path.relative_to(folder).as_posix(): file_sha256(file.path)
        for file in every
    }
    notes = tuple(dict.fromkeys([*notes, *(note for file in every for note in file.notes)]))
    names = _agreed_names([class_names or {}, *(file.class_names for file in every)], source)
    splits = {name: partial(_file_rows, opened, rules) for name, opened in files.items()}
    return Source(SourceInfo(source, None, None, hashes, notes), splits, names)


def _agreed_names(declared: Iterable[dict[str, list[str]]], source: str) -> dict[str, list[str]]:
    """Join the class names that a source declares in several places."""
    names: dict[str, list[str]] = {}
    for column, found in ((column, found) for each in declared for column, found in each.items()):
        if names.setdefault(column, found) != found:
            raise DataError(
                f"{source} declares the classes of {column!r} twice, {', '.join(names[column])}; {', '.join(found)}. "
                "Correct one of the files."
            )
    return names


def _file_rows(files: list[RowFile], rules: RowRules) -> Iterator[Record]:
    rows = (record for file in files for record in file.rows())
    return bounded(rows, name=str(files[0].path), max_rows=rules.max_rows)


def _open_sample(source: str) -> Source:
    name = source.removeprefix(SAMPLE_PREFIX)
    spec = find_sample(name, kind="data")
    path = sample_data(name)
    kept, dropped = (_read_questions if name == FACTS_SAMPLE else _read_ratings)(path, name)
    info = SourceInfo(source, f"{spec.package}=={spec.version}", spec.licence, {spec.filename: spec.sha256})
    return Source(info, {"train": partial(iter, kept)}, dropped={"train": dropped}, key_prefix=f"{name}:")


def _read_ratings(path: Path, name: str) -> tuple[list[Record], dict[str, int]]:
    """Read rated sentences, leaving out those that are close to neutral."""
    rows, kept = 0, []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line:
            continue
        rows += 1
        identifier, rating, text = line.removesuffix("\r").split("\t")
        if abs(float(rating)) < MIN_ABSOLUTE_RATING:
            continue
        label = "positive" if float(rating) > 0 else "negative"
        values = {"id": identifier, "text": text.strip(), "label": label, "rating": float(rating)}
        kept.append(Record(values, f"{name}:{number}"))
    return kept, {"weak_rating": rows - len(kept)}


def _read_questions(path: Path, name: str) -> tuple[list[Record], dict[str, int]]:
    """Read questions about countries; those about one country belong together, whatever paragraph they are from."""
    kept = [
        Record({**record.values, CLUSTER_COLUMN: record.values["title"]}, f"{name}:{record.values['id']}")
        for record in json_rows(path)
    ]
    return kept, {}
