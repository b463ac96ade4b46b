"""A smaller student: the same model with fewer decoder layers.

In: a model and a few batches. Out: each layer's influence, the layers to keep (the layer map), the smaller model.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from tutelage.errors import ModelError
from tutelage.losses.precision import sum_dtype
from tutelage.models.causal import causal_part
from tutelage.models.folder import one_line
from tutelage.models.head import body_of, final_hidden, plain_model
from tutelage.models.layer_config import cut_config
from tutelage.types import Batch

NUMBERS = ("layer_idx", "layer_id")  # how parts know their layer
MOVING_SETTINGS = ("training", "gradient_checkpointing", "_is_hf_initialized")  # say nothing about what is computed
# What a config or a model raises that does not fit the number of layers.
REBUILD_ERRORS = (AttributeError, LookupError, TypeError, ValueError, RuntimeError, StrictDataclassError)


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """Find the stack of decoder layers.

    Raises:
        ModelError: If the body holds no list of as many layers as its config says.
    """
    inner = plain_model(model)
    count = inner.config.get_text_config().num_hidden_layers
    for part in body_of(inner).children():
        if isinstance(part, nn.ModuleList) and len(part) == count:
            return part
    raise ModelError(
        f"{type(inner).__name__} holds no list of {count} decoder layers, so its layers cannot be addressed. "
        "Use a decoder-only model, without `shrink` or `last_layers`."
    )


def layer_influence(model: nn.Module, batches: Sequence[Batch]) -> list[float]:
    """Measure how much each layer turns its input: the mean over real tokens of ``1 - cos(input, output)``.

    A layer that passes its input through scores 0. Nothing is kept but one sum per layer.

    Args:
        model: On the batches' device. Not changed.
        batches: Rows as the student will see them; padding is left out.

    Returns:
        One number in [0, 2] per layer, from the lowest layer up.

    Raises:
        ModelError: If there are no batches, or a figure is not finite.

    Source:
        Men et al. 2024, ShortGPT, arXiv:2403.03853, equation 1 (block influence).
    """
    if not batches:
        raise ModelError("Layer influence needs at least one batch of rows, found none. Give the student some data.")
    layers = decoder_layers(model)
    device = batches[0].input_ids.device
    totals = torch.zeros(len(layers), dtype=sum_dtype(device), device=device)
    state: dict[str, Tensor] = {}
    handles = [
        layer.register_forward_hook(_influence_hook(index, totals, state), with_kwargs=True)
        for index, layer in enumerate(layers)
    ]
    was_training = model.training
    num_tokens = 0
    try:
        model.eval()
        for batch in batches:
            state["real_BT"] = real_tokens(batch)
            num_tokens += int(state["real_BT"].sum())
            with torch.inference_mode():
                final_hidden(model, batch)
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    influence = (totals / num_tokens).tolist()
    if not bool(torch.isfinite(totals).all()):
        raise ModelError(
            f"A layer's influence is not finite: {influence}. The model's weights or its dtype are broken."
        )
    return influence


def real_tokens(batch: Batch) -> Bool[Tensor, "B T"]:
    """Mark the tokens that are not padding."""
    if batch.attention_mask is None:
        return torch.ones_like(batch.input_ids, dtype=torch.bool)
    return batch.attention_mask.bool()


def _influence_hook(index: int, totals: Float[Tensor, " L"], state: dict[str, Tensor]) -> Callable[..., None]:
    def hook(layer: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        before_BTD = inputs[0] if inputs else kwargs["hidden_states"]
        after_BTD = output[0] if isinstance(output, tuple) else output
        real_BT = state["real_BT"]
        cosine_R = torch.cosine_similarity(before_BTD[real_BT].float(), after_BTD[real_BT].float(), dim=-1)
        totals[index] += (1 - cosine_R).sum()

    return hook


def choose_layers(num_layers: int, keep: int, *, by: str, influence: Sequence[float] | None = None) -> tuple[int, ...]:
    """Choose which layers of the teacher stay; the result is the student's layer map.

    Args:
        num_layers: Layers of the teacher.
        keep: Layers of the student, 1 to ``num_layers``; ``even`` and ``influence`` need 2 for the two ends.
        by: ``even`` (evenly spaced, both ends kept), ``first``, ``last``, or ``influence`` (the least
            influential go; the first and the last stay).
        influence: From :func:`layer_influence`; ties go to the lower layer.

    Returns:
        Indices of the teacher's layers, ascending: entry ``i`` is where the student's layer ``i`` came from.

    Raises:
        ModelError: If ``keep`` is out of range, ``by`` unknown, or the influence missing.
    """
    lowest = 2 if by in ("even", "influence") else 1
    if by not in CHOICES:
        raise ModelError(f"Found shrink.by {by!r}, expected one of {', '.join(CHOICES)}.")
    if not lowest <= keep <= num_layers:
        raise ModelError(f"shrink.layers is {keep}, expected {lowest} to {num_layers} (the model's layers) with {by}.")
    if by == "influence" and (influence is None or len(influence) != num_layers):
        found = "nothing" if influence is None else f"{len(influence)} figures"
        raise ModelError(f"Choosing by influence needs one figure per layer ({num_layers}), found {found}.")
    return CHOICES[by](num_layers, keep, influence or ())


def _even(num_layers: int, keep: int, influence: Sequence[float]) -> tuple[int, ...]:
    return tuple((2 * i * (num_layers - 1) + keep - 1) // (2 * (keep - 1)) for i in range(keep))  # rounded half up


def _first(num_layers: int, keep: int, influence: Sequence[float]) -> tuple[int, ...]:
    return tuple(range(keep))


def _last(num_layers: int, keep: int, influence: Sequence[float]) -> tuple[int, ...]:
    return tuple(range(num_layers - keep, num_layers))


def _most_influential(num_layers: int, keep: int, influence: Sequence[float]) -> tuple[int, ...]:
    inner = sorted(range(1, num_layers - 1), key=lambda layer: (-influence[layer], layer))
    return tuple(sorted([0, num_layers - 1, *inner[: keep - 2]]))


CHOICES: dict[str, Callable[[int, int, Sequence[float]], tuple[int, ...]]] = {
    "even": _even,
    "first": _first,
    "last": _last,
    "influence": _most_influential,
}


def drop_layers(model: nn.Module, kept: Sequence[int]) -> nn.Module:
    """Keep only these decoder layers, in place, and make config and layer numbers say so.

    What the config says of layers (:func:`tutelage.models.layer_config.cut_config`) and every ``layer_idx`` (which
    addresses the KV cache) are set anew. The caller stores the layer map. What the config
    builds is then compared with what was kept: a saved student must be the student that was trained.

    Args:
        model: A plain model. Changed in place; of no use after an error.
        kept: Ascending indices from :func:`choose_layers`.

    Returns:
        The same model.

    Raises:
        ModelError: If the indices are not ascending and in range, layers share keys and values, or a kept layer is
            not what its new number would make it (sparse layers after dense ones, scales by depth).
    """
    layers = decoder_layers(model)
    if not kept or list(kept) != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= len(layers):
        raise ModelError(f"The layer map is {list(kept)}, expected ascending indices below {len(layers)}.")
    inner = plain_model(model)
    if any(hasattr(part, "is_kv_shared_layer") for part in layers.modules()):
        raise ModelError(
            f"Layers of {type(inner).__name__} share keys and values, so none can go. Choose another model."
        )
    weights = [id(weight) for layer in layers for weight in layer.parameters()]
    if len(set(weights)) < len(weights):
        raise ModelError(f"Layers of {type(inner).__name__} share weights, so none can go. Choose another model.")
    stay = [layers[i] for i in kept]
    del layers[len(stay) :]
    for index, (was, layer) in enumerate(zip(kept, stay, strict=True)):
        layers[index] = layer
        _renumber(layer, was, index)
    cut_config(inner.config.get_text_config(), kept)
    _require_rebuildable(inner, kept)
    return model


def _renumber(layer: nn.Module, was: int, index: int) -> None:
    """Set the numbers by which a layer's parts address caches; parts that layers share have another, and keep it."""
    for part in layer.modules():
        for name in NUMBERS:
            if vars(part).get(name) == was and type(vars(part)[name]) is int:
                setattr(part, name, index)


def require_cuttable(config: Any, name: str, choices: Iterable[Sequence[int]]) -> None:
    """Refuse cuts of a model that could not be saved, from its configuration alone; no weight is read or made.

    Args:
        config: As stored.
        name: What people call the model.
        choices: Layer maps, each ascending.

    Raises:
        ModelError: As :func:`drop_layers`.
    """
    part = causal_part(config, name)
    plain: Any = copy.deepcopy(part.config)
    if hasattr(plain, "quantization_config"):
        del plain.quantization_config
    for kept in choices:
        with torch.device("meta"):
            model = part.model_class(copy.deepcopy(plain))
        drop_layers(model, kept)


def _require_rebuildable(model: PreTrainedModel, kept: Sequence[int]) -> None:
    """Refuse a model whose saved config would build other layers than it holds; no weight is made for that."""
    try:
        with torch.device("meta"):
            config = type(model.config).from_dict(copy.deepcopy(model.config.to_dict()))
            built = list(decoder_layers(type(model)(config)))
    except (*REBUILD_ERRORS, ModelError) as error:
        found = one_line(error)
    else:
        pairs = zip(kept, decoder_layers(model), built, strict=True)
        differing = ((was, _difference(own, new)) for was, own, new in pairs)
        first = next(((was, difference) for was, difference in differing if difference), None)
        if first is None:
            return
        found = f"layer {first[0]}: {first[1]}"
    raise ModelError(
        f"Without the other layers, the config of {type(model).__name__} does not describe the layers {list(kept)} "
        f"({found}), so a saved student would be another model. Keep the first layers, or choose another model."
    )


def _difference(own: nn.Module, new: nn.Module) -> str | None:
    """Name the first part, shape or setting in which two layers differ; None if there is none."""
    own_facts, new_facts = dict(_facts(own)), dict(_facts(new))
    for name in sorted(own_facts.keys() | new_facts.keys()):
        if own_facts.get(name) != new_facts.get(name):
            return f"{name} is {own_facts.get(name, 'absent')}, rebuilt {new_facts.get(name, 'absent')}"
    return None


def _facts(layer: nn.Module) -> Iterator[tuple[str, Any]]:
    """List a layer's parts, the shapes of its weights, and the plain settings that its parts hold."""
    for path, part in layer.named_modules():
        yield path or "it", type(part).__name__
        for name, value in vars(part).items():
            if isinstance(value, bool | int | float | str | None) and name not in MOVING_SETTINGS:
                yield f"{path}.{name}".lstrip("."), value
    for name, weight in layer.named_parameters():
        yield name, tuple(weight.shape)
