"""Hidden states after chosen layers, read with hooks in the same forward pass as the final one.

In: a causal language model, a ``Batch``, layer numbers. Out: hidden states over the batch's whole grid.

Layer numbers, everywhere: 0 is the output of the embeddings (scaled, where a family scales them), ``n`` the output of
the n-th decoder layer, before the final norm. ``transformers`` numbers ``hidden_states`` alike, except that its last
entry has gone through the final norm.
"""

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tutelage.align import row_places
from tutelage.errors import CapabilityError, ModelError
from tutelage.models.head import body_of, final_hidden, find_head, plain_model
from tutelage.models.shrink import decoder_layers
from tutelage.types import Batch

PROBE_TOKENS = 5


@dataclass(frozen=True)
class StateGrid:
    """What one forward pass leaves at every place of a batch's flattened grid, padding included; G = B * T."""

    final_GD: Float[Tensor, "G D"]  # after the final norm: what the output head reads
    tapped: dict[int, Float[Tensor, "G _"]] = field(default_factory=dict)  # by layer number, each of its own width


def read_states(model: nn.Module, batch: Batch, layers: Collection[int] = ()) -> StateGrid:
    """Run the model's body once and keep its final hidden states and those after ``layers``.

    Args:
        model: A causal language model, plain or wrapped by ``peft``. Gradients flow to it.
        batch: Padded or packed rows, on the model's device; its ``logit_index_N`` is not read.
        layers: Layer numbers, see the module's docstring.

    Returns:
        Hidden states in the body's dtype, padding included.

    Raises:
        CapabilityError: If the model has no such layer.
        ModelError: If the model's layers cannot be addressed.
    """
    everywhere_G = torch.arange(batch.input_ids.numel(), device=batch.input_ids.device)
    whole = Batch(
        batch.input_ids, batch.position_ids, batch.attention_mask, everywhere_G, everywhere_G, [], [], batch.num_tokens
    )
    with tapped_layers(model, layers) as found:
        final_GD = final_hidden(model, whole)
    return StateGrid(final_GD, {layer: found[layer].flatten(0, 1) for layer in layers})


@contextlib.contextmanager
def tapped_layers(model: nn.Module, layers: Collection[int]) -> Iterator[dict[int, Tensor]]:
    """Collect hidden states [B, T, D] by layer number during every forward pass inside the block.

    Raises:
        CapabilityError: If the model has no such layer.
        ModelError: If the model's layers cannot be addressed.
    """
    found: dict[int, Tensor] = {}
    if not layers:
        yield found
        return
    stack = decoder_layers(model)
    check_layers(layers, num_layers=len(stack))
    handles = [_tap(stack, layer, found) for layer in layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def mean_state(states_TE: Float[Tensor, "T E"]) -> Float[Tensor, " E"]:
    """Average the states of one row's real tokens, in float32 (float64 stays): what stands for the whole row."""
    return states_TE.to(torch.promote_types(states_TE.dtype, torch.float32)).mean(dim=0)


def pooled_rows(grid_GD: Float[Tensor, "G D"], batch: Batch) -> Float[Tensor, "B D"]:
    """Average the states of each row of a batch over its real tokens, padded or packed; gradients flow."""
    starts, lengths = row_places(batch)
    spans = zip(starts.tolist(), (starts + lengths).tolist(), strict=True)
    return torch.stack([mean_state(grid_GD[start:stop]) for start, stop in spans])


def check_layers(layers: Collection[int], *, num_layers: int) -> None:
    """Refuse layer numbers that a model of ``num_layers`` decoder layers does not have.

    Raises:
        CapabilityError: If one is below 0 or above ``num_layers``.
    """
    wrong = [layer for layer in layers if not 0 <= layer <= num_layers]
    if wrong:
        raise CapabilityError(
            f"The hidden states after layer {wrong[0]} were asked for, but the model has {num_layers} decoder layers. "
            f"Expected 0 (the output of the embeddings) to {num_layers}."
        )


def _tap(stack: nn.ModuleList, layer: int, found: dict[int, Tensor]) -> torch.utils.hooks.RemovableHandle:
    """Keep what goes into the first decoder layer (layer 0), or what comes out of the ``layer``-th."""

    def keep_input(module: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found[layer] = inputs[0] if inputs else kwargs["hidden_states"]

    def keep_output(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        found[layer] = output[0] if isinstance(output, tuple) else output

    if layer == 0:
        return stack[0].register_forward_pre_hook(keep_input, with_kwargs=True)
    return stack[layer - 1].register_forward_hook(keep_output)


def compare_taps(model: nn.Module, batch: Batch) -> str | None:
    """Compare every tap with ``output_hidden_states=True`` of the same forward pass, bit for bit.

    Taps 0 to L - 1 must equal the entries 0 to L - 1, and tap L, sent through what the body runs after its last layer
    (the final norm), must equal the last entry. One pass gives both, so nothing but a wrong number can differ.

    Args:
        model: In evaluation mode.
        batch: Any rows, on the model's device.

    Returns:
        None when all of it holds, else what differs.

    Raises:
        ModelError: If the model's layers cannot be addressed.
    """
    stack = decoder_layers(model)
    with tapped_layers(model, range(len(stack) + 1)) as taps, _parts_after(model, stack) as after:
        output = body_of(model)(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            use_cache=False,
            output_hidden_states=True,
            return_dict=True,
        )
    entries = output.hidden_states or ()
    if len(entries) != len(stack) + 1:
        return f"the model lists {len(entries)} hidden states for {len(stack)} layers, expected {len(stack) + 1}"
    normed_BTD = taps[len(stack)]
    for part in after:
        normed_BTD = part(normed_BTD)
    ours = [*(taps[layer] for layer in range(len(stack))), normed_BTD]
    wrong = [layer for layer, (own, entry) in enumerate(zip(ours, entries, strict=True)) if not torch.equal(own, entry)]
    return f"hidden states after layer {wrong[0]} differ from the model's own" if wrong else None


@contextlib.contextmanager
def _parts_after(model: nn.Module, stack: nn.ModuleList) -> Iterator[list[nn.Module]]:
    """List, in the order in which they run, the body's own parts that run after its last layer."""
    after: list[nn.Module] = []
    decoder: Any = body_of(model)
    handles = [
        part.register_forward_hook(lambda module, inputs, output: after.append(module))
        for part in decoder.children()
        if part is not stack
    ]
    handles.append(stack[-1].register_forward_hook(lambda module, inputs, output: after.clear()))
    try:
        yield after
    finally:
        for handle in handles:
            handle.remove()


def refuse_streams(config: Any, name: str) -> None:
    """Refuse a model whose layers keep several streams of hidden states, as its configuration says (Gemma 3n).

    Raises:
        ModelError: If it does.
    """
    streams = getattr(config.get_text_config(), "altup_num_inputs", None) or 1
    if streams > 1:
        raise ModelError(
            f"{name} keeps {streams} streams of hidden states in every layer ({config.model_type}), so there is no one "
            "state per token and layer to compare. Use methods that read its distribution, or another model."
        )


@torch.no_grad()
def layer_width(model: nn.Module, layer: int) -> int:
    """Return how wide the hidden states after a layer are, seen on one token; not every model has one width throughout.

    Args:
        model: Plain or wrapped.
        layer: Its number, see the module's docstring.

    Raises:
        CapabilityError: If the model has no such layer.
        ModelError: If the model's layers cannot be addressed.
    """
    zero_BT = torch.zeros((1, 1), dtype=torch.int64, device=find_head(model).weight_VD.device)
    with tapped_layers(model, [layer]) as found:
        final_hidden(model, Batch(zero_BT, zero_BT, None, zero_BT[0], zero_BT[0], [], [], 1))
    return found[layer].shape[-1]


@torch.no_grad()
def require_taps(model: nn.Module) -> None:
    """Refuse a model whose hidden states cannot be read by layer number, tried on a short row.

    Args:
        model: In evaluation mode.

    Raises:
        ModelError: If :func:`compare_taps` finds a difference, or the layers cannot be addressed.
    """
    ids_BT = torch.arange(PROBE_TOKENS, device=find_head(model).weight_VD.device)[None]
    everywhere_G = ids_BT[0]
    problem = compare_taps(model, Batch(ids_BT, ids_BT, None, everywhere_G, everywhere_G, [], [], PROBE_TOKENS))
    if problem is not None:
        raise ModelError(
            f"{type(plain_model(model)).__name__}: {problem}. Signals of hidden states cannot be read from this model; "
            "leave `hidden` and `pooled` out of `signals`, or choose another teacher."
        )
