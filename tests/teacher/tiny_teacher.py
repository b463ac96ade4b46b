"""A teacher of a few thousand parameters, its rows, and batches made without the code under test."""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tutelage.types import Batch, TeacherRow

VOCAB_SIZE = 97
FINGERPRINT = "feedfacecafebeef"


def tiny_llama(*, dtype: torch.dtype = torch.float32, seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
        initializer_range=0.4,  # peaked enough that the top entries hold most of the mass
    )
    return LlamaForCausalLM(config).to(dtype)


def teacher_rows(count: int, *, seed: int = 0) -> list[TeacherRow]:
    """Rows of 4 to 17 ids in no order; the last one to four positions are wanted."""
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        length = int(generator.integers(4, 18))
        ids = generator.integers(0, VOCAB_SIZE, size=length).astype(np.int32)
        rows.append(TeacherRow(ids, np.arange(length - 1 - int(generator.integers(1, 4)), length - 1)))
    return rows


def batch_of(rows: Sequence[TeacherRow], *, packed: bool = False, width: int | None = None) -> Batch:
    """Lay rows out by hand, padded to ``width`` or packed."""
    positions = [row.positions for row in rows]
    lengths = [len(row.ids) for row in rows]
    labels_N = torch.tensor([int(row.ids[position + 1]) for row in rows for position in row.positions])
    if packed:
        starts = np.cumsum([0, *lengths])[:-1]
        input_ids = torch.tensor(np.concatenate([row.ids for row in rows]))[None].long()
        position_ids = torch.cat([torch.arange(length) for length in lengths])[None]
        mask = None
    else:
        width = width or max(lengths)
        starts = np.arange(len(rows)) * width
        input_ids = torch.zeros(len(rows), width, dtype=torch.int64)
        mask = torch.zeros(len(rows), width, dtype=torch.int64)
        for number, row in enumerate(rows):
            input_ids[number, : len(row.ids)] = torch.tensor(row.ids)
            mask[number, : len(row.ids)] = 1
        position_ids = torch.arange(width).repeat(len(rows), 1)
    flat_N = torch.tensor(np.concatenate([start + own for start, own in zip(starts, positions, strict=True)]))
    return Batch(input_ids, position_ids, mask, flat_N, labels_N, list(rows), [""] * len(rows), sum(lengths))


def dense_logprobs(model: LlamaForCausalLM, rows: Sequence[TeacherRow]) -> torch.Tensor:
    """Log-softmax in float64 at every wanted position, one row at a time through the whole model."""
    parts = []
    with torch.no_grad():
        for row in rows:
            logits = model(input_ids=torch.tensor(row.ids)[None].long()).logits[0]
            parts.append(logits[torch.tensor(row.positions)].double().log_softmax(dim=1))
    return torch.cat(parts)
