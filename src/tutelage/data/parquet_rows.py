"""Rows out of a Parquet file, batch by batch, and the class names that its schema declares.

In: a path. Out: ``Record``s; names by column.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tutelage.data.records import Record
from tutelage.errors import DataError

BATCH_ROWS = 1024  # in memory at a time
SCHEMA_KEY = b"huggingface"  # where `datasets` keeps its features


def parquet_rows(path: Path) -> Iterator[Record]:
    """Yield the rows of a file."""
    number = 0
    with _opened(path) as file:
        for batch in file.iter_batches(batch_size=BATCH_ROWS):
            for values in batch.to_pylist():
                yield Record(values, f"{path}[row {number}]")
                number += 1


def parquet_facts(path: Path) -> tuple[int, dict[str, list[str]]]:
    """Return the number of rows, without reading one, and the class names of integer columns.

    Raises:
        DataError: If it is no Parquet file.
    """
    with _opened(path) as file:
        metadata = file.schema_arrow.metadata or {}
        num_rows = file.metadata.num_rows
    try:
        features = json.loads(metadata.get(SCHEMA_KEY, b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return num_rows, {}
    return num_rows, feature_names(features)


def feature_names(features: Any) -> dict[str, list[str]]:
    """Return the class names in features as ``datasets`` writes them: as a mapping, or as the list in a README."""
    if isinstance(features, list):  # - name: label / dtype: {class_label: {names: {'0': neg}}}
        features = {each.get("name"): each.get("dtype") for each in features if isinstance(each, dict)}
    found = {}
    for column, feature in features.items() if isinstance(features, dict) else ():
        feature = feature.get("class_label", feature) if isinstance(feature, dict) else None
        names = feature.get("names") if isinstance(feature, dict) else None
        if isinstance(names, dict) and all(str(key).isdecimal() for key in names):
            names = [names[key] for key in sorted(names, key=lambda key: int(str(key)))]
        if isinstance(names, list) and names:
            found[str(column)] = [str(name) for name in names]
    return found


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file ({error}). Write it again.") from error
