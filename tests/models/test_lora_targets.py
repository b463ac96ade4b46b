import pytest
import torch
from tiny_families import padded, tiny_model
from transformers import AutoModelForCausalLM, BloomConfig, MambaConfig, MixtralConfig, Qwen3MoeConfig, Qwen3NextConfig

from tutelage.errors import ModelError
from tutelage.models.adapter import attach_lora, merge_adapter
from tutelage.models.head import final_hidden
from tutelage.models.load import quiet
from tutelage.models.lora_targets import lora_targets

SMALL = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 4, "pad_token_id": 0}
MOE = {**SMALL, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
CONFIGS = {
    "bloom": BloomConfig(vocab_size=97, hidden_size=32, n_layer=2, n_head=4),
    "mamba": MambaConfig(**(SMALL | {"num_hidden_layers": 2}), state_size=4),
    "mixtral": MixtralConfig(**MOE, num_local_experts=4),
    "qwen3_moe": Qwen3MoeConfig(**MOE, num_experts=4, moe_intermediate_size=16, mlp_only_layers=[0]),
    "qwen3_next": Qwen3NextConfig(**MOE, num_experts=4, moe_intermediate_size=16, shared_expert_intermediate_size=16),
}
ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}


def model_of(name, *, device="cpu"):
    if name not in CONFIGS:
        return tiny_model(name)
    torch.manual_seed(0)
    with quiet(), torch.device(device):
        return AutoModelForCausalLM.from_config(CONFIGS[name]).eval()


def short(names):
    return {name.split(".")[-1] for name in names}


@pytest.mark.parametrize(
    ("name", "default", "all_linear"),
    [
        ("llama", ATTENTION, {*ATTENTION, "gate_proj", "up_proj", "down_proj"}),
        ("gpt2", {"c_attn"}, {"c_attn", "c_fc", "c_proj"}),
        ("bloom", {"query_key_value"}, {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}),
        ("mamba", {"in_proj"}, {"in_proj"}),
        ("qwen3_moe", ATTENTION, ATTENTION),
        ("qwen3_next", ATTENTION, {*ATTENTION, "in_proj_qkvz", "in_proj_ba", "shared_expert_gate"}),
    ],
)
def test_targets_follow_the_architecture_and_peft_takes_them(name, default, all_linear):
    assert short(lora_targets(model_of(name, device="meta"), None)) == default
    assert short(lora_targets(model_of(name, device="meta"), "all-linear")) == all_linear
    attach_lora(model_of(name, device="meta"), dropout=0.05)
    attach_lora(model_of(name, device="meta"), dropout=0.05, targets="all-linear")


@pytest.mark.parametrize("name", ["gpt2", "mamba"])
def test_an_adapter_on_any_kind_of_layer_changes_the_model_and_merges_exactly(name):
    model, batch = model_of(name), padded([[5, 6, 7, 8, 9]])
    with torch.no_grad():
        before = final_hidden(model, batch)
        wrapped = attach_lora(model, r=4, dropout=0.0)
        for part, parameter in wrapped.named_parameters():
            if "lora_B" in part:
                torch.nn.init.normal_(parameter, std=0.2)
        adapted = final_hidden(wrapped.eval(), batch)
        merged = final_hidden(merge_adapter(wrapped), batch)
    assert (adapted - before).abs().max() > 1e-2
    torch.testing.assert_close(merged, adapted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "options", "cause"),
    [
        ("mamba", {"targets": ["out_proj"]}, "'out_proj' is incompatible with Mamba"),
        ("mixtral", {"targets": ["w1", "w2", "w3"]}, "'w1' is no linear layer of this MixtralForCausalLM"),
        ("qwen3_moe", {"targets": ["gate_proj", "up_proj", "down_proj"]}, "lora_dropout"),
        ("qwen3_moe", {"targets": ["gate_proj"], "dropout": 0.0}, "without also targeting"),
    ],
)
def test_what_peft_refuses_is_one_line_also_without_weights(name, options, cause):
    with pytest.raises(ModelError, match=cause) as refused:
        attach_lora(model_of(name, device="meta"), **options)
    assert "\n" not in str(refused.value)
    assert "targets" in str(refused.value) or "Expected" in str(refused.value)
