"""What a teacher on a GPU stores and writes is what it stores and writes on a CPU."""

import numpy as np
import pytest
import torch
from on_gpu import on_gpu
from tiny_families import padded, tiny_model, tiny_tokenizer

from tutelage.cache import ClassScoresColumn, TopKColumn
from tutelage.data import batch_to
from tutelage.models.chat import Stops
from tutelage.models.generate import Decoding, generate_batch
from tutelage.models.shrink import layer_influence
from tutelage.teacher.measure import measure
from tutelage.types import OutputHead

NUM_IDS, WIDTH = 4096, 64


def stored(hidden_NE, head, column):
    """Tensors first: what is carried to the device are the arguments."""
    return measure(hidden_NE, head, column)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "column", [TopKColumn(32, (0.5, 1, 4), NUM_IDS), ClassScoresColumn((7, 4000, 51))], ids=["top-k", "class scores"]
)
def test_signals_are_those_of_a_cpu(column, dtype):
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(50, WIDTH, generator=draw).to(dtype)
    head = OutputHead(torch.randn(NUM_IDS, WIDTH, generator=draw).mul(0.4).to(dtype), scale=0.9, softcap=20.0)
    here, there = stored(hidden, head, column), on_gpu(stored)(hidden, head, column)
    assert here.keys() == there.keys()
    for name, tensor in here.items():
        if tensor.dtype.is_floating_point:
            assert torch.allclose(tensor, there[name], rtol=0, atol=1e-4), name
        else:
            assert torch.equal(tensor, there[name]), name


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_greedy_answers_are_those_of_a_cpu(family):
    model, tokenizer = tiny_model(family), tiny_tokenizer()
    draw = np.random.default_rng(0)
    prompts = [draw.integers(1, 80, size=length).astype(np.int32) for length in (1, 9, 4, 6)]
    decoding = Decoding(Stops(()), max_new_tokens=8)
    answers = [
        [answer.ids.tolist() for answer in generate_batch(model.to(device), tokenizer, prompts, decoding=decoding)]
        for device in ("cpu", "cuda")
    ]
    assert answers[0] == answers[1]


def test_a_draw_is_the_same_wherever_it_is_made():
    model, tokenizer = tiny_model(), tiny_tokenizer()
    prompts = [np.arange(1, 6, dtype=np.int32)] * 3
    decoding = Decoding(Stops(()), max_new_tokens=8, do_sample=True, temperature=1.5, seed=3)
    answers = [
        [answer.ids.tolist() for answer in generate_batch(model.to(device), tokenizer, prompts, decoding=decoding)]
        for device in ("cpu", "cuda")
    ]
    assert answers[0] == answers[1]


def test_the_influence_of_layers_is_that_on_a_cpu():
    model, batch = tiny_model(), padded([[5, 6, 7, 8], [9, 10, 11]])
    here = layer_influence(model, [batch])
    assert layer_influence(model.to("cuda"), [batch_to(batch, "cuda")]) == pytest.approx(here, abs=1e-5)
