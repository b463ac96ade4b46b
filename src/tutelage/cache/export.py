"""Copy a cache into plain Parquet, for programs that know nothing of it.

In: a teacher's cache. Out: one Parquet file per column, one line per stored position.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from tutelage.cache.column import Column, TensorDict
from tutelage.cache.layout import column_folder, head_folder
from tutelage.cache.read import stored_columns
from tutelage.cache.sequences import SequencesColumn, unpack_answers
from tutelage.cache.shard import Shard, scan_shards
from tutelage.cache.teacher_head import read_head
from tutelage.errors import CacheError, DataError
from tutelage.store import disk_errors, make_folder, read_manifest, sync_folder, temporary_name

ROW_FIELDS = [("row_key", pa.string()), ("position", pa.int32())]


def export_cache(root: Path, teacher: str, target: Path) -> list[Path]:
    """Write every column of a teacher to ``target/<column>.parquet``, and the copy of its head beside them.

    A line holds ``row_key`` (32 hex digits), ``position`` (logit index: it predicts token ``position + 1``), and one
    list per field of the column, such as ``ids`` and ``logprobs``. A position that lies in several shards is written
    once. Column spec, fingerprint, provenance and licences are in the file's metadata.

    Returns:
        The files and folders that were written.

    Raises:
        DataError: If one of them is there already.
        CacheError: If nothing is stored, or a shard is damaged; nothing is written for its column.
        DiskError: If the disk is full.
    """
    columns = stored_columns(root, teacher)
    if not columns:
        raise CacheError(
            f"{root / teacher} holds no intact shard, so there is nothing to export. `tutelage cache verify --repair "
            "RECIPE` teaches again what is missing."
        )
    written = [target / f"{column.name}.parquet" for column in columns]
    has_head = head_folder(root, teacher).is_dir()
    head = [target / "head"] if has_head else []
    for path in [*written, *head]:
        if path.exists():
            raise DataError(f"{path} exists and was left alone. Choose another folder for `--to`, or delete it first.")
    make_folder(target)
    for path, column in zip(written, columns, strict=True):
        export_column(root, teacher, column, path)
    for path in head:
        read_head(root, teacher)  # every byte is checked
        shutil.copytree(head_folder(root, teacher), path)
    return [*written, *head]


def export_column(root: Path, teacher: str, column: Column, path: Path) -> None:
    """Write one column; the file appears when it is complete.

    Raises:
        CacheError: If a shard is damaged.
        DiskError: If the disk is full.
    """
    shards, damaged = scan_shards(column_folder(root, teacher, column))
    if damaged:
        raise CacheError("\n".join(damaged.values()))
    temporary = temporary_name(path)
    with disk_errors(path):
        try:
            writer = None
            for batch in shard_tables(shards, column):
                if writer is None:
                    schema = batch.schema.with_metadata(file_metadata(shards[0], teacher, column))
                    writer = pq.ParquetWriter(temporary, schema, compression="zstd")
                writer.write_table(batch)
            assert writer is not None, "stored_columns lists columns with a shard"
            writer.close()
            temporary.replace(path)
            sync_folder(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def shard_tables(shards: list[Shard], column: Column) -> Iterator[pa.Table]:
    """Yield one table per shard, without the positions that earlier shards held."""
    seen: dict[bytes, np.ndarray] = {}
    for shard in shards:
        blocks, counts, keys, positions, is_new = [], [], [], [], []
        for number, key in enumerate(shard.keys):
            coverage, block = shard.read_row(number)
            before = seen.get(key, np.zeros_like(coverage))
            places = np.flatnonzero(coverage)
            blocks.append(block)
            counts.append(len(places))
            keys.append(key.hex())
            positions.append(places)
            is_new.append(~before[places])
            seen[key] = before | coverage
        kept = np.flatnonzero(np.concatenate(is_new))
        tensors = column.decode_places(blocks, np.array(counts, dtype=np.int64), kept)
        names = pa.array(keys).take(pa.array(np.repeat(np.arange(len(keys)), counts)[kept]))
        arrays = [names, pa.array(np.concatenate(positions)[kept], type=pa.int32())]
        values = value_arrays(column, tensors)
        schema = pa.schema([*ROW_FIELDS, *((name, array.type) for name, array in values.items())])
        yield pa.Table.from_arrays([*arrays, *values.values()], schema=schema)


def value_arrays(column: Column, tensors: TensorDict) -> dict[str, pa.Array]:
    """Turn a column's tensors into one list per position each; answers become lists of texts and of ids."""
    if not isinstance(column, SequencesColumn):
        return {field_name(name): as_lists(tensor) for name, tensor in tensors.items()}
    answers = unpack_answers(tensors)
    return {
        "ids": pa.array([[each.ids.tolist() for each in own] for own in answers], pa.list_(pa.list_(pa.int32()))),
        "text": pa.array([[each.text for each in own] for own in answers], pa.list_(pa.string())),
        "finish": pa.array([[each.finish for each in own] for own in answers], pa.list_(pa.string())),
    }


def as_lists(values_NX: Tensor) -> pa.Array:
    """Turn a tensor into one list per position; bfloat16 becomes float32, which holds it exactly."""
    known_NX = values_NX.float() if values_NX.dtype == torch.bfloat16 else values_NX
    array_NX = known_NX.contiguous().numpy()
    offsets = np.arange(len(array_NX) + 1, dtype=np.int32) * array_NX.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(array_NX.reshape(-1)))


def field_name(tensor_name: str) -> str:
    """Drop the axes: ``ids_NK`` becomes ``ids``."""
    return tensor_name.rpartition("_")[0]


def file_metadata(shard: Shard, teacher: str, column: Column) -> dict[str, str]:
    """Return what a Parquet file says about itself."""
    manifest = read_manifest(shard.folder)
    provenance: dict[str, Any] = manifest.fields.get("provenance", {}) if manifest is not None else {}
    return {
        "tutelage.teacher": teacher,
        "tutelage.column": json.dumps(column.spec),
        "tutelage.provenance": json.dumps(provenance, ensure_ascii=False),
    }
