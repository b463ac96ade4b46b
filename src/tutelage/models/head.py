"""The border between a model's body and its output head.

In: any causal language model of ``transformers``, plain or wrapped by ``peft``, and a ``Batch``.
Out: the final hidden states at the supervised positions, and the ``OutputHead`` that reads them.
"""

from typing import Any

from jaxtyping import Float
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from tutelage.errors import ModelError
from tutelage.types import Batch, OutputHead

# Each name as its family's config spells it; `prove_model` compares the result with the model's own logits.
MULTIPLIERS = ("logit_scale", "lm_head_multiplier")  # Cohere; Falcon-H1
DIVISORS = ("logits_scaling",)  # Granite
SOFTCAPS = (
    "final_logit_softcapping",
    "logits_soft_cap",
    "output_logit_soft_cap",
)  # Gemma 2 and 3; RecurrentGemma; xLSTM


def plain_model(model: nn.Module) -> PreTrainedModel:
    """Return the causal language model inside a ``peft`` wrapper, adapters in place; a plain one as it is.

    Raises:
        ModelError: If ``model`` is neither.
    """
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    if not isinstance(inner, PreTrainedModel):
        raise ModelError(
            f"Found a {type(inner).__name__}, expected a transformers causal language model or a peft model around "
            "one. Load it with tutelage.models.load.load_model."
        )
    return inner


def body_of(model: nn.Module) -> nn.Module:
    """Return what turns ids into final hidden states: the part below the output head, whatever the wrapper.

    Raises:
        ModelError: If no part holds the embeddings without the head.
    """
    inner: Any = plain_model(model)
    body, head, embeddings = inner.get_decoder(), inner.get_output_embeddings(), inner.get_input_embeddings()
    if body is not inner:
        return body
    # some families do not say (Llama 4): the part that holds the embeddings and not the head
    for part in inner.children():
        held = set(part.modules())
        if embeddings in held and head not in held:
            return part
    raise ModelError(
        f"{type(inner).__name__} has no part that holds the embeddings without the head, so its hidden states cannot "
        "be read. Expected a causal language model of transformers."
    )


def find_head(model: nn.Module) -> OutputHead:
    """Describe a model's output head; the weight *is* the model's parameter, so gradients reach it.

    Args:
        model: A causal language model, plain or wrapped by ``peft``. Not changed.

    Returns:
        Weight, bias, scale (Cohere multiplies, Granite divides) and softcap (Gemma).
        :func:`tutelage.models.probe.prove_model` checks it against ``model(...).logits``.

    Raises:
        ModelError: If the head is missing or is no plain linear layer (for one, an adapter sits on it).
    """
    inner = plain_model(model)
    head = inner.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise ModelError(
            f"{type(inner).__name__} has a {type(head).__name__} as output head, expected a plain linear layer. "
            "Keep adapters and `modules_to_save` off the head, and use a causal language model."
        )
    config = inner.config.get_text_config()
    scale = 1.0
    for name in MULTIPLIERS:
        scale *= float(getattr(config, name, None) or 1.0)
    for name in DIVISORS:
        scale /= float(getattr(config, name, None) or 1.0)
    softcaps = [float(getattr(config, name)) for name in SOFTCAPS if getattr(config, name, None)]
    return OutputHead(head.weight, head.bias, scale, softcaps[0] if softcaps else None)


def final_hidden(model: nn.Module, batch: Batch) -> Float[Tensor, "N D"]:
    """Run the model's body and return what its head would read, at the N supervised positions only.

    The final norm is included; no logits are computed. ``use_cache=False`` matters: with a cache
    and packed rows ``transformers`` builds no document mask, and documents read each other.

    Args:
        model: A causal language model, plain or wrapped by ``peft``. Gradients flow to it.
        batch: Padded or packed rows, on the model's device.

    Returns:
        Hidden states in the body's dtype. With N = 0 an empty, graph-connected tensor.
    """
    output = body_of(model)(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        use_cache=False,
        return_dict=True,
    )
    hidden_BTD = output.last_hidden_state
    return hidden_BTD.flatten(0, 1).index_select(0, batch.logit_index_N)
