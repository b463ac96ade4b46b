"""Rows of a vocabulary that stand for no token are cut off at load and are there again when the model is saved."""

import copy

import pytest
import torch
from tiny_families import EVERY_FAMILY, VOCAB, tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM

from tutelage.models.adapter import attach_lora, merge_adapter
from tutelage.models.export import count_parameters, save_student
from tutelage.models.load import load_model
from tutelage.models.padding import cut_padding, padding_of, whole_vocabulary
from tutelage.models.probe import prove_model
from tutelage.models.source import ModelSource

CUT = VOCAB - 4  # the tokenizer's largest id is 92
IDS_BT = torch.tensor([[3, 5, 9, 20]])


def logits_of(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS_BT, use_cache=False).logits


def weights_of(model):
    return {name: value.detach().clone() for name, value in model.named_parameters(remove_duplicate=False)}


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_the_logits_of_tokens_stay_and_those_of_padding_go(family):
    model = tiny_model(family)
    weights, before = weights_of(model), logits_of(model)
    cut_padding(model, CUT)
    assert torch.equal(logits_of(model), before[..., :CUT])
    assert [result for result in prove_model(model, None) if result.required and not result.passed] == []
    with whole_vocabulary(model):
        assert all(torch.equal(value, weights[name]) for name, value in weights_of(model).items())
        assert model.config.get_text_config().vocab_size == VOCAB
        assert torch.equal(logits_of(model), before)
    assert torch.equal(logits_of(model), before[..., :CUT])


@pytest.mark.parametrize("num_ids", [VOCAB, VOCAB + 1])
def test_a_model_without_padding_keeps_its_own_parameters(num_ids):
    model = tiny_model("llama")
    weight = model.get_output_embeddings().weight
    cut_padding(model, num_ids)
    assert model.get_output_embeddings().weight is weight
    assert padding_of(model) is None


@pytest.mark.parametrize("family", ["llama", "llama_untied", "gpt2", "phi"])
def test_a_trained_model_is_saved_in_its_original_shape(family, tmp_path):
    save_student(tiny_model(family), tiny_tokenizer(), tmp_path / "given")
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "given")
    source = ModelSource("given", str(tmp_path / "given"))
    model = load_model(source, dtype=torch.float32, device=torch.device("cpu"), num_ids=CUT)
    assert model.get_output_embeddings().weight.shape[0] == CUT
    assert count_parameters(model) == count_parameters(whole)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(2)
    save_student(model, tiny_tokenizer(), tmp_path / "saved")
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert saved.config.vocab_size == whole.config.vocab_size == VOCAB
    assert saved.config.tie_word_embeddings == whole.config.tie_word_embeddings
    old, new = (each.get_output_embeddings().weight for each in (whole, saved))
    assert torch.equal(new[:CUT], 2 * old[:CUT])
    assert torch.equal(new[CUT:], old[CUT:])
    assert model.get_output_embeddings().weight.shape[0] == CUT


@pytest.mark.parametrize("family", ["llama", "llama_untied"])
def test_gradients_reach_the_tokens_and_an_adapter_is_merged(family, tmp_path):
    model = tiny_model(family)
    cut_padding(model, CUT)
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == (family == "llama")
    twin = copy.deepcopy(model)
    model(input_ids=IDS_BT, use_cache=False).logits.sum().backward()
    assert model.get_output_embeddings().weight.grad.abs().amax(dim=1).min() > 0
    merged = merge_adapter(attach_lora(twin, r=2, alpha=4, dropout=0.0, targets=None, last_layers=None))
    save_student(merged, tiny_tokenizer(), tmp_path / "saved")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "saved").config.vocab_size == VOCAB


def test_a_padding_token_in_the_padding_is_no_obstacle():
    model = tiny_model("llama")
    model.get_input_embeddings().padding_idx = VOCAB - 1
    cut_padding(model, CUT)
    assert logits_of(model).shape[-1] == CUT
    with whole_vocabulary(model):
        assert model.get_input_embeddings().padding_idx == VOCAB - 1
