"""How many bytes the ids of a sampled signal take, code by code: ``python -m benchmarks.id_coding [--json]``.

In: nothing; the sample teacher reads seeded prose. Out: bytes per position, and for packed top-k the loss of fidelity.
The numbers are discussed in ``docs/decisions/0005-id-coding.md``.
"""

import argparse
import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from benchmarks.prose import load_sample, read_prose
from tutelage.cache import SampledColumn, TopKColumn
from tutelage.cache.bits import bit_width
from tutelage.cache.column import TensorDict
from tutelage.cache.id_classes import FINENESS_BITS, FLATTENED_IDS, base_classes
from tutelage.cache.topk import CODE_BITS, TOPK_DTYPES
from tutelage.types import OutputHead

NUM_ROWS = 24
SETTINGS = ((12, 1.0), (25, 1.0), (50, 1.0), (25, 2.0))  # draws, temperature
TOP_K = 50
TILE_POSITIONS = 128  # 25 MB of logits at a time
PRIOR_SMOOTHING = 0.35  # weight of the law of id order beside the counts, for ids that the other half never saw


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


def read_teacher() -> tuple[dict[tuple[int, float], TensorDict], TensorDict, int]:
    """Give the draws at every setting, the top-k, and the number of positions per row."""
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
    return {setting: join(found) for setting, found in parts.items()}, join(kept), prose.num_positions // NUM_ROWS


def log_softmax_tiles(hidden_NE: torch.Tensor, head: OutputHead) -> Iterator[torch.Tensor]:
    """Yield the teacher's log-probabilities, a few positions at a time."""
    wide = OutputHead(head.weight_VD.float(), scale=head.scale)
    with torch.no_grad():
        for hidden_nE in hidden_NE.float().split(TILE_POSITIONS):
            yield wide.logits(hidden_nE).log_softmax(dim=1)


def join(parts: list[TensorDict]) -> TensorDict:
    """Lay tiles end to end."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def measure_ids(tensors: TensorDict, num_draws: int, temperature: float, row_length: int, vocab_size: int) -> dict:
    """Count bytes per position of the same draws under each code."""
    counts_NK = tensors["counts_NK"].numpy()
    sizes = (counts_NK > 0).sum(axis=1)
    ids = tensors["ids_NK"].numpy()[counts_NK > 0]
    bits = {
        "raw": bit_width(vocab_size) * len(ids),
        "Elias-Fano over raw ids": elias_fano_bits(ids, sizes, vocab_size),
        "classes in id order": class_bits(ids, sizes, vocab_size),
        "classes by a fitted unigram": fitted_class_bits(ids, sizes, vocab_size),
        "fitted unigram, ids in order (entropy)": fitted_bits(ids, sizes, vocab_size),
        "fitted unigram, ids as a set (entropy)": fitted_bits(ids, sizes, vocab_size)
        - sum(math.lgamma(size + 1) for size in sizes.tolist()) / math.log(2),
    }
    found = {name: value / 8 / len(sizes) for name, value in bits.items()}
    column = SampledColumn(num_draws, temperature, 0, vocab_size)
    for length in (row_length, 64, 4):
        rows = np.full(len(sizes) // length, length)
        whole = {name: tensor[: rows.sum()] for name, tensor in tensors.items()}
        blocks = [np.frombuffer(block, np.uint8) for block in column.encode_rows(whole, rows)]
        parts = column.count_parts(blocks, rows)
        found[f"column, {length} positions per row: ids"] = parts["ids"] / rows.sum()
        found[f"column, {length} positions per row: all"] = sum(parts.values()) / rows.sum()
        found["counts"], found["mean log-probability"] = (parts[name] / rows.sum() for name in ("counts", "values"))
    return {"draws": num_draws, "temperature": temperature, "distinct": sizes.mean(), "bytes": found}


def elias_fano_bits(ids: np.ndarray, sizes: np.ndarray, vocab_size: int) -> int:
    """Code the ids' upper bits as marks, their lower bits plainly, at the best split."""
    return min(
        len(ids) * (low + 1) + len(sizes) * -(-vocab_size // (1 << low)) for low in range(bit_width(vocab_size) + 1)
    )


def class_bits(ids: np.ndarray, sizes: np.ndarray, vocab_size: int) -> int:
    """Code the ids by classes in id order, without a dictionary, at the best fineness for all."""
    options = [base_classes(vocab_size, fineness) for fineness in range(1 << FINENESS_BITS)]
    return min(int(c.widths[c.find(ids)].sum()) + len(ids) + len(sizes) * (len(c) - 1) for c in options)


def fitted_bits(ids: np.ndarray, sizes: np.ndarray, vocab_size: int) -> float:
    """Give the entropy of each half's ids under the frequencies of the other half."""
    halves = fitted_halves(ids, sizes, vocab_size)
    return sum(-float(np.log2(prior_V[coded]).sum()) for coded, _, prior_V in halves)


def fitted_class_bits(ids: np.ndarray, sizes: np.ndarray, vocab_size: int) -> float:
    """Code each half's ids by classes of about equal weight among the ids ranked by the other half."""
    total = 0.0
    for coded, num_sets, prior_V in fitted_halves(ids, sizes, vocab_size):
        order = np.argsort(-prior_V, kind="stable")
        ranks_V = np.argsort(order)
        options = [equal_classes(prior_V[order], num_classes) for num_classes in (12, 16, 20, 24, 32, 40)]
        total += min(
            widths[np.searchsorted(np.cumsum(1 << widths), ranks_V[coded], side="right")].sum()
            + len(coded)
            + num_sets * (len(widths) - 1)
            for widths in options
        )
    return total


def fitted_halves(ids: np.ndarray, sizes: np.ndarray, vocab_size: int) -> list[tuple[np.ndarray, int, np.ndarray]]:
    """Give each half's ids and number of sets with a prior fitted on the other half."""
    law = 1 / (np.arange(vocab_size) + FLATTENED_IDS)
    middle = len(sizes) // 2
    parts = ids[: sizes[:middle].sum()], ids[sizes[:middle].sum() :]
    halves = []
    for coded, seen, num_sets in ((parts[0], parts[1], middle), (parts[1], parts[0], len(sizes) - middle)):
        weights = np.bincount(seen, minlength=vocab_size) + PRIOR_SMOOTHING * len(seen) * law / law.sum()
        halves.append((coded, num_sets, weights / weights.sum()))
    return halves


def equal_classes(prior_V: np.ndarray, num_classes: int) -> np.ndarray:
    """Cut ranked ids into runs of a power of two, each of about the share of weight that is left per class."""
    sums = np.concatenate([[0], np.cumsum(prior_V)])
    widths, start = [], 0
    while start < len(prior_V):
        width = bit_width(len(prior_V) - start)
        if num_classes - len(widths) > 1:
            share = 1.4 * (sums[-1] - sums[start]) / (num_classes - len(widths))
            ends = start + (1 << np.arange(width + 1))
            width = max(int((sums[np.minimum(ends, len(prior_V))] - sums[start] <= share).sum()) - 1, 0)
        widths.append(width)
        start += 1 << width
    return np.array(widths)


def measure_topk(kept: TensorDict, vocab_size: int) -> list[dict[str, Any]]:
    """Give bytes per position and KL(exact || stored) over the k + 1 buckets, in nats, by dtype.

    For packed dtypes also the KL if the level came from the first entry instead of the stored mass.
    """
    rows = []
    exact_NK = kept["logprobs_NK"].double()
    for dtype in TOPK_DTYPES:
        column = TopKColumn(TOP_K, (1.0,), vocab_size, dtype)
        tensors = {**kept, "log_z_NT": torch.empty(len(exact_NK), 0)}
        stored_NK = column.decode(column.encode(tensors))["logprobs_NK"].double()
        rows.append({"dtype": dtype, "bytes": column.stride, "kl_nats": bucket_kl(exact_NK, stored_NK)})
        if dtype in CODE_BITS:
            level_N1 = exact_NK[:, :1] - stored_NK[:, :1]
            rows[-1]["kl_nats_without_mass"] = bucket_kl(exact_NK, stored_NK + level_N1)
    return rows


def bucket_kl(exact_NK: torch.Tensor, stored_NK: torch.Tensor) -> float:
    """Give the mean KL over the kept ids and the tail; stored buckets are normalised, as the losses do."""
    tail_N = (1 - exact_NK.exp().sum(dim=1)).clamp(min=1e-12)
    stored_tail_N = (1 - stored_NK.exp().sum(dim=1)).clamp(min=1e-12)
    level_N = (stored_NK.exp().sum(dim=1) + stored_tail_N).log()
    kl_N = (exact_NK.exp() * (exact_NK - stored_NK)).sum(dim=1) + tail_N * (tail_N / stored_tail_N).log() + level_N
    return float(kl_N.mean())


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.id_coding", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    draws, kept, row_length = read_teacher()
    vocab_size = load_sample(torch.bfloat16).config.vocab_size
    ids = [measure_ids(tensors, *setting, row_length, vocab_size) for setting, tensors in draws.items()]
    topk = measure_topk(kept, vocab_size)
    if arguments.json:
        print(json.dumps({"ids": ids, "topk": topk}, indent=2))
        return
    print("bytes per position".ljust(42), *(f"n={row['draws']} T={row['temperature']:g}".rjust(10) for row in ids))
    print("distinct ids".ljust(42), *(f"{row['distinct']:10.2f}" for row in ids))
    for name in ids[0]["bytes"]:
        print(name.ljust(42), *(f"{row['bytes'][name]:10.2f}" for row in ids))
    for row in topk:
        without = f", without the mass {row['kl_nats_without_mass']:.1e}" if "kl_nats_without_mass" in row else ""
        print(f"top-{TOP_K} {row['dtype']}: {row['bytes']} bytes, KL {row['kl_nats']:.1e} nats{without}")


if __name__ == "__main__":
    main()
