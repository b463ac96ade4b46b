"""Weights that this program committed are compared with their manifest before they are loaded."""

import os

import pytest
import torch
from tiny_families import tiny_model, tiny_tokenizer

from tutelage.errors import IntegrityError
from tutelage.models.export import save_student
from tutelage.models.load import load_model
from tutelage.models.source import ModelSource
from tutelage.store import new_artifact


def flip_last_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize("inside", ["", "checkpoint"], ids=["adapted teacher", "finished run"])
def test_a_flipped_bit_in_a_committed_model_is_found_when_it_is_loaded(tmp_path, inside):
    with new_artifact(tmp_path / "made", kind="train") as folder:
        save_student(tiny_model(), tiny_tokenizer(), folder / inside)
    source = ModelSource("made", str(tmp_path / "made" / inside))
    load_model(source, dtype=torch.float32, device=torch.device("cpu"))
    flip_last_bit(tmp_path / "made" / inside / "model.safetensors")
    with pytest.raises(IntegrityError, match=r"model\.safetensors is damaged"):
        load_model(source, dtype=torch.float32, device=torch.device("cpu"))
