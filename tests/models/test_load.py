import json
import logging
import os

import huggingface_hub.utils as hub_utils
import pytest
import torch
from tiny_families import tiny_model, tiny_tokenizer
from transformers import Gemma3TextConfig, LlamaConfig
from transformers.utils import logging as transformers_logging

from tutelage.errors import MemoryExhaustedError, ModelError
from tutelage.models import load
from tutelage.models.load import end_of_turn_id, load_model, load_tokenizer, local_folder, quiet, rebuild_plain
from tutelage.models.source import ModelSource

CPU = torch.device("cpu")
TEMPLATE = (
    "{% for m in messages %}<turn> {{ m['role'] }} {{ m['content'] }} {{ eos_token if m['role'] == 'assistant' }}"
    "{% endfor %}"
)


@pytest.fixture
def folder(tmp_path):
    tiny_model("llama").save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def source_of(folder):
    return ModelSource(folder.name, str(folder))


def change_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_folder_loads_in_the_dtype_asked_for_and_in_evaluation_mode(folder, dtype):
    model = load_model(source_of(folder), dtype=dtype, device=CPU)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert not model.training
    expected = tiny_model("llama").to(dtype).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def test_loading_says_nothing_and_keeps_no_path(folder, capfd):
    model = load_model(source_of(folder), dtype=torch.float32, device=CPU)
    load_tokenizer(source_of(folder))
    assert capfd.readouterr() == ("", "")
    assert model.config.name_or_path == ""


def test_quiet_restores_levels_and_bars():
    transformers_logging.set_verbosity(logging.INFO)
    try:
        for bars_off in (True, False):
            (hub_utils.disable_progress_bars if bars_off else hub_utils.enable_progress_bars)()
            with quiet():
                assert hub_utils.are_progress_bars_disabled()
                assert transformers_logging.get_verbosity() > logging.ERROR
            assert hub_utils.are_progress_bars_disabled() == bars_off
            assert transformers_logging.get_verbosity() == logging.INFO
    finally:
        transformers_logging.set_verbosity_warning()


def rewrite(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def cut(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


DAMAGES = {
    "weights cut short": cut,
    "weights empty": rewrite("model.safetensors", b""),
    "weights of another kind": rewrite("model.safetensors", b"hello"),
    "config no json": rewrite("config.json", b"{"),
    "config a list": rewrite("config.json", b"[]"),
    "config without type": rewrite("config.json", b"{}"),
    "unknown architecture": lambda folder: change_config(folder, model_type="unheard-of"),
    "no causal model": lambda folder: change_config(folder, model_type="t5"),
    "field of another type": lambda folder: change_config(folder, hidden_size="wide"),
    "more layers than weights": lambda folder: change_config(folder, num_hidden_layers=6),
    "fewer layers than weights": lambda folder: change_config(folder, num_hidden_layers=2),
    "other shapes": lambda folder: change_config(folder, intermediate_size=64),
    "quantised": lambda folder: change_config(folder, quantization_config={"quant_method": "gptq", "bits": 4}),
    "pickled": lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_model_is_one_line_of_ours(folder, damage):
    DAMAGES[damage](folder)
    with pytest.raises(ModelError) as caught:
        load_model(source_of(folder), dtype=torch.float32, device=CPU)
    assert "\n" not in str(caught.value)
    assert "xpected" in str(caught.value)


def test_weights_that_would_be_random_or_ignored_are_named(folder):
    change_config(folder, num_hidden_layers=6)
    with pytest.raises(ModelError, match=r"lack model.layers.4.* \(18 such weights\)"):
        load_model(source_of(folder), dtype=torch.float32, device=CPU)
    change_config(folder, num_hidden_layers=3)
    with pytest.raises(ModelError, match=r"hold in excess model.layers.3"):
        load_model(source_of(folder), dtype=torch.float32, device=CPU)
    change_config(folder, num_hidden_layers=4, intermediate_size=64)
    with pytest.raises(ModelError, match=r"in another shape, model.layers.0.mlp"):
        load_model(source_of(folder), dtype=torch.float32, device=CPU)


def test_code_in_a_model_folder_is_never_run(folder, tmp_path):
    witness = tmp_path / "ran"
    (folder / "evil.py").write_text(f"import pathlib\npathlib.Path({str(witness)!r}).touch()\n")
    auto_map = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model", "AutoTokenizer": "evil.Tokenizer"}
    change_config(folder, auto_map=auto_map)
    load_model(source_of(folder), dtype=torch.float32, device=CPU)  # a known type: transformers' own code
    change_config(folder, model_type="unheard-of")
    with pytest.raises(ModelError, match="custom code"):
        load_model(source_of(folder), dtype=torch.float32, device=CPU)
    assert not witness.exists()


def test_the_hubs_conversion_service_is_not_asked(folder, monkeypatch):
    seen = []
    original = load.AutoModelForCausalLM.from_pretrained

    def watched(*args, **kwargs):
        seen.append((os.environ.get("DISABLE_SAFETENSORS_CONVERSION"), kwargs["use_safetensors"]))
        return original(*args, **kwargs)

    monkeypatch.setenv("DISABLE_SAFETENSORS_CONVERSION", "x")  # so that teardown restores whatever was there
    monkeypatch.delenv("DISABLE_SAFETENSORS_CONVERSION")
    monkeypatch.setattr(load.AutoModelForCausalLM, "from_pretrained", watched)
    load_model(source_of(folder), dtype=torch.float32, device=CPU)
    assert seen == [("1", True)]


@pytest.mark.parametrize("content", [b"{", b"", b"{}", b'{"added_tokens": [], "model": {}}'])
def test_a_damaged_tokenizer_is_one_line_of_ours(folder, content):
    (folder / "tokenizer.json").write_bytes(content)
    with pytest.raises(ModelError, match="Cannot read the tokenizer of model"):
        load_tokenizer(source_of(folder))


def test_an_error_that_is_no_reading_error_passes_through(tmp_path):
    with pytest.raises(KeyboardInterrupt), load.readable(ModelSource("m", "p"), "model"):
        raise KeyboardInterrupt
    with pytest.raises(AssertionError), load.readable(ModelSource("m", str(tmp_path)), "model"):
        raise AssertionError


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: ...")])
def test_too_little_memory_has_its_own_error(folder, monkeypatch, error):
    def exhausted(*args, **kwargs):
        raise error

    monkeypatch.setattr(load.AutoModelForCausalLM, "from_pretrained", exhausted)
    with pytest.raises(MemoryExhaustedError, match="does not fit"):
        load_model(source_of(folder), dtype=torch.float32, device=CPU)


def test_a_hub_id_that_was_never_downloaded_is_refused_offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    source = ModelSource("nobody/nothing-here", "nobody/nothing-here")
    for read in (load_tokenizer, local_folder, lambda s: load_model(s, dtype=torch.float32, device=CPU)):
        with pytest.raises(ModelError, match="nobody/nothing-here"):
            read(source)


def test_a_tokenizer_without_padding_token_pads_with_its_end_token(folder):
    tokenizer = load_tokenizer(source_of(folder))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 90
    assert len(tokenizer) == len(tiny_tokenizer())  # no token was added, so no embedding is missing


def test_a_tokenizer_with_neither_padding_nor_end_token_is_refused(folder):
    tiny_tokenizer(eos=None).save_pretrained(folder)
    settings = json.loads((folder / "config.json").read_text()) | {"eos_token_id": None}
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match="neither a padding nor an end token"):
        load_tokenizer(source_of(folder))


def test_the_end_of_turn_is_what_the_chat_template_writes_after_the_answer():
    assert end_of_turn_id(tiny_tokenizer(template=TEMPLATE), LlamaConfig()) == 90
    closing = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} <turn> {% endfor %}"
    assert end_of_turn_id(tiny_tokenizer(template=closing), LlamaConfig()) == 92


def test_without_a_usable_template_the_end_token_decides_then_the_config():
    failing = "{{ raise_exception('roles must alternate') }}"
    for template in (None, failing, "no words at all", "{{ messages[1]['content'] }} w1"):
        assert end_of_turn_id(tiny_tokenizer(template=template), LlamaConfig()) == 90
    assert end_of_turn_id(tiny_tokenizer(eos=None), Gemma3TextConfig(eos_token_id=[7, 8])) == 7
    with pytest.raises(ModelError, match="names a token that ends an answer"):
        end_of_turn_id(tiny_tokenizer(eos=None), LlamaConfig(eos_token_id=None))


@pytest.mark.parametrize("family", ["llama", "llama_untied"])
def test_a_rebuilt_model_has_the_same_weights_ties_and_no_quantisation(family):
    model = tiny_model(family)
    model.config.quantization_config = {"quant_method": "gguf"}
    rebuilt = rebuild_plain(model, torch.bfloat16)
    assert not hasattr(rebuilt.config, "quantization_config")
    assert rebuilt.dtype == torch.bfloat16
    tied = rebuilt.lm_head.weight is rebuilt.model.embed_tokens.weight
    assert tied == (family == "llama")
    expected = model.bfloat16().state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in rebuilt.state_dict().items())
    rebuilt.float()  # what the quantised one refuses


@pytest.mark.parametrize("content", [b"GGUFxxxx", b"hello there, no gguf", b""])
def test_a_damaged_gguf_file_is_one_line_of_ours(tmp_path, content):
    pytest.importorskip("gguf")
    (tmp_path / "a.gguf").write_bytes(content)
    source = ModelSource("a", str(tmp_path), gguf_file="a.gguf")
    for read in (load_tokenizer, lambda s: load_model(s, dtype=torch.float32, device=CPU)):
        with pytest.raises(ModelError, match="Cannot read the"):
            read(source)
