"""Rows and signals made at random, without a model."""

from pathlib import Path

import numpy as np
import torch

from tutelage.cache import FinalHiddenColumn, TopKColumn
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
    num_classes = len(column.spec["class_token_ids"])
    return {"scores_NC": torch.randn(count, num_classes, generator=generator).log_softmax(dim=1)}


def num_positions(rows: list[TeacherRow]) -> int:
    return sum(len(row.positions) for row in rows)


def every_folder(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_dir())
