"""One record per evaluated item, and the file that holds them.

In: arrays over the items of one evaluation. Out: ``items.parquet``, the only contract between
evaluation and statistics: same items, same bytes.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tutelage.errors import DataError, IntegrityError
from tutelage.store import write_file

ITEMS_FILE = "items.parquet"
FORMAT_VERSION = 1
METADATA_KEY = b"tutelage"
LOGPROB_PREFIX = "logprob_"
COLUMNS = {
    "item_key": pa.string(),
    "cluster_key": pa.string(),
    "gold": pa.int64(),
    "prediction": pa.int64(),
    "score": pa.float64(),
    "confidence": pa.float64(),
    "valid": pa.bool_(),
}


@dataclass(frozen=True, eq=False)
class Items:
    """The outcome of one model on B items, in the order of the evaluation set."""

    labels: tuple[str, ...]
    item_keys: tuple[str, ...]
    cluster_keys: tuple[str, ...]  # statistics resample clusters, not items
    gold_B: np.ndarray  # int64, index into ``labels``
    prediction_B: np.ndarray  # int64, index into ``labels``
    score_B: np.ndarray  # float64: 1.0 right, 0.0 wrong
    confidence_B: np.ndarray  # float64 in (0, 1]: softmax over the choices, at the prediction
    valid_B: np.ndarray  # bool: the model itself would have begun one of the labels
    logprobs_BC: np.ndarray | None = None  # float64, nats
    texts: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        sizes = {
            field.name: len(value) for field in fields(self)[1:] if (value := getattr(self, field.name)) is not None
        }
        if len(set(sizes.values())) != 1:
            raise DataError(f"The parts of one evaluation differ in length: {sizes}. Give each one entry per item.")

    def __len__(self) -> int:
        return len(self.item_keys)


def write_items(path: Path, items: Items) -> None:
    """Write the items as Parquet, atomically; equal items give equal bytes.

    Raises:
        DiskError: If the disk is full; an old file stays.
    """
    columns: dict[str, pa.Array] = {
        "item_key": pa.array(items.item_keys, COLUMNS["item_key"]),
        "cluster_key": pa.array(items.cluster_keys, COLUMNS["cluster_key"]),
        "gold": pa.array(items.gold_B, COLUMNS["gold"]),
        "prediction": pa.array(items.prediction_B, COLUMNS["prediction"]),
        "score": pa.array(items.score_B, COLUMNS["score"]),
        "confidence": pa.array(items.confidence_B, COLUMNS["confidence"]),
        "valid": pa.array(items.valid_B, COLUMNS["valid"]),
    }
    if items.logprobs_BC is not None:
        for label, logprobs_B in zip(items.labels, items.logprobs_BC.T, strict=True):
            columns[LOGPROB_PREFIX + label] = pa.array(np.ascontiguousarray(logprobs_B), pa.float64())
    if items.texts is not None:
        columns["text"] = pa.array(items.texts, pa.string())
    write_table(path, columns, {"format_version": FORMAT_VERSION, "labels": list(items.labels)})


def write_table(path: Path, columns: Mapping[str, pa.Array], header: Mapping[str, Any]) -> None:
    """Write columns and a header as one Parquet file, atomically; equal ones give equal bytes.

    Raises:
        DiskError: If the disk is full; an old file stays.
    """
    table = pa.table(dict(columns)).replace_schema_metadata({METADATA_KEY: json.dumps(header).encode()})
    stream = io.BytesIO()
    # Without page checksums a flipped bit in a Parquet file goes unseen about 97 % of the time (RELIABILITY R4).
    pq.write_table(table, stream, compression="zstd", write_page_checksum=True)
    write_file(path, stream.getvalue(), point="items")


def read_items(path: Path) -> Items:
    """Read what :func:`write_items` wrote.

    Raises:
        IntegrityError: If the file is missing, damaged, or has other columns than expected.
    """
    table = read_table(path)
    labels = _labels(path, table.schema)
    logprob_columns = [LOGPROB_PREFIX + label for label in labels if LOGPROB_PREFIX + label in table.column_names]
    _check_columns(path, table, labels if logprob_columns else ())
    column = {name: table[name].to_numpy() for name in table.column_names if table[name].type != pa.string()}
    return Items(
        labels=labels,
        item_keys=tuple(table["item_key"].to_pylist()),
        cluster_keys=tuple(table["cluster_key"].to_pylist()),
        gold_B=column["gold"],
        prediction_B=column["prediction"],
        score_B=column["score"],
        confidence_B=column["confidence"],
        valid_B=column["valid"],
        logprobs_BC=np.stack([column[name] for name in logprob_columns], axis=1) if logprob_columns else None,
        texts=tuple(table["text"].to_pylist()) if "text" in table.column_names else None,
    )


def read_table(path: Path) -> pa.Table:
    """Read a file of items, every page's checksum compared.

    Raises:
        IntegrityError: If it is missing or damaged.
    """
    try:
        # From memory, not through a memory map: what is checked is then what is read.
        table = pq.read_table(io.BytesIO(path.read_bytes()), page_checksum_verification=True)
        table.validate(full=True)
    except FileNotFoundError:
        raise IntegrityError(
            f"{path} does not exist; expected the items of a finished evaluation. Run it again."
        ) from None
    except (OSError, ValueError, pa.ArrowException) as error:
        raise IntegrityError(
            f"{path} cannot be read as Parquet ({error}). Delete it and run the evaluation again."
        ) from error
    return table


def read_kind(
    path: Path, *, kind: str, version: int, columns: Mapping[str, pa.DataType]
) -> tuple[pa.Table, dict[str, Any]]:
    """Read a file of items that says of which kind it is, and its header.

    Args:
        path: The file.
        kind: As in the header, such as ``answers``.
        version: Of the format.
        columns: Those expected, in order, none with a missing value.

    Raises:
        IntegrityError: If the file is missing, damaged, or holds something else.
    """
    table = read_table(path)
    header = read_header(table.schema)
    found = {field.name: field.type for field in table.schema}
    num_missing = sum(table[name].null_count for name in table.column_names)
    if header.get("kind") != kind or header.get("format_version") != version or found != columns or num_missing:
        raise IntegrityError(
            f"{path} is {header} with the columns {', '.join(found)} and {num_missing} missing values; expected "
            f"{kind} of format {version} with {', '.join(columns)}. Run the evaluation again."
        )
    return table, header


def _labels(path: Path, schema: pa.Schema) -> tuple[str, ...]:
    """Read the format's version and the names behind the label indices."""
    header = read_header(schema)
    found, labels = header.get("format_version"), header.get("labels")
    if found != FORMAT_VERSION or not isinstance(labels, list) or not all(isinstance(each, str) for each in labels):
        raise IntegrityError(
            f"{path} has items format {found} with the labels {labels}, expected {FORMAT_VERSION} and a list of names. "
            "It is damaged, or was not written by this version of tutelage; run the evaluation again."
        )
    return tuple(labels)


def read_header(schema: pa.Schema) -> dict[str, Any]:
    """Return the header of a file of items; empty where there is none."""
    try:
        header = json.loads((schema.metadata or {}).get(METADATA_KEY, b"{}"))
    except ValueError:
        return {}
    return header if isinstance(header, dict) else {}


def _check_columns(path: Path, table: pa.Table, scored_labels: Sequence[str]) -> None:
    expected = COLUMNS | {LOGPROB_PREFIX + label: pa.float64() for label in scored_labels} | {"text": pa.string()}
    found = {field.name: field.type for field in table.schema}
    missing = expected.keys() - found.keys() - {"text"}
    wrong = [f"{name} is missing, expected {expected[name]}" for name in sorted(missing)]
    for name, found_type in found.items():
        if found_type != expected.get(name):
            wrong.append(f"{name} is {found_type}, expected {expected.get(name, 'no such column')}")
        if table[name].null_count:
            wrong.append(f"{name} has {table[name].null_count} missing values")
    if wrong or len(found) != table.num_columns:
        raise IntegrityError(f"{path} has unexpected columns: {'; '.join(wrong)}. Run the evaluation again.")
