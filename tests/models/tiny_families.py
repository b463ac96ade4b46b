"""Tiny random models of many families, and batches for them."""

from collections.abc import Callable
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Cohere2Config,
    CohereConfig,
    DiffLlamaConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoConfig,
    GptOssConfig,
    GraniteConfig,
    JambaConfig,
    Lfm2Config,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    Olmo3Config,
    OlmoConfig,
    OlmoeConfig,
    OPTConfig,
    PhiConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    RecurrentGemmaConfig,
    SmolLM3Config,
)

from tutelage.types import Batch

VOCAB = 97
# A wide start makes attention and layers matter: with the default 0.02 a leak would hide in rounding.
SMALL: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.3,
}
GEMMA: dict[str, Any] = SMALL | {"head_dim": 8}
SOFTCAPPED: dict[str, Any] = GEMMA | {
    "sliding_window": 4,
    "final_logit_softcapping": 5.0,
    "attn_logit_softcapping": 10.0,
    "query_pre_attn_scalar": 8,
}
GRANITE: dict[str, Any] = {"embedding_multiplier": 2.0, "residual_multiplier": 0.5, "attention_multiplier": 0.3}
EXPERTS: dict[str, Any] = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2}
HYBRID: dict[str, Any] = {
    "mamba_d_state": 4,
    "use_mamba_kernels": False,
    "attn_layer_period": 2,
    "attn_layer_offset": 1,
    "expert_layer_period": 2,
    "expert_layer_offset": 1,
    "num_experts": 2,
}
WAVES = ["conv", "full_attention", "conv", "full_attention"]
LOCAL = {"attention_types": [[["global", "local"], 2]], "window_size": 4, "num_layers": 4, "num_heads": 4}
SLIDING_TOP = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2}

# Pass every proof, each alike.
FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaConfig(**SMALL, tie_word_embeddings=True),
    "llama_untied": lambda: LlamaConfig(**SMALL, tie_word_embeddings=False, attention_bias=True),
    "mistral_sliding": lambda: MistralConfig(**SMALL, sliding_window=4),
    "qwen2": lambda: Qwen2Config(**SMALL, tie_word_embeddings=True),
    "qwen2_half_sliding": lambda: Qwen2Config(**SMALL, **SLIDING_TOP),
    "qwen3": lambda: Qwen3Config(**SMALL, head_dim=8),
    "gemma": lambda: GemmaConfig(**GEMMA),
    "gemma2": lambda: Gemma2Config(**SOFTCAPPED),
    "gemma3": lambda: Gemma3TextConfig(**SOFTCAPPED),
    "olmo": lambda: OlmoConfig(**SMALL),
    "olmo2": lambda: Olmo2Config(**SMALL),
    "olmo3": lambda: Olmo3Config(**SMALL, sliding_window=4),
    "granite": lambda: GraniteConfig(**SMALL, **GRANITE, logits_scaling=6.0),
    "cohere": lambda: CohereConfig(**SMALL, logit_scale=0.25),
    "cohere2": lambda: Cohere2Config(**SMALL, logit_scale=0.25, sliding_window=4),
    "smollm3": lambda: SmolLM3Config(**SMALL),
    "phi": lambda: PhiConfig(**SMALL),  # the head has a bias, layers run attention and MLP side by side
    "gpt2": lambda: GPT2Config(**SMALL, n_embd=32, n_layer=4, n_head=4, n_inner=48, n_positions=64),
}
# Sums depend, by rounding, on the other tokens that are routed to an expert.
WITH_EXPERTS: dict[str, Callable[[], Any]] = {
    "mixtral": lambda: MixtralConfig(**SMALL, **EXPERTS),
    "olmoe": lambda: OlmoeConfig(**SMALL, **EXPERTS),
}
# Documents that lie one behind another read each other, whatever `position_ids` say.
NOT_PACKED: dict[str, Callable[[], Any]] = {
    "opt": lambda: OPTConfig(**SMALL, ffn_dim=48, word_embed_proj_dim=32, init_std=0.3),
    "gpt_oss": lambda: GptOssConfig(**SMALL, **EXPERTS, head_dim=8, sliding_window=4),
    "lfm2": lambda: Lfm2Config(**SMALL, layer_types=WAVES),
    "recurrent_gemma": lambda: RecurrentGemmaConfig(
        **GEMMA, lru_width=32, attention_window_size=4, block_types=["recurrent", "attention"]
    ),
}
# A layer is made by its number: some cannot go without making another model of the rest.
MADE_BY_NUMBER: dict[str, Callable[[], Any]] = {
    "diffllama": lambda: DiffLlamaConfig(**SMALL),
    "gpt_neo": lambda: GPTNeoConfig(**LOCAL, vocab_size=VOCAB, hidden_size=32, max_position_embeddings=64),
    "jamba": lambda: JambaConfig(**SMALL, **HYBRID),
}
EVERY_FAMILY = {**FAMILIES, **WITH_EXPERTS, **NOT_PACKED, **MADE_BY_NUMBER}


def tiny_model(family: str = "llama", *, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """Build a random model of a family; ``changes`` overwrite its config."""
    torch.manual_seed(seed)
    config = EVERY_FAMILY[family]()
    for name, value in changes.items():
        setattr(config, name, value)
    return AutoModelForCausalLM.from_config(config).eval()


def tiny_tokenizer(*, eos: str | None = "<eos>", template: str | None = None) -> PreTrainedTokenizerFast:
    """Build a word tokenizer with ids below 92 and no padding token."""
    words = {f"w{i}": i for i in range(80)} | {"<eos>": 90, "<unk>": 91, "<turn>": 92}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()  # type: ignore[misc]
    tokenizer.add_special_tokens(["<eos>", "<turn>"])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos, unk_token="<unk>")
    fast.chat_template = template
    return fast


def padded(rows: list[list[int]], *, at: list[int] | None = None, pad_id: int = 0) -> Batch:
    """Lay rows out with padding on the right; ``at`` are flat positions, by default all."""
    width = max(map(len, rows))
    ids_BT = torch.tensor([row + [pad_id] * (width - len(row)) for row in rows])
    mask_BT = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return _batch(ids_BT, torch.arange(width).expand_as(ids_BT), mask_BT, at)


def packed(rows: list[list[int]], *, at: list[int] | None = None) -> Batch:
    """Lay rows out as one line of documents."""
    ids_BT = torch.tensor([[token for row in rows for token in row]])
    position_BT = torch.cat([torch.arange(len(row)) for row in rows])[None]
    return _batch(ids_BT, position_BT, None, at)


def _batch(ids_BT: Tensor, position_BT: Tensor, mask_BT: Tensor | None, at: list[int] | None) -> Batch:
    index_N = torch.arange(ids_BT.numel()) if at is None else torch.tensor(at, dtype=torch.int64)
    num_tokens = ids_BT.numel() if mask_BT is None else int(mask_BT.sum())
    return Batch(ids_BT, position_BT, mask_BT, index_N, torch.zeros_like(index_N), [], [], num_tokens)
