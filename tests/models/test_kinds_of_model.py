"""What a checkpoint is: a causal language model, one inside a container, or something else in its own words."""

import json

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from tiny_containers import CONTAINERS, TEXT, TOWER, save_container, tiny_container
from tiny_families import SMALL, VOCAB, padded, tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM

from tutelage.errors import ModelError
from tutelage.models.causal import causal_part
from tutelage.models.export import save_student
from tutelage.models.head import body_of, final_hidden
from tutelage.models.load import load_config, load_model
from tutelage.models.probe import prove_model
from tutelage.models.shrink import decoder_layers, drop_layers
from tutelage.models.source import ModelSource

CPU = torch.device("cpu")
IDS_BT = torch.tensor([[5, 6, 7, 8, 9]])


def load(folder):
    return load_model(ModelSource("m", str(folder)), dtype=torch.float32, device=CPU)


def logits_of(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS_BT, use_cache=False).logits


@pytest.mark.parametrize("family", CONTAINERS)
def test_the_text_model_inside_a_container_is_used_and_its_towers_stay_on_disk(family, tmp_path):
    whole = tiny_container(family)
    expected = logits_of(whole)
    for new_names in (False, True):
        folder = save_container(whole, tmp_path / str(new_names), new_names=new_names)
        model = load(folder)
        torch.testing.assert_close(logits_of(model), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
        assert not any("vision" in name or "visual" in name for name, _ in model.named_parameters())
        assert sum(p.numel() for p in model.parameters()) < sum(p.numel() for p in whole.parameters())
    assert all(result.passed for result in prove_model(model, None) if result.required)


@pytest.mark.parametrize("family", ["llava", "mistral3", "qwen2_vl", "llama4"])
def test_a_student_from_a_container_loads_with_plain_transformers(family, tmp_path):
    model = load(save_container(tiny_container(family), tmp_path / "container"))
    drop_layers(model, (0, 3))
    save_student(model, tiny_tokenizer(), tmp_path / "student")
    again, loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "student", output_loading_info=True)
    assert not loaded["missing_keys"]
    assert not loaded["unexpected_keys"]
    assert torch.equal(logits_of(again), logits_of(model))


def test_a_weight_of_the_text_model_that_a_container_lacks_is_named(tmp_path):
    folder = save_container(tiny_container("llava"), tmp_path)
    weights = load_file(folder / "model.safetensors")
    del weights["language_model.model.layers.2.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lack model\.layers\.2\.mlp\.up_proj\.weight \(1 such"):
        load(folder)


def test_llama_4_is_read_through_the_part_below_its_head():
    config = hf.Llama4TextConfig(
        **SMALL, head_dim=8, intermediate_size_mlp=48, num_local_experts=2, num_experts_per_tok=1
    )
    model = hf.Llama4ForCausalLM(config).eval()
    assert body_of(model) is model.model
    assert len(decoder_layers(model)) == 4
    hidden_ND = final_hidden(model, padded([[5, 6, 7]]))
    torch.testing.assert_close(model.lm_head(hidden_ND)[None], model(torch.tensor([[5, 6, 7]])).logits)
    assert all(result.passed for result in prove_model(model, None))


SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
ENCODER_DECODER = {
    "vocab_size": VOCAB, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
}  # fmt: skip
OTHER_KINDS = {
    "an encoder: its head fills gaps": lambda: hf.BertForMaskedLM(hf.BertConfig(**SIZES)),
    "is_decoder: false": lambda: hf.RobertaModel(hf.RobertaConfig(**SIZES)),
    "an encoder-decoder": lambda: hf.BartForConditionalGeneration(hf.BartConfig(**ENCODER_DECODER)),
    "a classifier: its head gives scores of classes": lambda: hf.LlamaForSequenceClassification(
        hf.LlamaConfig(**SIZES)
    ),
    "a tagger": lambda: hf.Qwen2ForTokenClassification(hf.Qwen2Config(**SIZES)),
    "of the type vit": lambda: hf.ViTModel(
        hf.ViTConfig(**{**SIZES, "image_size": 8, "patch_size": 4, "vocab_size": None})
    ),
}


@pytest.mark.parametrize("words", OTHER_KINDS)
def test_another_kind_of_model_is_named_as_what_it_is_before_its_weights_are_read(words, tmp_path):
    OTHER_KINDS[words]().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=words) as caught:
        load_config(ModelSource("m", str(tmp_path)))
    assert "Expected a causal language model" in str(caught.value)
    assert "download" not in str(caught.value)


def test_a_text_model_that_sees_the_words_to_come_is_refused():
    text = {**TEXT, "model_type": "gemma", "head_dim": 8}
    tower = {**TOWER, "model_type": "siglip_vision_model", "projection_dim": 32}
    config = hf.PaliGemmaConfig(text_config=text, vision_config=tower, projection_dim=32)
    with pytest.raises(ModelError, match="see the words after a position too"):
        causal_part(config, "m")


def test_decoders_are_no_encoders_whatever_their_config_says():
    for config in (hf.GPTNeoXConfig(**SIZES), hf.BertConfig(**SIZES, is_decoder=True), hf.GPT2Config(), hf.OPTConfig()):
        assert causal_part(config, "m").config is config


def test_a_body_without_a_head_is_said_to_be_one(tmp_path):
    hf.Qwen3Model(hf.Qwen3Config(**SIZES, head_dim=8)).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"no output head .*a body alone, as embedding models are saved"):
        load(tmp_path)


def test_a_tied_flag_beside_a_head_of_its_own_is_mended_at_load(tmp_path):
    model = tiny_model("llama_untied")
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    again = load(tmp_path)
    assert again.config.tie_word_embeddings is False
    assert torch.equal(logits_of(again), logits_of(model))
    assert load_tied(tmp_path / "tied").config.tie_word_embeddings is True


def load_tied(folder):
    tiny_model("llama").save_pretrained(folder)
    return load(folder)
