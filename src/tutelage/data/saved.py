"""Rows out of the ``datasets`` library: a folder saved by it, or a data set on the hub.

In: a folder, or a hub id with subset and revision. Out: tables by split, and where they come from.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tutelage.data.folders import require_inside
from tutelage.data.records import SourceInfo
from tutelage.errors import DataError
from tutelage.store import file_sha256

SAVED_MARKERS = ("dataset_dict.json", "state.json")
COMMIT = re.compile(r"@([0-9a-f]{40})/")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def is_saved_folder(folder: Path) -> bool:
    """Return whether ``datasets.save_to_disk`` wrote this folder."""
    return any((folder / marker).is_file() for marker in SAVED_MARKERS)


def saved_tables(folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Open a saved folder: its tables by split, memory-mapped, and the hashes of its files.

    Raises:
        DataError: If ``datasets`` cannot read it, or it names a file outside of itself.
    """
    import datasets
    import pyarrow as pa

    files = list(_named_files(folder))
    try:
        found = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException) as error:
        raise DataError(f"{folder} is not readable as a saved data set ({error}). Save it again.") from error
    return _by_split(found), {path.relative_to(folder).as_posix(): file_sha256(path) for path in files}


def _named_files(folder: Path) -> Iterator[Path]:
    """Yield the Arrow files that a saved folder is made of, each inside of it.

    Raises:
        DataError: If one is missing or elsewhere, or the folder's own description is damaged.
    """
    whole = folder / "dataset_dict.json"
    try:
        splits = [str(name) for name in json.loads(whole.read_bytes())["splits"]] if whole.is_file() else ["."]
        for split in splits:
            state = folder / split / "state.json"
            require_inside(folder, state)
            for each in json.loads(state.read_bytes())["_data_files"]:
                path = folder / split / each["filename"]
                require_inside(folder, path)
                yield path
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{folder} is not readable as a saved data set ({error!r}). Save it again.") from error


def hub_tables(
    source: str, *, subset: str | None, revision: str | None, data_dir: str | None = None, streaming: bool = False
) -> dict[str, Any]:
    """Open a data set of the hub: its tables by split, downloaded whole or, ``streaming``, as far as they are read.

    Raises:
        DataError: If the hub cannot be reached, or has no such data set, subset or revision.
    """
    import datasets

    options: dict[str, Any] = {} if data_dir is None else {"data_dir": data_dir}
    if streaming:
        options["streaming"] = True
    try:
        found = datasets.load_dataset(source, name=subset, revision=revision, **options)
    except (OSError, ValueError, RuntimeError, KeyError) as error:  # DatasetNotFoundError is an OSError
        name = f"{source} ({subset})" if subset else source
        cause = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(
            f"The data set {name} could not be loaded: {cause} It is no local file or folder either. Check its name, "
            "`subset`, `revision`, the network and HF_TOKEN, or save it elsewhere with datasets.save_to_disk and give "
            "that folder."
        ) from error
    return _by_split(found)


def table_source(
    tables: dict[str, Any], *, source: str, revision: str | None, hashes: dict[str, str] | None
) -> SourceInfo:
    """Describe opened tables: the commit that the hub delivered, the licence, and hashes or fingerprints."""
    first = next(iter(tables.values()))
    commit = _resolved_commit(first)
    notes = ()
    if hashes is None:
        hashes = {name: str(getattr(table, "_fingerprint", "streamed")) for name, table in tables.items()}
        if revision is None:
            notes = (f"no revision was pinned; the hub delivered {commit or 'an unknown commit'}",)
    return SourceInfo(source, commit or revision, first.info.license or None, hashes, notes)


def _by_split(found: Any) -> dict[str, Any]:
    return dict(found) if isinstance(found, dict) else {str(found.split or "train"): found}


def table_classes(tables: dict[str, Any]) -> dict[str, list[str]]:
    """Return the class names that opened tables declare, by column."""
    features = next(iter(tables.values())).features or {}
    return {column: list(feature.names) for column, feature in features.items() if hasattr(feature, "names")}


def _resolved_commit(table: Any) -> str | None:
    """Find the commit in the download records: ``hf://datasets/NAME@COMMIT/FILE``."""
    for name in table.info.download_checksums or {}:
        match = COMMIT.search(str(name))
        if match:
            return match.group(1)
    return None
