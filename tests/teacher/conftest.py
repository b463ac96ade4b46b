"""One tiny teacher for the whole session; it is only read."""

import pytest
import torch
from tiny_teacher import tiny_llama
from transformers import LlamaForCausalLM

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def teacher_model() -> LlamaForCausalLM:
    return tiny_llama()
