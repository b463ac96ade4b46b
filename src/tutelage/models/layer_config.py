"""What a configuration says of single decoder layers, cut down to the layers that stay.

In: a configuration and the numbers of the kept layers. Out: the same configuration, describing a smaller model.

Families say it in four ways: a list with one entry per layer, a list of layer numbers, the number of first layers
that differ, or a rule ("every second"). A rule becomes a list where the family reads one. What cannot be said is found
afterwards, when the config's own layers are compared with the kept ones.
"""

from collections.abc import Sequence
from typing import Any

# Lists of layer numbers: LFM2, Bamba, Zamba2, Qwen's mixtures, Llama 4, Jamba-like.
NUMBER_LISTS = (
    "full_attn_idxs", "attn_layer_indices", "hybrid_layer_ids", "mlp_only_layers", "moe_layers", "attn_layers",
    "attention_layers_idx", "dense_layers",
)  # fmt: skip
# How many of the first layers are dense: DeepSeek and GLM, LFM2-MoE, Ernie.
FIRST_COUNTS = ("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index")
# Lists that may have as many entries as there are layers by chance.
NOT_PER_LAYER = (
    "architectures", "eos_token_id", "bos_token_id", "pad_token_id", "suppress_tokens", "time_step_limit",
    "ssm_multipliers", "mlp_multipliers", "mtp_layers_block_type",
)  # fmt: skip


def cut_config(config: Any, kept: Sequence[int]) -> None:
    """Describe only the layers ``kept``, in place; ``num_hidden_layers`` included.

    Args:
        config: The text model's, before the cut.
        kept: Ascending layer numbers.
    """
    num_layers = config.num_hidden_layers
    new_number = {old: new for new, old in enumerate(kept)}
    _list_rules(config, num_layers)
    for name, value in list(vars(config).items()):
        if name in NUMBER_LISTS and isinstance(value, list | tuple):
            setattr(config, name, [new_number[number] for number in value if number in new_number])
        elif name in FIRST_COUNTS and isinstance(value, int):
            setattr(config, name, sum(old < value for old in kept))
        elif name not in NOT_PER_LAYER and isinstance(value, list | tuple) and len(value) == num_layers:
            setattr(config, name, [value[old] for old in kept])
        elif isinstance(value, str) and name.endswith("pattern") and len(value) == num_layers:
            setattr(config, name, "".join(value[old] for old in kept))
    if getattr(config, "attention_types", None) is not None:  # GPT-Neo: kinds and how often they are repeated
        config.attention_types = [[[kind], 1] for kind in config.attention_layers]
    config.num_hidden_layers = len(kept)


def _list_rules(config: Any, num_layers: int) -> None:
    """Turn rules by layer number into lists, for families that read both."""
    step = getattr(config, "decoder_sparse_step", None)
    if step is not None and step > 1 and hasattr(config, "mlp_only_layers"):  # Qwen's mixtures of experts
        dense = {number for number in range(num_layers) if (number + 1) % step}
        config.mlp_only_layers = sorted(dense | set(config.mlp_only_layers or ()))
        config.decoder_sparse_step = 1
    if getattr(config, "block_types", None) is not None:  # RecurrentGemma: a pattern that is repeated
        pattern = list(config.block_types)
        config.block_types = [pattern[number % len(pattern)] for number in range(num_layers)]
