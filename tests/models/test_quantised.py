"""Quantised weights are read for a teacher where that is possible, and refused with what is missing elsewhere."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_families import tiny_model
from transformers import LlamaConfig

from tutelage.errors import ModelError
from tutelage.models.load import load_model
from tutelage.models.quantised import quantisation_of, refuse_training, require_kernels
from tutelage.models.source import ModelSource

CPU = torch.device("cpu")
BLOCK = 16
FP8 = {"quant_method": "fp8", "weight_block_size": [BLOCK, BLOCK], "activation_scheme": "dynamic"}


def quantise(weight_OI):
    """Return float8 values and the scale of each block, as DeepSeek stores them."""
    blocks = weight_OI.view(weight_OI.shape[0] // BLOCK, BLOCK, weight_OI.shape[1] // BLOCK, BLOCK)
    scales = blocks.abs().amax((1, 3)) / 448
    return (blocks / scales[:, None, :, None]).view_as(weight_OI).to(torch.float8_e4m3fn), scales


@pytest.fixture
def folder(tmp_path):
    """An fp8 checkpoint, and what its weights are as floats."""
    tiny_model("qwen3").save_pretrained(tmp_path)
    stored, floats = {}, {}
    for name, value in load_file(tmp_path / "model.safetensors").items():
        stored[name] = floats[name] = value
        if value.dim() == 2 and ".layers." in name:
            stored[name], scales = quantise(value)
            stored[f"{name}_scale_inv"] = scales
            floats[name] = stored[name].float() * scales.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)
    save_file(stored, tmp_path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": FP8}))
    return tmp_path, floats


def test_a_teachers_fp8_weights_are_read_and_a_students_are_refused(folder):
    path, floats = folder
    source = ModelSource("m", str(path))
    model = load_model(source, dtype=torch.float32, device=CPU, read_only=True)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, floats.get(name, value), rtol=1e-2, atol=1e-6)  # widened through bf16
    with pytest.raises(ModelError, match="quantised with fp8, which cannot be trained"):
        load_model(source, dtype=torch.float32, device=CPU)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptq.*cpu.*optimum|gptqmodel"),
        ({"quant_method": "awq", "bits": 4}, "awq.*gptqmodel"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes.*requires bitsandbytes"),
        ({"quant_method": "unheard-of"}, "unheard-of.*Unknown quantization"),
    ],
)
def test_what_this_machine_lacks_is_named_without_reading_a_weight(settings, words):
    config = LlamaConfig(quantization_config=settings)
    assert quantisation_of(config) == settings["quant_method"]
    with pytest.raises(ModelError, match=words) as caught:
        require_kernels(config, "m", device=CPU, dtype=torch.float32)
    assert "Expected the same model with float weights" in str(caught.value)
    with pytest.raises(ModelError, match="cannot be trained"):
        refuse_training(config, "m")


def test_float_weights_pass():
    require_kernels(LlamaConfig(), "m", device=CPU, dtype=torch.float32)
    refuse_training(LlamaConfig(), "m")
    assert quantisation_of(LlamaConfig()) is None
