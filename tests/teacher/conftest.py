"""One tiny teacher for the whole session; it is only read."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny_teacher import tiny_llama
from transformers import LlamaForCausalLM

MEMORY = Path("/dev/shm")

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def teacher_model() -> LlamaForCausalLM:
    return tiny_llama()


@pytest.fixture
def memory_path(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, where fsync costs nothing: what a killed process wrote is there all the same."""
    if not MEMORY.is_dir() or not os.access(MEMORY, os.W_OK):
        yield tmp_path
        return
    folder = Path(tempfile.mkdtemp(prefix="tutelage-", dir=MEMORY))
    yield folder
    shutil.rmtree(folder)
