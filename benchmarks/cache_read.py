"""B4 and B10: from the disk to the tensors of a batch, on one core, against Parquet and ``datasets``.

In: nothing. Out: a row per peer. Everybody reads the same rows of prose in the same shuffled order and must give the
same tensors before anything is timed.
"""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import Dataset

from benchmarks.peer_formats import topk_table
from benchmarks.prose import CPU, load_sample, prose_rows, read_prose
from benchmarks.records import clock_in_turns, median_ratio, record, spread
from tutelage.cache import CacheReader, Column, ShardWriter
from tutelage.cache.column import TensorDict
from tutelage.cache.hidden import HiddenColumn
from tutelage.cache.topk import TopKColumn
from tutelage.models.taps import read_states
from tutelage.teacher.batches import padded_batch
from tutelage.teacher.measure import measure as measure_signal
from tutelage.types import TeacherRow, TopK

NUM_ROWS, ROWS_PER_BATCH, K = 16, 4, 50
TEACHER = "benchmark"
PYLIST_TARGET, ARROW_TARGET = 50.0, 5.0  # B4
HIDDEN_LAYERS = (10, 20)  # of 30; after layer 20 one position's values are a hundred times those of the others
PARQUET_OPTIONS: dict[str, dict[str, Any]] = {
    "laid flat": {"compression": "none", "use_dictionary": False},
    "default (dictionary, snappy)": {},
    "dictionary, zstd": {"compression": "zstd"},
}
HIDDEN_SPEED, HIDDEN_BYTES, HIDDEN_ERROR = 50.0, 0.2, 0.01  # B10

Batch = tuple[torch.Tensor, ...]
Reader = Callable[[list[int]], Batch]


def store(root: Path, column: Column, rows: list[TeacherRow], tensors: TensorDict) -> CacheReader:
    """Commit the rows as one shard and open it."""
    ShardWriter(root, TEACHER, column).write_shard(rows, tensors)
    return CacheReader(root, TEACHER, column)


def our_reader(reader: CacheReader, rows: list[TeacherRow], names: tuple[str, ...]) -> Reader:
    """Read rows out of our cache; every row's hash is checked."""

    def read(chosen: list[int]) -> Batch:
        tensors = reader.read([rows[i].key for i in chosen], [rows[i].positions for i in chosen])
        return tuple(tensors[name] for name in names)

    return read


def shuffled_batches() -> list[list[int]]:
    """Cut a shuffled order of the rows into batches."""
    order = np.random.default_rng(0).permutation(NUM_ROWS)
    return [order[start : start + ROWS_PER_BATCH].tolist() for start in range(0, NUM_ROWS, ROWS_PER_BATCH)]


def read_all(reader: Reader) -> None:
    """Read every batch once."""
    for chosen in shuffled_batches():
        reader(chosen)


def compare(readers: Mapping[str, Reader], num_positions: int, *, tolerance: float) -> dict[str, Any]:
    """Check that all readers agree with the first, then time them.

    Raises:
        SystemExit: If one does not.
    """
    first, *others = readers
    for name in others:
        for mine, theirs in zip(readers[first]([2, 0]), readers[name]([2, 0]), strict=True):
            if not torch.allclose(mine.double(), theirs.double(), rtol=0, atol=tolerance):
                raise SystemExit(f"{name} reads other values than {first}; nothing was timed")
    turns = clock_in_turns({name: lambda reader=reader: read_all(reader) for name, reader in readers.items()})
    speeds = {name: round(num_positions / spread(turns.wall)[name][1]) for name in readers}
    return {"seconds": turns.wall, "processor_seconds": turns.processor, "positions_per_second": speeds}


def parquet_groups(path: Path, table: pa.Table, num_positions: int) -> pq.ParquetFile:
    """Write one row group per row of the cache, compressed with zstd, and open the file."""
    pq.write_table(table, path, compression="zstd", row_group_size=num_positions)
    return pq.ParquetFile(path)


def measure() -> list[dict[str, Any]]:
    """B4: top-50 with float16 values."""
    torch.set_num_threads(1)
    prose = read_prose(load_sample(torch.bfloat16), NUM_ROWS)
    per_row = len(prose.rows[0].positions)
    column = TopKColumn(K, (1.0,), prose.head.weight_VD.shape[0], "fp16")
    tensors = measure_signal(prose.hidden_NE, prose.head, column, prose.rows)
    signal = TopK(tensors["ids_NK"], tensors["logprobs_NK"], {}, column.vocab_size)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        reader = store(root, column, prose.rows, tensors)
        table = topk_table(signal)
        file = parquet_groups(root / "topk.parquet", table, per_row)
        dataset = Dataset.from_parquet(str(root / "topk.parquet"), cache_dir=str(root / "hf")).with_format("torch")
        readers: dict[str, Reader] = {
            "ours": our_reader(reader, prose.rows, ("ids_NK", "logprobs_NK")),
            "to_pylist": lambda chosen: _from_pylist(file.read_row_groups(chosen)),
            "datasets torch format": lambda chosen: _from_dataset(dataset, chosen, per_row),
            "arrow to numpy": lambda chosen: _from_arrow(file.read_row_groups(chosen)),
        }
        result = compare(readers, prose.num_positions, tolerance=0.0)
    return [
        record("B4", f"cache read, positions per second and core, against {name}", ratio, target, **_shown(result))
        for name, target in (
            ("to_pylist", PYLIST_TARGET), ("datasets torch format", PYLIST_TARGET), ("arrow to numpy", ARROW_TARGET),
        )
        for ratio in [median_ratio(result["seconds"], name, "ours")]
    ]  # fmt: skip


def _shown(result: dict[str, Any]) -> dict[str, Any]:
    return {
        "positions_per_second": result["positions_per_second"], "seconds": spread(result["seconds"]),
        "processor_seconds": spread(result["processor_seconds"]), "k": K,
    }  # fmt: skip


def _from_pylist(table: pa.Table) -> Batch:
    columns = table.to_pydict()
    return torch.tensor(columns["ids"]), torch.tensor(columns["logprobs"], dtype=torch.float32)


def _from_dataset(dataset: Dataset, chosen: list[int], per_row: int) -> Batch:
    places = np.concatenate([np.arange(number * per_row, (number + 1) * per_row) for number in chosen])
    batch = dataset[places]
    return _stacked(batch["ids"]).long(), _stacked(batch["logprobs"]).float()


def _stacked(values: Any) -> torch.Tensor:
    return values if isinstance(values, torch.Tensor) else torch.stack(list(values))


def _from_arrow(table: pa.Table) -> Batch:
    ids, values = (
        table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False) for name in ("ids", "logprobs")
    )
    return (
        torch.from_numpy(ids.astype(np.int64)).view(-1, K),
        torch.from_numpy(values.astype(np.float32)).view(-1, K),
    )


def measure_hidden() -> list[dict[str, Any]]:
    """B10: hidden states after two layers, in one byte per value and as bfloat16, against float32 lists in Parquet."""
    torch.set_num_threads(1)
    model = load_sample(torch.bfloat16)
    rows = [TeacherRow(row.ids, np.arange(len(row.ids))) for row in prose_rows(NUM_ROWS)[0]]
    with torch.no_grad():
        states = [read_states(model, padded_batch([row], device=CPU), HIDDEN_LAYERS) for row in rows]
    by_layer = {layer: torch.cat([each.tapped[layer] for each in states]).float() for layer in HIDDEN_LAYERS}
    return [
        each
        for layer, hidden_NE in by_layer.items()
        for dtype in ("sq8", "int8", "bf16")
        for each in _hidden_rows(HiddenColumn(layer, hidden_NE.shape[1], dtype), rows, hidden_NE)
    ]


def _hidden_rows(column: HiddenColumn, rows: list[TeacherRow], hidden_NE: torch.Tensor) -> list[dict[str, Any]]:
    num_positions = len(hidden_NE)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        reader = store(root, column, rows, {"hidden_NE": hidden_NE})
        table = pa.table({"hidden": pa.array(list(hidden_NE.numpy()), type=pa.list_(pa.float32()))})
        file = parquet_groups(root / "hidden.parquet", table, len(rows[0].ids))
        readers: dict[str, Reader] = {
            "ours": our_reader(reader, rows, ("hidden_NE",)),
            "parquet float32 lists": lambda chosen: (
                torch.tensor(file.read_row_groups(chosen).to_pydict()["hidden"], dtype=torch.float32),
            ),
        }
        result = compare(readers, num_positions, tolerance=float("inf"))
        read_NE = readers["ours"](list(range(NUM_ROWS)))[0].float()
        size = float(reader.shards[0].index["nbytes"].sum()) / num_positions
        peers = parquet_sizes(root, table, len(rows[0].ids))
    error_N = (read_NE - hidden_NE).norm(dim=1) / hidden_NE.norm(dim=1)
    error = float((read_NE - hidden_NE).norm() / hidden_NE.norm())
    shown = {
        "layer": column.layer, "dtype": column.dtype, "relative_error": error,
        "median_position": float(error_N.median()), "worst_position": float(error_N.max()),
        "bytes_per_position": size, "peer_bytes_per_position": peers,
        "positions_per_second": result["positions_per_second"], "seconds": spread(result["seconds"]),
        "processor_seconds": spread(result["processor_seconds"]),
    }  # fmt: skip
    ratio = median_ratio(result["seconds"], "parquet float32 lists", "ours")
    what = f"hidden states after layer {column.layer} as {column.dtype} against Parquet float32 lists"
    return [
        record("B10", f"{what}: read speed", ratio, HIDDEN_SPEED, **shown),
        *(
            record("B10", f"{what}: bytes, {name}", size / peer, HIDDEN_BYTES, at_most=True, **shown)
            for name, peer in peers.items()
        ),
        record("B10", f"{what}: relative error", error, HIDDEN_ERROR, at_most=True, **shown),
    ]


def parquet_sizes(root: Path, table: pa.Table, per_row: int) -> dict[str, float]:
    """Count bytes per position of one table as Parquet writes it.

    The dictionary, on by default, holds each distinct value once: bfloat16 values in float32 have few. What a float32
    teacher says has none to share, so "laid flat" is what its lists weigh.
    """
    sizes = {}
    for name, options in PARQUET_OPTIONS.items():
        path = root / "sizes.parquet"
        pq.write_table(table, path, row_group_size=per_row, **options)
        sizes[name] = path.stat().st_size / len(table)
    return sizes
