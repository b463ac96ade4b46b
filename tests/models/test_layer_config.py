"""Configurations that describe single layers lose them with the layers: what is saved is what was trained."""

from typing import Any

import pytest
import torch
import transformers as hf
from tiny_families import EXPERTS, GEMMA, LOCAL, SMALL, VOCAB, WAVES, tiny_tokenizer

from tutelage.errors import ModelError
from tutelage.models.export import save_student
from tutelage.models.layer_config import cut_config
from tutelage.models.shrink import decoder_layers, drop_layers, require_cuttable

STATES: dict[str, Any] = {
    "mamba_d_state": 8, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_chunk_size": 8,
}  # fmt: skip
MIXTURE: dict[str, Any] = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}
ROUTED: dict[str, Any] = {
    "n_routed_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16, "n_group": 1, "topk_group": 1,
    "first_k_dense_replace": 1,
}  # fmt: skip
HYBRIDS: dict[str, Any] = {
    "layer kinds in a list": lambda: hf.Lfm2Config(**SMALL, layer_types=WAVES),
    "numbers of the attention layers": lambda: hf.BambaConfig(**SMALL, **STATES, attn_layer_indices=[1, 3]),
    "kinds under another name": lambda: hf.NemotronHConfig(
        **SMALL, layers_block_type=["mamba", "attention", "mamba", "mlp"], mamba_num_heads=4, mamba_head_dim=16,
        ssm_state_size=8, n_groups=1, chunk_size=8, head_dim=8,
    ),
    "a list and first dense layers": lambda: hf.Lfm2MoeConfig(
        **SMALL, **MIXTURE, layer_types=WAVES, num_dense_layers=1
    ),
    "the first layers dense": lambda: hf.Glm4MoeConfig(**SMALL, **ROUTED, head_dim=8),
    "every second layer sparse": lambda: hf.Qwen2MoeConfig(
        **SMALL, **MIXTURE, shared_expert_intermediate_size=16, decoder_sparse_step=2
    ),
    "numbers of the dense layers": lambda: hf.Qwen3MoeConfig(**SMALL, **MIXTURE, mlp_only_layers=[0, 2], head_dim=8),
    "experts and positions in lists": lambda: hf.Llama4TextConfig(
        **SMALL, **EXPERTS, head_dim=8, intermediate_size_mlp=48, interleave_moe_layer_step=2
    ),
    "a repeated pattern": lambda: hf.RecurrentGemmaConfig(
        **GEMMA, lru_width=32, attention_window_size=4, block_types=["recurrent", "attention"]
    ),
    "a nested list": lambda: hf.GPTNeoConfig(**LOCAL, vocab_size=VOCAB, hidden_size=32, max_position_embeddings=64),
}  # fmt: skip


@pytest.mark.parametrize("kept", [(1, 3), (0, 1, 3)], ids=str)
@pytest.mark.parametrize("family", HYBRIDS)
def test_a_cut_hybrid_is_saved_as_the_model_that_was_cut(family, kept, tmp_path):
    torch.manual_seed(0)
    model: Any = hf.AutoModelForCausalLM.from_config(HYBRIDS[family]()).eval()
    expected = [sum(p.numel() for p in decoder_layers(model)[i].parameters()) for i in kept]
    drop_layers(model, kept)
    assert [sum(p.numel() for p in layer.parameters()) for layer in decoder_layers(model)] == expected
    save_student(model, tiny_tokenizer(), tmp_path)  # it loads what it saved and compares weights, buffers and logits


def test_each_way_to_speak_of_layers_is_cut():
    config = hf.LlamaConfig(**SMALL)
    told = {
        "layer_types": ["a", "b", "c", "d"], "anything_new": [1.0, 2.0, 3.0, 4.0], "full_attn_idxs": [1, 2],
        "first_k_dense_replace": 2, "override_pattern": "M*M-", "eos_token_id": [4, 5, 6, 7], "few": [1, 2],
    }  # fmt: skip
    for name, value in told.items():
        setattr(config, name, value)
    cut_config(config, (0, 2, 3))
    assert {name: getattr(config, name) for name in told} == {
        "layer_types": ["a", "c", "d"], "anything_new": [1.0, 3.0, 4.0], "full_attn_idxs": [1],
        "first_k_dense_replace": 1, "override_pattern": "MM-", "eos_token_id": [4, 5, 6, 7], "few": [1, 2],
    }  # fmt: skip
    assert config.num_hidden_layers == 3


def test_a_cut_that_cannot_be_described_is_refused_from_the_configuration_alone():
    shared = hf.DiffLlamaConfig(**SMALL)
    require_cuttable(shared, "m", [(0, 1)])
    with pytest.raises(ModelError, match=r"does not describe the layers \[1, 3\].*lambda_init"):
        require_cuttable(shared, "m", [(0, 1), (1, 3)])
    require_cuttable(hf.LlamaConfig(**SMALL), "m", [(1, 3)])


def test_layers_that_share_weights_are_refused():
    config = hf.Zamba2Config(
        **SMALL, mamba_d_state=8, n_mamba_heads=4, mamba_ngroups=1, chunk_size=8, num_mem_blocks=1,
        layers_block_type=["mamba", "hybrid", "mamba", "hybrid"],
    )  # fmt: skip
    with pytest.raises(ModelError, match="share weights"):
        require_cuttable(config, "m", [(1, 3)])
