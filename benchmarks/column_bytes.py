"""How many bytes compact signals take, and how fast they are: ``python -m benchmarks.column_bytes [--json]``.

In: nothing; the sample teacher reads seeded prose. Out: by signal and length of row, bytes per position and the
processor time of encoding and of decoding a position; for top-k also the loss of fidelity.
The numbers are discussed in ``docs/decisions/0010-bytes-and-zstd-instead-of-bit-codes.md``.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from benchmarks.prose import load_sample, read_prose
from tutelage.cache import Column, SampledColumn, TopKColumn
from tutelage.cache.column import TensorDict
from tutelage.cache.topk import TOPK_DTYPES
from tutelage.types import OutputHead

NUM_ROWS = 24
SETTINGS = ((12, 1.0), (25, 1.0), (50, 1.0), (25, 2.0))  # draws, temperature
TOP_K = 50
TILE_POSITIONS = 128  # 25 MB of logits at a time
ROW_LENGTHS = (511, 64, 4)
TIMES = 5  # the fastest counts


def draw(logprobs_NV: torch.Tensor, num_draws: int, generator: torch.Generator) -> TensorDict:
    """Draw with replacement and lay the distinct ids out as the sampled column wants them."""
    drawn_Nn = torch.multinomial(logprobs_NV.exp(), num_draws, replacement=True, generator=generator).sort(dim=1).values
    is_new_Nn = torch.ones_like(drawn_Nn, dtype=torch.bool)
    is_new_Nn[:, 1:] = drawn_Nn.diff(dim=1) != 0
    places_Nn = is_new_Nn.cumsum(dim=1) - 1
    counts_NK = torch.zeros_like(drawn_Nn).scatter_add_(1, places_Nn, torch.ones_like(drawn_Nn))
    ids_NK = torch.zeros_like(drawn_Nn).scatter_(1, places_Nn, drawn_Nn)
    logprobs_NK = logprobs_NV.gather(1, ids_NK).masked_fill(counts_NK == 0, 0)
    return {"ids_NK": ids_NK, "counts_NK": counts_NK, "logprobs_NK": logprobs_NK}


def read_teacher() -> tuple[dict[tuple[int, float], TensorDict], TensorDict]:
    """Give the draws at every setting, and the top-k."""
    prose = read_prose(load_sample(torch.bfloat16), NUM_ROWS)
    generator = torch.Generator().manual_seed(0)
    parts: dict[tuple[int, float], list[TensorDict]] = {setting: [] for setting in SETTINGS}
    kept: list[TensorDict] = []
    for logprobs_nV in log_softmax_tiles(prose.hidden_NE, prose.head):
        top_nK = logprobs_nV.topk(TOP_K, dim=1)
        kept.append({"ids_NK": top_nK.indices, "logprobs_NK": top_nK.values})
        for num_draws, temperature in SETTINGS:
            cooled_nV = (logprobs_nV / temperature).log_softmax(dim=1)
            parts[num_draws, temperature].append(draw(cooled_nV, num_draws, generator))
    return {setting: join(found) for setting, found in parts.items()}, join(kept)


def log_softmax_tiles(hidden_NE: torch.Tensor, head: OutputHead) -> Iterator[torch.Tensor]:
    """Yield the teacher's log-probabilities, a few positions at a time."""
    wide = OutputHead(head.weight_VD.float(), scale=head.scale)
    with torch.no_grad():
        for hidden_nE in hidden_NE.float().split(TILE_POSITIONS):
            yield wide.logits(hidden_nE).log_softmax(dim=1)


def join(parts: list[TensorDict]) -> TensorDict:
    """Lay tiles end to end."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def fastest(call: Callable[[], object], num_positions: int) -> float:
    """Give the processor time of a call in microseconds per position."""
    found = []
    for _ in range(TIMES):
        start = time.process_time()
        call()
        found.append(time.process_time() - start)
    return 1e6 * min(found) / num_positions


def measure_column(name: str, column: Column, tensors: TensorDict) -> list[dict[str, Any]]:
    """Encode and decode the same positions in rows of several lengths."""
    found = []
    for length in ROW_LENGTHS:
        counts = np.full(len(tensors["ids_NK"]) // length, length)
        num_positions = int(counts.sum())
        whole = {key: tensor[:num_positions] for key, tensor in tensors.items()}
        blocks = [np.frombuffer(block, np.uint8) for block in column.encode_rows(whole, counts)]
        read = column.decode_rows(blocks, counts)
        found.append(
            {
                "signal": name,
                "positions_per_row": length,
                "bytes": sum(map(len, blocks)) / num_positions,
                "encode_microseconds": fastest(lambda: column.encode_rows(whole, counts), num_positions),  # noqa: B023
                "decode_microseconds": fastest(lambda: column.decode_rows(blocks, counts), num_positions),  # noqa: B023
            }
        )
        if isinstance(column, TopKColumn):
            found[-1]["kl_nats"] = bucket_kl(whole["logprobs_NK"].double(), read["logprobs_NK"].double())
    return found


def bucket_kl(exact_NK: torch.Tensor, stored_NK: torch.Tensor) -> float:
    """Give the mean KL(exact || stored) over the kept ids and the tail; stored buckets are normalised."""
    tail_N = (1 - exact_NK.exp().sum(dim=1)).clamp(min=1e-12)
    stored_tail_N = (1 - stored_NK.exp().sum(dim=1)).clamp(min=1e-12)
    level_N = (stored_NK.exp().sum(dim=1) + stored_tail_N).log()
    kl_N = (exact_NK.exp() * (exact_NK - stored_NK)).sum(dim=1) + tail_N * (tail_N / stored_tail_N).log() + level_N
    return float(kl_N.mean())


def measure() -> list[dict[str, Any]]:
    """Measure every setting of the sampled column and every form of top-k."""
    draws, kept = read_teacher()
    vocab_size = load_sample(torch.bfloat16).config.vocab_size
    rows = []
    for (num_draws, temperature), tensors in draws.items():
        column = SampledColumn(num_draws, temperature, 0, vocab_size)
        rows += measure_column(f"sampled, n = {num_draws}, T = {temperature:g}", column, tensors)
    for dtype in TOPK_DTYPES:
        tensors = {**kept, "log_z_NT": torch.empty(len(kept["ids_NK"]), 0)}
        rows += measure_column(f"top-{TOP_K}, {dtype}", TopKColumn(TOP_K, (1.0,), vocab_size, dtype), tensors)
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.column_bytes", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    rows = measure()
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    print("signal".ljust(24), *(name.rjust(12) for name in ("per row", "bytes", "encode us", "decode us", "KL nats")))
    for row in rows:
        shown = [f"{row[name]:12.2f}" for name in ("bytes", "encode_microseconds", "decode_microseconds")]
        kl = f"{row['kl_nats']:12.1e}" if "kl_nats" in row else ""
        print(row["signal"].ljust(24), f"{row['positions_per_row']:12d}", *shown, kl)


if __name__ == "__main__":
    main()
