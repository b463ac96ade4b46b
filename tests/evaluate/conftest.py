"""Tiny random models and prompts of every length."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tutelage.data.rows import ChoicePrompt
from tutelage.types import StudentRow, row_key

VOCAB = 61
PAD_ID = 0

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def make_model() -> Callable[..., LlamaForCausalLM]:
    def make(seed: int = 0, *, dropout: float = 0.0) -> LlamaForCausalLM:
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=64,
            tie_word_embeddings=True,
            attention_dropout=dropout,
        )
        model = LlamaForCausalLM(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(8.0 if parameter.dim() > 1 else 1.0)  # initial weights give almost uniform logits
        return model.eval()

    return make


@pytest.fixture(scope="session")
def model(make_model) -> LlamaForCausalLM:
    return make_model()


@pytest.fixture(scope="session")
def make_prompts() -> Callable[..., list[ChoicePrompt]]:
    def make(choices: list[list[int]], *, number: int = 12, seed: int = 0) -> list[ChoicePrompt]:
        rng = np.random.default_rng(seed)
        choice_ids = [np.array(ids, dtype=np.int32) for ids in choices]
        return [
            ChoicePrompt(
                item_key=f"item/{index}",
                prompt_ids=rng.integers(1, VOCAB, size=rng.integers(1, 20)).astype(np.int32),
                choice_ids=choice_ids,
                gold=int(rng.integers(len(choices))),
                cluster_key=f"cluster/{index // 2}",
            )
            for index in range(number)
        ]

    return make


@pytest.fixture(scope="session")
def rows() -> list[StudentRow]:
    rng = np.random.default_rng(1)
    made = []
    for index in range(10):
        ids = rng.integers(1, VOCAB, size=rng.integers(3, 20)).astype(np.int32)
        target_mask = rng.random(len(ids)) < 0.4
        target_mask[0], target_mask[-1] = False, True
        made.append(StudentRow(f"row/{index}", ids, target_mask, row_key(ids)))
    return made


def alone_logprobs(model: LlamaForCausalLM, ids: np.ndarray) -> np.ndarray:
    """The oracle: one unpadded sequence through the whole model in float64, all log-probabilities."""
    model = model.double()
    try:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor(ids.astype(np.int64))[None], use_cache=False).logits[0]
        return (logits - logits.logsumexp(-1, keepdim=True)).numpy()
    finally:
        model.float()


@pytest.fixture(scope="session")
def oracle_logprobs() -> Callable[..., np.ndarray]:
    return alone_logprobs
