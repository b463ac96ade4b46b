"""B5: what the cache adds to the teacher's forward pass, on prose (all positions) and on reviews (few of them).

In: nothing. Out: rows for encoding and writing against Parquet lists, in shards of two sizes, durable and not; rows for
the whole teach stage. The baseline of the stage runs the same body on the same batches and applies the head at the same
positions, nothing more: once with bfloat16 logits, which have 8 bits, and once with float32 ones, as the cache has.
"""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import PreTrainedModel

from benchmarks.prose import CPU, load_sample, prose_rows
from benchmarks.records import clock_in_turns, median_ratio, record, spread
from tutelage.cache import Column, ShardWriter
from tutelage.cache.column import TensorDict
from tutelage.cache.sampled import SampledColumn
from tutelage.cache.topk import TopKColumn
from tutelage.data.plan import reading_batches
from tutelage.models.head import final_hidden, find_head
from tutelage.teacher import build_column, teach
from tutelage.teacher.batches import padded_batch
from tutelage.teacher.logits import TiledHead
from tutelage.teacher.measure import measure as measure_signal
from tutelage.types import OutputHead, TeacherRow

K, DRAWS = 50, 25
PROSE_ROWS, REVIEW_ROWS, REVIEW_TOKENS = 8, 128, 33  # a review of the sample with its template has 33 tokens
TOKEN_BUDGET = 4096
TILE_POSITIONS = 340  # 64 MiB of float32 logits, as the teach stage has them
SHARD_BYTES = 2**25  # the smallest shard that the format asks for; at 8 rows a commit's fixed costs weigh most
WRITE_ROUNDS, STAGE_ROUNDS = 5, 3
CHECKED_POSITIONS = 64
TEACHER = "benchmark"
WRITE_TARGET, STAGE_TARGET = 20.0, 0.9
BASELINES = (torch.bfloat16, torch.float32)


def measure() -> list[dict[str, Any]]:
    """Measure both kinds of rows."""
    torch.set_num_threads(1)
    model = load_sample(torch.bfloat16)
    prose, digest = prose_rows(PROSE_ROWS)
    reviews = [
        TeacherRow(row.ids[start : start + REVIEW_TOKENS], np.arange(REVIEW_TOKENS - 3, REVIEW_TOKENS - 1))
        for row in prose_rows(REVIEW_ROWS * REVIEW_TOKENS // 512 + 1)[0]
        for start in range(0, 512 - REVIEW_TOKENS, REVIEW_TOKENS)
    ][:REVIEW_ROWS]
    rows = []
    for name, chosen in (("prose", prose), ("reviews", reviews)):
        rows.extend(measure_writes(model, name, chosen, digest))
        rows.extend(measure_stages(model, name, chosen, digest))
    return rows


def head_of(model: PreTrainedModel) -> OutputHead:
    """Describe the head without its gradients."""
    head = find_head(model)
    return OutputHead(head.weight_VD.detach(), scale=head.scale)


def measure_writes(model: PreTrainedModel, name: str, rows: list[TeacherRow], digest: str) -> list[dict[str, Any]]:
    """Write the rows' top-k as one shard, then as many as fill a shard of the smallest size asked for."""
    with torch.no_grad():
        hidden_NE = torch.cat([final_hidden(model, padded_batch([row], device=CPU)) for row in rows])
        column = TopKColumn(K, (1.0,), find_head(model).weight_VD.shape[0], "fp16")
        tensors = measure_signal(hidden_NE, head_of(model), column, rows)
    few = write_records(name, column, rows, tensors, digest, target=None)
    return few + write_records(name, column, *multiplied(column, rows, tensors), digest, target=WRITE_TARGET)


def multiplied(column: TopKColumn, rows: list[TeacherRow], tensors: TensorDict) -> tuple[list[TeacherRow], TensorDict]:
    """Repeat measured positions until they fill a shard, each time with other ids and lower values.

    The ids go through a permutation of the vocabulary and every position's log-probabilities lose a random amount, so
    that no compressor finds the repetition.
    """
    generator = torch.Generator().manual_seed(0)
    many_rows, parts = [], []
    for number in range(-(-SHARD_BYTES // (column.stride * len(tensors["ids_NK"])))):
        renamed_V = torch.randperm(column.vocab_size, generator=generator)
        lowered_N1 = torch.rand(len(tensors["ids_NK"]), 1, generator=generator) / 8
        parts.append((renamed_V[tensors["ids_NK"]], tensors["logprobs_NK"] - lowered_N1))
        many_rows += [TeacherRow(row.ids + number, row.positions) for row in rows]
    ids_NK, logprobs_NK = (torch.cat(each) for each in zip(*parts, strict=True))
    return many_rows, {"ids_NK": ids_NK, "logprobs_NK": logprobs_NK, "log_z_NT": torch.empty(len(ids_NK), 0)}


def write_records(
    name: str, column: TopKColumn, rows: list[TeacherRow], tensors: TensorDict, digest: str, *, target: float | None
) -> list[dict[str, Any]]:
    """Compare writing one shard, durable and not, with ``from_pylist``, which is never durable."""
    num_positions = len(tensors["ids_NK"])
    with tempfile.TemporaryDirectory() as folder:
        roots = (Path(folder) / str(number) for number in range(2 * (WRITE_ROUNDS + 1)))
        writers = iter([ShardWriter(root, TEACHER, column) for root in roots])  # one serves all shards of a stage

        def pylist() -> None:
            records = [
                {"ids": ids, "logprobs": values}
                for ids, values in zip(tensors["ids_NK"].tolist(), tensors["logprobs_NK"].tolist(), strict=True)
            ]
            pq.write_table(pa.Table.from_pylist(records), Path(folder) / "peer.parquet", compression="zstd")

        def volatile() -> None:
            with without_fsync():
                next(writers).write_shard(rows, tensors)

        turns = clock_in_turns(
            {"durable": lambda: next(writers).write_shard(rows, tensors), "not durable": volatile, "peer": pylist},
            rounds=WRITE_ROUNDS,
        )
    shown = {
        "positions": num_positions, "rows": len(rows), "payload_bytes": num_positions * column.stride,
        "microseconds_per_position": per_position(turns.wall, num_positions),
        "processor_microseconds_per_position": per_position(turns.processor, num_positions),
        "seconds": spread(turns.wall), "text_sha256": digest,
    }  # fmt: skip
    what = f"{name}, shard of {num_positions:,} positions: check, encode and write top-{K}"
    return [
        record(
            "B5", f"{what}, {variant}, against from_pylist + zstd (not durable)",
            median_ratio(turns.wall, "peer", variant), target if variant == "durable" else None,
            processor_ratio=round(median_ratio(turns.processor, "peer", variant), 2), **shown,
        )
        for variant in ("durable", "not durable")
    ]  # fmt: skip


@contextlib.contextmanager
def without_fsync() -> Iterator[None]:
    """Leave writing to the disk to the system, as the peer does."""
    with mock.patch("os.fsync", return_value=None):
        yield


def per_position(seconds: dict[str, list[float]], num_positions: int) -> dict[str, float]:
    """Turn medians into microseconds per position."""
    return {each: round(1e6 * values[1] / num_positions, 3) for each, values in spread(seconds).items()}


def measure_stages(model: PreTrainedModel, name: str, rows: list[TeacherRow], digest: str) -> list[dict[str, Any]]:
    """Compare the teach stage, column by column, with body and head alone."""
    vocab = find_head(model).weight_VD.shape[0]
    columns: dict[str, Column] = {
        f"top-{K}": TopKColumn(K, (1.0,), vocab, "fp16"),
        f"sampled n={DRAWS}": SampledColumn(DRAWS, 1.0, 0, vocab),
        "final_hidden": build_column(model, kind="final_hidden"),
    }
    baselines = {f"body + {str(dtype).removeprefix('torch.')} head": dtype for dtype in BASELINES}
    calls: dict[str, Callable[[], None]] = {
        **{each: partial(run_baseline, model, rows, dtype) for each, dtype in baselines.items()},
        **{each: partial(run_stage, model, rows, column) for each, column in columns.items()},
    }
    turns = clock_in_turns(calls, rounds=STAGE_ROUNDS)
    tokens = sum(len(row.ids) for row in rows)
    shown = {
        "tokens_per_second": {each: round(tokens / values[1]) for each, values in spread(turns.wall).items()},
        "processor_microseconds_per_token": per_position(turns.processor, tokens),
        "total_variation_from_float64": softmax_errors(model, rows),
        "seconds": spread(turns.wall), "text_sha256": digest,
    }  # fmt: skip
    return [
        record(
            "B5", f"{name}: teach stage with {each}, tokens per second, against {baseline} alone",
            median_ratio(turns.wall, baseline, each), STAGE_TARGET,
            processor_ratio=round(median_ratio(turns.processor, baseline, each), 3), **shown,
        )
        for baseline in baselines
        for each in columns
    ]  # fmt: skip


@torch.no_grad()
def run_baseline(model: PreTrainedModel, rows: list[TeacherRow], dtype: torch.dtype) -> None:
    """Run body and head as a user's own loop would, the head in tiles; its weight is cast once."""
    weight_VD = find_head(model).weight_VD.to(dtype)
    for group in reading_batches([len(row.ids) for row in rows], token_budget=TOKEN_BUDGET):
        hidden_NE = final_hidden(model, padded_batch([rows[number] for number in group], device=CPU))
        for tile_nE in hidden_NE.split(TILE_POSITIONS):
            torch.nn.functional.linear(tile_nE.to(dtype), weight_VD)


def run_stage(model: PreTrainedModel, rows: list[TeacherRow], column: Column) -> None:
    """Fill a new cache."""
    with tempfile.TemporaryDirectory() as folder:
        teach(
            model, rows, columns=[column], root=Path(folder), fingerprint=TEACHER, shard_rows=len(rows),
            token_budget=TOKEN_BUDGET,
        )  # fmt: skip


@torch.no_grad()
def softmax_errors(model: PreTrainedModel, rows: list[TeacherRow]) -> dict[str, float]:
    """Give the mean total variation between softmaxes at T = 1 and those of a float64 product of the same inputs."""
    hidden_NE = final_hidden(model, padded_batch(rows[:1], device=CPU))[:CHECKED_POSITIONS]
    head = head_of(model)
    exact_NV = (hidden_NE.double() @ head.weight_VD.double().T).mul(head.scale).softmax(dim=1)
    found = {
        f"{str(dtype).removeprefix('torch.')} head": (hidden_NE.to(dtype) @ head.weight_VD.to(dtype).T) * head.scale
        for dtype in BASELINES
    }
    found["ours"] = torch.cat([tile.logits_nU.clone() for tile in TiledHead(head).tiles(hidden_NE)])
    return {
        name: float((logits_NV.double().softmax(dim=1) - exact_NV).abs().sum(dim=1).mean() / 2)
        for name, logits_NV in found.items()
    }
