"""The causal language model in a checkpoint: its class and config, or in plain words why there is none.

In: a configuration, the names of the stored weights. Out: ``CausalPart``: the text model alone, where a checkpoint
holds one beside towers for images or sound; everything else stays on disk.
"""

import copy
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig, PreTrainedModel

from tutelage.errors import ModelError

# The text models of these containers have no causal class of their own. With text alone their three position ids are
# equal, which makes them their plain siblings (compared logit by logit in the tests).
TWINS = {
    "qwen2_vl_text": "qwen2",
    "qwen2_5_vl_text": "qwen2",
    "qwen2_5_omni_text": "qwen2",
    "qwen3_vl_text": "qwen3",
    "qwen3_vl_moe_text": "qwen3_moe",
}
OTHER_HEADS = {
    "ForSequenceClassification": "a classifier: its head gives scores of classes",
    "ForTokenClassification": "a tagger: its head gives a class per token",
    "ForQuestionAnswering": "a span finder: its head gives the start and end of an answer",
    "ForMultipleChoice": "a chooser: its head gives one score per choice",
    "RewardModel": "a reward model: its head gives one score",
    "ForMaskedLM": "an encoder: its head fills gaps and sees the words after them",
    "ForPreTraining": "an encoder as it was pre-trained: its head fills gaps and sees the words after them",
    "ForConditionalGeneration": "a model that reads one sequence and writes another",
}
ENCODERS_DECODERS = "an encoder-decoder: it reads one sequence and writes another"
TWO_WAYS = "made to see the words after a position too (`use_bidirectional_attention`)"
ENCODER = "an encoder (`is_decoder: false`): it sees the words after a position, and has no head for the next token"
# Decoders whose config says `is_decoder: false` without meaning anything by it.
SAY_NO = frozenset({"gpt_neox", "gpt_neox_japanese", "reformer"})
EXPECTED = "Expected a causal language model, which writes the next token (a Llama, Qwen, Mistral, GPT, ...)."


@dataclass(frozen=True)
class CausalPart:
    """What is loaded of a checkpoint."""

    config: PreTrainedConfig
    model_class: type[PreTrainedModel]
    is_inner: bool = False  # the text model of a container: its weights have other names there


def causal_part(config: PreTrainedConfig, name: str) -> CausalPart:
    """Return the class and config of the causal language model that a configuration describes.

    Args:
        config: As stored; not changed.
        name: What people call the model.

    Raises:
        ModelError: If it describes another kind of model, in its own words.
    """
    inner = config.get_text_config(decoder=True)
    if inner is not config and (found := _text_model(inner)) is not None:
        if getattr(config, "tie_word_embeddings", False):  # said of the whole, and not always of the text model too
            found.config.tie_word_embeddings = True  # pyright: ignore[reportAttributeAccessIssue]
        quantised = getattr(config, "quantization_config", None)
        if quantised is not None and getattr(found.config, "quantization_config", None) is None:
            found.config.quantization_config = quantised  # pyright: ignore[reportAttributeAccessIssue]
        return found
    cause = _other_kind(config) or (_other_kind(inner) if inner is not config else None)
    if cause is not None:
        raise ModelError(f"{name} is {cause}. {EXPECTED}")
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        named = ", ".join(config.architectures or ["no architecture named"])
        raise ModelError(
            f"{name} is of the type {config.model_type} ({named}), for which transformers has no causal language "
            f"model. {EXPECTED}"
        )
    return CausalPart(config, _class_of(config))


def _text_model(inner: PreTrainedConfig) -> CausalPart | None:
    twin = TWINS.get(inner.model_type)
    text = _as_twin(inner, twin) if twin is not None else copy.deepcopy(inner)
    if type(text) not in MODEL_FOR_CAUSAL_LM_MAPPING or _other_kind(text) is not None:
        return None
    return CausalPart(text, _class_of(text), is_inner=True)


def _class_of(config: PreTrainedConfig) -> type[PreTrainedModel]:
    found: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return found[0] if isinstance(found, tuple) else found


def _as_twin(inner: PreTrainedConfig, twin: str) -> PreTrainedConfig:
    config_class: Any = CONFIG_MAPPING[twin]
    values = {key: value for key, value in inner.to_dict().items() if key not in ("model_type", "architectures")}
    rope = dict(values.get("rope_parameters") or {})
    for key in ("mrope_section", "mrope_interleaved"):
        rope.pop(key, None)
    if rope.get("rope_type") in ("mrope", None):
        rope["rope_type"] = "default"
    rope.pop("type", None)
    known = set(config_class().to_dict()) | {"rope_parameters"}
    return config_class(**{key: value for key, value in {**values, "rope_parameters": rope}.items() if key in known})


def _other_kind(config: PreTrainedConfig) -> str | None:
    """Say what a model is that is no causal language model; None for one that is."""
    if getattr(config, "is_encoder_decoder", False):
        return f"{ENCODERS_DECODERS} ({config.model_type})"
    for architecture in config.architectures or ():
        for ending, cause in OTHER_HEADS.items():
            if architecture.endswith(ending) and not _is_causal_class(config, architecture):
                return f"{cause} ({architecture})"
    if getattr(config, "use_bidirectional_attention", None) in (True, "all"):
        return f"{TWO_WAYS} ({config.model_type})"
    if getattr(config, "is_decoder", None) is False and config.model_type not in SAY_NO:
        return f"{ENCODER} ({config.model_type})"
    return None


def _is_causal_class(config: PreTrainedConfig, architecture: str) -> bool:
    return type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and _class_of(config).__name__ == architecture


def inner_names(part: CausalPart, stored: Collection[str], name: str) -> dict[str, str]:
    """Return how weights of a container are renamed to those of its text model: patterns and replacements.

    Containers call their text model ``language_model.model.``, ``model.language_model.``, ``thinker.model.`` and so
    on, by age and family. The token embeddings tell: no tower for images or sound has any.

    Args:
        part: Of a container.
        stored: Names of all weights in the files.
        name: What people call the model.

    Raises:
        ModelError: If the embeddings are not found in the files, or in several places.
    """
    with torch.device("meta"):
        model = part.model_class(part.config)
    expected = list(model.state_dict())
    embeddings: Any = model.get_input_embeddings()
    own = next(key for key, value in model.named_parameters() if value is embeddings.weight)
    tail = own.rpartition(".")[0].rpartition(".")[2] + ".weight"  # embed_tokens.weight, wte.weight
    body = own.removesuffix(tail)
    found = sorted(key for key in stored if key == tail or key.endswith(f".{tail}"))
    if len(found) != 1:
        places = ", ".join(found[:3]) or f"none of {len(stored)}"
        raise ModelError(
            f"{name} is a container of several models, and its text model cannot be told from the rest: expected one "
            f"weight that ends in {tail}, found {places}. Save the text model alone and use that."
        )
    prefix = found[0].removesuffix(tail)
    renamed = {f"^{re.escape(prefix)}": body} if prefix != body else {}
    heads = sorted(key for key in stored if key.endswith("lm_head.weight"))
    if heads and "lm_head.weight" in expected and heads[0] != "lm_head.weight":
        renamed = {f"^{re.escape(heads[0].removesuffix('weight'))}": "lm_head."} | renamed
    return renamed


def left_on_disk(unexpected: Collection[str], model: PreTrainedModel) -> set[str]:
    """Return which of a container's unread weights belong to its other parts: towers, projectors."""
    own = {key.split(".")[0] for key in model.state_dict()}
    deeper = {".".join(key.split(".")[:2]) for key in model.state_dict()}
    return {key for key in unexpected if key.split(".")[0] not in own or ".".join(key.split(".")[:2]) not in deeper}
