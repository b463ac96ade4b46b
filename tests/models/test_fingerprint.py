import json
import os
import shutil

import pytest
import torch
from tiny_families import tiny_model

from tutelage.errors import ModelError
from tutelage.models import fingerprint
from tutelage.models.adapter import attach_lora
from tutelage.models.fingerprint import model_fingerprint, tensor_sha256


@pytest.fixture
def folder(tmp_path):
    tiny_model().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_equal_things_have_equal_prints_wherever_they_lie(folder, tmp_path):
    copied = tmp_path / "elsewhere"
    shutil.copytree(folder, copied)
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"_name_or_path": "/home/x", "transformers_version": "9"}))
    found = model_fingerprint(folder, dtype=torch.float32)
    assert (
        found == model_fingerprint(copied, dtype=torch.float32) == model_fingerprint(str(folder), dtype=torch.float32)
    )
    assert len(found) == 16
    assert int(found, 16) >= 0


def test_everything_that_changes_the_numbers_changes_the_print(folder, tmp_path):
    attach_lora(tiny_model(), r=2).save_pretrained(tmp_path / "adapter")
    prints = [
        model_fingerprint(folder, dtype=torch.float32),
        model_fingerprint(folder, dtype=torch.bfloat16),
        model_fingerprint(folder, dtype=torch.float32, extra={"threads": 2}),
        model_fingerprint(folder, dtype=torch.float32, adapter=tmp_path / "adapter"),
    ]
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    prints.append(model_fingerprint(folder, dtype=torch.float32))
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1  # one bit, same size
    (folder / "model.safetensors").write_bytes(weights)
    os.utime(folder / "model.safetensors", ns=(1, 1))
    prints.append(model_fingerprint(folder, dtype=torch.float32))
    assert len(set(prints)) == len(prints)


def test_a_file_is_hashed_once_per_process(folder, monkeypatch):
    hashed = []
    monkeypatch.setattr(fingerprint, "file_sha256", lambda path: hashed.append(path) or "0")
    fingerprint._cached_digest.cache_clear()
    for _ in range(3):
        model_fingerprint(folder, dtype=torch.float32)
    assert len(hashed) == 1
    os.utime(folder / "model.safetensors", ns=(5, 5))
    model_fingerprint(folder, dtype=torch.float32)
    assert len(hashed) == 2
    fingerprint._cached_digest.cache_clear()


def test_a_loaded_model_is_printed_by_its_tensors():
    found = model_fingerprint(tiny_model(), dtype=torch.float32)
    assert found == model_fingerprint(tiny_model(), dtype=torch.float32)
    assert found != model_fingerprint(tiny_model(seed=1), dtype=torch.float32)
    assert found != model_fingerprint(tiny_model(rms_norm_eps=1e-3), dtype=torch.float32)
    changed = tiny_model()
    changed.model.layers[3].mlp.up_proj.weight.data[0, 0] += 1e-6
    assert found != model_fingerprint(changed, dtype=torch.float32)


def test_a_tensors_print_covers_bytes_shape_and_dtype():
    grid = torch.arange(6, dtype=torch.float32).view(2, 3)
    prints = [tensor_sha256(t) for t in (grid, grid.view(3, 2), grid.T, grid.bfloat16(), grid.int(), grid.view(-1))]
    assert len(set(prints)) == len(prints)
    assert tensor_sha256(grid.T) == tensor_sha256(grid.T.contiguous())
    assert tensor_sha256(torch.tensor(1.5)) != tensor_sha256(torch.tensor([1.5]))


def test_a_gguf_file_is_its_own_identity(tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"one")
    found = model_fingerprint(tmp_path, dtype=torch.float32, gguf_file="a.gguf")
    (tmp_path / "a.gguf").write_bytes(b"three")
    assert found != model_fingerprint(tmp_path, dtype=torch.float32, gguf_file="a.gguf")


def test_a_folder_without_weights_or_adapter_is_refused(folder, tmp_path):
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors"):
        model_fingerprint(folder, dtype=torch.float32, adapter=tmp_path)
    with pytest.raises(ModelError, match="No weight file"):
        model_fingerprint(folder, dtype=torch.float32, gguf_file="b.gguf")
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match="Cannot read"):
        model_fingerprint(folder, dtype=torch.float32)
