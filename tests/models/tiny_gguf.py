"""Tiny GGUF files, as llama.cpp's converter writes them, and their faults."""

from collections.abc import Collection
from pathlib import Path

import gguf
import numpy as np
import torch
from tiny_families import tiny_model

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def write_gguf(
    path: Path, *, without: Collection[str] = (), tied: bool = False, merges: Collection[str] = ("a b",)
) -> Path:
    """Write a random Qwen2 (whose converter reorders nothing) with a word tokenizer of 97 ids."""
    model = tiny_model("qwen2", tie_word_embeddings=tied)
    config = model.config
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*"abcdefghijklmnopqrstuvwxyz", "ab", *(f"w{i}" for i in range(68)), "<end>", "<pad>"])
    writer.add_token_types([1] * 95 + [3, 3])
    writer.add_token_merges(list(merges))
    writer.add_eos_token_id(95)
    writer.add_pad_token_id(96)
    for name, value in model.state_dict().items():
        stem, _, kind = name.rpartition(".")
        if stem.startswith("model.layers."):
            number, _, part = stem.removeprefix("model.layers.").partition(".")
            stored = f"blk.{number}.{NAMES[part]}.{kind}"
        else:
            stored = f"{WHOLE[stem]}.{kind}"
        if stored not in without and not (tied and stem == "lm_head"):
            writer.add_tensor(stored, value.to(torch.float32).numpy().astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
