"""One record per evaluated item, and the file that holds them.

In: arrays over the items of one evaluation. Out: ``items.parquet``, the only contract between
evaluation and statistics: same items, same bytes.
"""

import io
import json
from dataclasses import dataclass, fields
from pathlib import Path

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
    header = json.dumps({"format_version": FORMAT_VERSION, "labels": list(items.labels)})
    table = pa.table(columns).replace_schema_metadata({METADATA_KEY: header.encode()})
    stream = io.BytesIO()
    # Without page checksums a flipped bit in a Parquet file goes unseen about 97 % of the time (RELIABILITY R4).
    pq.write_table(table, stream, compression="zstd", write_page_checksum=True)
    write_file(path, stream.getvalue(), point="items")


def read_items(path: Path) -> Items:
    """Read what :func:`write_items` wrote.

    Raises:
        IntegrityError: If the file is missing, damaged, or has other columns than expected.
    """
    try:
        # From memory: a torn file must not be able to raise from a memory map, and one read is one state of it.
        table = pq.read_table(io.BytesIO(path.read_bytes()), page_checksum_verification=True)
    except FileNotFoundError:
        raise IntegrityError(
            f"{path} does not exist; expected the items of a finished evaluation. Run it again."
        ) from None
    except (OSError, pa.ArrowException) as error:
        raise IntegrityError(
            f"{path} cannot be read as Parquet ({error}). Delete it and run the evaluation again."
        ) from error
    labels = _check_schema(path, table.schema)
    logprob_columns = [LOGPROB_PREFIX + label for label in labels]
    has_logprobs = all(name in table.column_names for name in logprob_columns)
    return Items(
        labels=labels,
        item_keys=_strings(table, "item_key"),
        cluster_keys=_strings(table, "cluster_key"),
        gold_B=table["gold"].to_numpy(),
        prediction_B=table["prediction"].to_numpy(),
        score_B=table["score"].to_numpy(),
        confidence_B=table["confidence"].to_numpy(),
        valid_B=table["valid"].to_numpy(),
        logprobs_BC=np.stack([table[name].to_numpy() for name in logprob_columns], axis=1) if has_logprobs else None,
        texts=_strings(table, "text") if "text" in table.column_names else None,
    )


def _strings(table: pa.Table, name: str) -> tuple[str, ...]:
    return tuple(table[name].to_pylist())


def _check_schema(path: Path, schema: pa.Schema) -> tuple[str, ...]:
    header = json.loads((schema.metadata or {}).get(METADATA_KEY, b"{}"))
    if header.get("format_version") != FORMAT_VERSION:
        raise IntegrityError(
            f"{path} has items format {header.get('format_version')}, expected {FORMAT_VERSION}. "
            "It was not written by this version of tutelage; run the evaluation again."
        )
    wrong = [
        f"{name} is {schema.field(name).type if name in schema.names else 'missing'}, expected {expected}"
        for name, expected in COLUMNS.items()
        if name not in schema.names or schema.field(name).type != expected
    ]
    if wrong:
        raise IntegrityError(f"{path} has unexpected columns: {'; '.join(wrong)}. Run the evaluation again.")
    return tuple(header["labels"])
