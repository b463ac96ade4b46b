"""Rows and signals made at random, without a model."""

from pathlib import Path

import numpy as np
import torch

from tutelage.cache import FinalHiddenColumn, SampledColumn, TopKColumn
from tutelage.cache.column import Column, TensorDict
from tutelage.types import TeacherRow

TEACHER = "0123456789abcdef"


def random_rows(count: int, *, seed: int = 0, vocab_size: int = 97) -> list[TeacherRow]:
    """Rows of 1 to 20 ids, each with at least one wanted position, sorted by key."""
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        length = int(generator.integers(1, 21))
        ids = generator.integers(0, vocab_size, size=length).astype(np.int32)
        num_positions = int(generator.integers(1, length + 1))
        rows.append(TeacherRow(ids, np.sort(generator.choice(length, num_positions, replace=False)).astype(np.int64)))
    return sorted(rows, key=lambda row: row.key)


def random_tensors(column: Column, count: int, *, seed: int = 0) -> TensorDict:
    """What a teacher would say at ``count`` positions."""
    generator = torch.Generator().manual_seed(seed)
    if isinstance(column, TopKColumn):
        logprobs_NV = torch.randn(count, column.vocab_size, generator=generator).mul(3).log_softmax(dim=1)
        top_NK = logprobs_NV.topk(column.k, dim=1)
        log_z = [(logprobs_NV / temperature).logsumexp(dim=1) for temperature in column.stored_temperatures]
        log_z_NT = torch.stack(log_z, dim=1) if log_z else torch.empty(count, 0)
        return {"ids_NK": top_NK.indices, "logprobs_NK": top_NK.values, "log_z_NT": log_z_NT}
    if isinstance(column, FinalHiddenColumn):
        return {"hidden_NE": torch.randn(count, column.width, generator=generator)}
    if isinstance(column, SampledColumn):
        often_V = torch.randn(column.vocab_size, generator=generator).mul(4)  # ids that repeat through the rows
        logits_NV = torch.randn(count, column.vocab_size, generator=generator) + often_V
        return draw(logits_NV.log_softmax(dim=1), column, generator)
    num_classes = len(column.spec["class_token_ids"])
    return {"scores_NC": torch.randn(count, num_classes, generator=generator).log_softmax(dim=1)}


def draw(logprobs_NV: torch.Tensor, column: SampledColumn, generator: torch.Generator) -> TensorDict:
    """Draw from the tail of given distributions and lay the draws out as the column wants them, row by row."""
    head_NH = logprobs_NV.topk(column.head_k, dim=1)
    tail_NV = logprobs_NV.exp().scatter(1, head_NH.indices, 0).clamp(min=1e-30).scatter(1, head_NH.indices, 0)
    draws = [
        torch.multinomial(tail_V, column.num_draws, True, generator=generator).unique(return_counts=True)
        for tail_V in tail_NV
    ]
    width = column.head_k + max((len(ids) for ids, _ in draws), default=0)
    ids_NK = torch.zeros(len(draws), width, dtype=torch.int64)
    counts_NK, logprobs_NK = torch.zeros_like(ids_NK), torch.zeros(len(draws), width)
    ids_NK[:, : column.head_k], logprobs_NK[:, : column.head_k] = head_NH.indices, head_NH.values
    for number, (ids, counts) in enumerate(draws):
        drawn = slice(column.head_k, column.head_k + len(ids))
        ids_NK[number, drawn], counts_NK[number, drawn] = ids, counts
        logprobs_NK[number, drawn] = logprobs_NV[number, ids]
    return {"ids_NK": ids_NK, "counts_NK": counts_NK, "logprobs_NK": logprobs_NK}


def damaged_block_of(block: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    made = block.copy()
    kind = generator.integers(0, 4)
    if kind == 0:
        return made[: int(generator.integers(0, len(made)))]
    if kind == 1:
        return np.concatenate([made, generator.integers(0, 256, 3).astype(np.uint8)])
    if kind == 2:
        return generator.integers(0, 256, len(made)).astype(np.uint8)
    made[generator.integers(0, len(made))] ^= 1 << generator.integers(0, 8)
    return made


def num_positions(rows: list[TeacherRow]) -> int:
    return sum(len(row.positions) for row in rows)


def every_folder(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_dir())
