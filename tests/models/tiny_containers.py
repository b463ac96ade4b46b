"""Tiny models of text and images, saved as their families save them today and as they used to."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tiny_families import SMALL, tiny_tokenizer
from transformers import (
    AutoModelForImageTextToText,
    Gemma3Config,
    Llama4Config,
    LlavaConfig,
    Mistral3Config,
    Qwen2_5_VLConfig,
    Qwen2VLConfig,
    Qwen3VLConfig,
    SmolVLMConfig,
)

TEXT: dict[str, Any] = {key: value for key, value in SMALL.items() if key != "initializer_range"}
EXPERTS: dict[str, Any] = {"num_local_experts": 2, "num_experts_per_tok": 1}
VIT: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
TOWER: dict[str, Any] = {**VIT, "image_size": 8, "patch_size": 4}
QWEN_TOWER: dict[str, Any] = {"depth": 2, "num_heads": 2, "patch_size": 4, "in_channels": 3}
MROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10_000.0}
IMAGE = {"image_token_id": 90, "video_token_id": 91, "vision_start_token_id": 92, "vision_end_token_id": 93}


def _qwen(config: Any, **more: Any) -> Any:
    tower = {**QWEN_TOWER, "hidden_size": 16, "intermediate_size": 16, **more}
    text = (
        {**TEXT, "rope_parameters": MROPE, "head_dim": 8}
        if config is Qwen3VLConfig
        else {**TEXT, "rope_parameters": MROPE}
    )
    return config(text_config=text, vision_config=tower, **IMAGE)


CONTAINERS: dict[str, Any] = {
    "llava": lambda: LlavaConfig(
        text_config={**TEXT, "model_type": "llama"},
        vision_config={**TOWER, "model_type": "clip_vision_model"},
        image_token_index=90,
    ),
    "llava_mixtral": lambda: LlavaConfig(
        text_config={**TEXT, **EXPERTS, "model_type": "mixtral"},
        vision_config={**TOWER, "model_type": "clip_vision_model"},
        image_token_index=90,
    ),
    "mistral3": lambda: Mistral3Config(
        text_config={**TEXT, "model_type": "mistral", "head_dim": 8},
        vision_config={**TOWER, "model_type": "pixtral", "head_dim": 8},
        image_token_index=90,
    ),
    "smolvlm": lambda: SmolVLMConfig(
        text_config={**TEXT, "model_type": "llama"}, vision_config={**TOWER}, image_token_id=90, scale_factor=1
    ),
    "gemma3": lambda: Gemma3Config(
        text_config={**TEXT, "head_dim": 8, "sliding_window": 4}, vision_config={**TOWER}, image_token_index=90
    ),
    "qwen2_vl": lambda: Qwen2VLConfig(
        text_config={**TEXT, "rope_parameters": MROPE},
        vision_config={"depth": 2, "num_heads": 2, "embed_dim": 16, "hidden_size": 32, "patch_size": 4},
        **IMAGE,
    ),
    "qwen2_5_vl": lambda: _qwen(Qwen2_5_VLConfig, out_hidden_size=32, fullatt_block_indexes=[1]),
    "qwen3_vl": lambda: _qwen(
        Qwen3VLConfig, out_hidden_size=32, deepstack_visual_indexes=[0, 1], num_position_embeddings=16
    ),
    "llama4": lambda: Llama4Config(
        text_config={**TEXT, **EXPERTS, "head_dim": 8, "intermediate_size_mlp": 48},
        vision_config={**TOWER, "vision_output_dim": 16, "projector_input_dim": 16, "projector_output_dim": 16},
        image_token_index=90,
    ),
}  # fmt: skip
# transformers saves most of them as they were first published; newer files have these names.
NEW_NAMES = {
    "language_model.model.": "model.language_model.",
    "language_model.lm_head.": "lm_head.",
    "model.layers.": "model.language_model.layers.",
    "model.embed_tokens.": "model.language_model.embed_tokens.",
    "model.norm.": "model.language_model.norm.",
    "visual.": "model.visual.",
}


def tiny_container(family: str) -> Any:
    """Build a random container; logits of text come from its text model."""
    torch.manual_seed(0)
    model: Any = AutoModelForImageTextToText.from_config(CONTAINERS[family]()).eval()
    for value in model.parameters():
        if value.dim() > 1:
            torch.nn.init.normal_(value, std=0.3)
    return model


def save_container(model: Any, folder: Path, *, new_names: bool = False) -> Path:
    """Save it with a tokenizer; ``new_names``: as newer releases name its weights."""
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    if new_names:
        renamed = {}
        for name, value in load_file(folder / "model.safetensors").items():
            new = next((into + name[len(own) :] for own, into in NEW_NAMES.items() if name.startswith(own)), name)
            renamed[new] = value
        save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
