"""B5: what the cache adds to the teacher's forward pass, on prose (all positions) and on reviews (few of them).

In: nothing. Out: a row for encoding and writing against Parquet lists, one for the whole teach stage. The baseline of
the stage runs the same body on the same batches and applies the head at the same positions, nothing more.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import PreTrainedModel

from benchmarks.prose import CPU, load_sample, prose_rows
from benchmarks.records import median_ratio, record, spread, time_in_turns
from tutelage.cache import Column, ShardWriter
from tutelage.cache.sampled import SampledColumn
from tutelage.cache.topk import TopKColumn
from tutelage.data.plan import reading_batches
from tutelage.models.head import final_hidden, find_head
from tutelage.teacher import build_column, teach
from tutelage.teacher.batches import padded_batch
from tutelage.teacher.measure import measure as measure_signal
from tutelage.types import OutputHead, TeacherRow

K, DRAWS = 50, 25
PROSE_ROWS, REVIEW_ROWS, REVIEW_TOKENS = 8, 256, 33  # a review of the sample with its template has 33 tokens
TOKEN_BUDGET = 4096
TEACHER = "benchmark"
WRITE_TARGET, STAGE_TARGET = 20.0, 0.9


def measure() -> list[dict[str, Any]]:
    """Measure both kinds of rows."""
    model = load_sample(torch.bfloat16)
    prose, digest = prose_rows(PROSE_ROWS)
    reviews = [
        TeacherRow(row.ids[start : start + REVIEW_TOKENS], np.arange(REVIEW_TOKENS - 3, REVIEW_TOKENS - 1))
        for row in prose_rows(REVIEW_ROWS * REVIEW_TOKENS // 512 + 1)[0]
        for start in range(0, 512 - REVIEW_TOKENS, REVIEW_TOKENS)
    ][:REVIEW_ROWS]
    rows = []
    for name, chosen in (("prose", prose), ("reviews", reviews)):
        rows.append(_write_row(model, name, chosen, digest))
        rows.extend(_stage_rows(model, name, chosen, digest))
    return rows


def head_of(model: PreTrainedModel) -> OutputHead:
    """Describe the head without its gradients."""
    head = find_head(model)
    return OutputHead(head.weight_VD.detach(), scale=head.scale)


def _write_row(model: PreTrainedModel, name: str, rows: list[TeacherRow], digest: str) -> dict[str, Any]:
    batches = [padded_batch([row], device=CPU) for row in rows]
    with torch.no_grad():
        hidden_NE = torch.cat([final_hidden(model, batch) for batch in batches])
        column = TopKColumn(K, (1.0,), find_head(model).weight_VD.shape[0], "fp16")
        tensors = measure_signal(hidden_NE, head_of(model), column, rows)
    num_positions = len(hidden_NE)
    with tempfile.TemporaryDirectory() as folder:
        roots = iter(range(10**6))

        def ours() -> None:
            ShardWriter(Path(folder) / f"ours-{next(roots)}", TEACHER, column).write_shard(rows, tensors)

        def pylist() -> None:
            records = [
                {"ids": ids, "logprobs": values}
                for ids, values in zip(tensors["ids_NK"].tolist(), tensors["logprobs_NK"].tolist(), strict=True)
            ]
            pq.write_table(pa.Table.from_pylist(records), Path(folder) / "peer.parquet", compression="zstd")

        seconds = time_in_turns({"ours": ours, "from_pylist": pylist})
    ratio = median_ratio(seconds, "from_pylist", "ours")
    micro = {each: round(1e6 * values[1] / num_positions, 2) for each, values in spread(seconds).items()}
    what = f"{name}: encode and write top-{K}, durable (fsync), against from_pylist + zstd (not durable)"
    return record(
        "B5", what, ratio, WRITE_TARGET, positions=num_positions, microseconds_per_position=micro,
        seconds=spread(seconds), text_sha256=digest,
    )  # fmt: skip


def _stage_rows(model: PreTrainedModel, name: str, rows: list[TeacherRow], digest: str) -> list[dict[str, Any]]:
    vocab = find_head(model).weight_VD.shape[0]
    columns: dict[str, Column] = {
        f"top-{K}": TopKColumn(K, (1.0,), vocab, "fp16"),
        f"sampled n={DRAWS}": SampledColumn(DRAWS, 1.0, 0, vocab),
        "final_hidden": build_column(model, kind="final_hidden"),
    }
    calls = {"baseline": lambda: _baseline(model, rows)}
    calls |= {each: lambda column=column: _stage(model, rows, column) for each, column in columns.items()}
    seconds = time_in_turns(calls, rounds=5)
    tokens = sum(len(row.ids) for row in rows)
    speeds = {each: round(tokens / values[1]) for each, values in spread(seconds).items()}
    return [
        record(
            "B5", f"{name}: teach stage with {each}, tokens per second, against body + head alone",
            median_ratio(seconds, "baseline", each), STAGE_TARGET,
            tokens_per_second=speeds, seconds=spread(seconds), text_sha256=digest,
        )
        for each in columns
    ]  # fmt: skip


def _baseline(model: PreTrainedModel, rows: list[TeacherRow]) -> float:
    """Run body and head as a user's own loop would, the head in tiles of 64 MiB."""
    began = time.perf_counter()
    head = find_head(model)
    with torch.no_grad():
        for group in reading_batches([len(row.ids) for row in rows], token_budget=TOKEN_BUDGET):
            hidden_NE = final_hidden(model, padded_batch([rows[number] for number in group], device=CPU))
            for tile_nE in hidden_NE.split(340):
                torch.nn.functional.linear(tile_nE, head.weight_VD)
    return time.perf_counter() - began


def _stage(model: PreTrainedModel, rows: list[TeacherRow], column: Column) -> None:
    with tempfile.TemporaryDirectory() as folder:
        teach(
            model, rows, columns=[column], root=Path(folder), fingerprint=TEACHER, shard_rows=len(rows),
            token_budget=TOKEN_BUDGET,
        )  # fmt: skip
