"""A model's vocabulary without its padding: the rows of embeddings and head that stand for no token.

In: a loaded model, the number of token ids. Out: the same model with so many rows; it is saved with all of them.

Heads are padded to round sizes, and differently within one family (151,936 and 152,064 rows for 151,665 tokens). The
padding is cut off once, when a model is loaded, and put back when it is saved, so nothing else knows of it.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tutelage.models.quantised import quantisation_of

KEPT = "vocabulary_padding"  # the attribute of a model that holds what was cut off


@dataclass(frozen=True)
class Padding:
    """What was cut off a model, never trained: by layer and parameter name the rows behind the last token."""

    num_ids: int
    vocab_size: int  # what the configuration said
    rows: dict[tuple[str, str], Tensor]
    padding_idx: int | None

    @property
    def num_parameters(self) -> int:
        """Numbers that were cut off; those of tied layers once."""
        return sum({tensor.data_ptr(): tensor.numel() for tensor in self.rows.values()}.values())


def cut_padding(model: PreTrainedModel, num_ids: int) -> None:
    """Leave a model with at most ``num_ids`` rows of embeddings and logits; tied ones stay tied.

    A model with fewer rows is left alone, and so is one whose head is no plain linear layer, whose embeddings no plain
    table, or whose weights are quantised.
    """
    layers = _layers(model)
    if layers is None or quantisation_of(model.config) is not None:
        return
    embedding, head = layers["embedding"], layers["head"]
    if head.weight is not embedding.weight:
        del layers["embedding"]  # nothing looks up its padding, and nothing moves it
    if min(len(layer.weight) for layer in layers.values()) <= num_ids:
        return
    rows: dict[tuple[str, str], Tensor] = {}
    cut: dict[int, nn.Parameter] = {}
    for which, layer in layers.items():
        for name, parameter in list(layer.named_parameters(recurse=False)):
            if id(parameter) not in cut:
                # a copy, so that the whole matrix can be freed
                cut[id(parameter)] = nn.Parameter(parameter.detach()[:num_ids].clone(), parameter.requires_grad)
                rows[which, name] = parameter.detach()[num_ids:].clone()
            else:
                rows[which, name] = rows["embedding", name]
            setattr(layer, name, cut[id(parameter)])
    vocab_size = int(model.config.get_text_config().vocab_size)
    setattr(model, KEPT, Padding(num_ids, vocab_size, rows, embedding.padding_idx))
    _resize(model, num_ids)


def padding_of(model: nn.Module) -> Padding | None:
    """Return what was cut off a model; None where nothing was."""
    found = getattr(model, KEPT, None)
    return found if isinstance(found, Padding) else None


@contextlib.contextmanager
def whole_vocabulary(model: PreTrainedModel) -> Iterator[None]:
    """Put a model's padding back, as it was when the model was loaded, and cut it off again."""
    padding, layers = padding_of(model), _layers(model)
    if padding is None or layers is None:
        yield
        return
    own = {(which, name): getattr(layers[which], name) for which, name in padding.rows}
    whole: dict[int, nn.Parameter] = {}
    for (which, name), parameter in own.items():
        if id(parameter) not in whole:
            rest = padding.rows[which, name].to(device=parameter.device, dtype=parameter.dtype)
            whole[id(parameter)] = nn.Parameter(torch.cat([parameter.detach(), rest]), parameter.requires_grad)
        setattr(layers[which], name, whole[id(parameter)])
    _resize(model, padding.vocab_size, padding.padding_idx)
    try:
        yield
    finally:
        for (which, name), parameter in own.items():
            setattr(layers[which], name, parameter)
        _resize(model, padding.num_ids)


def _layers(model: PreTrainedModel) -> dict[str, Any] | None:
    """Return embeddings and head, where both are of the plain kind."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if not isinstance(embedding, nn.Embedding) or not isinstance(head, nn.Linear):
        return None
    return {"embedding": embedding, "head": head}


def _resize(model: PreTrainedModel, num_ids: int, padding_idx: int | None = None) -> None:
    """Let layers and configuration say how many rows there are."""
    layers: Any = _layers(model)
    embedding, head = layers["embedding"], layers["head"]
    head.out_features = len(head.weight)
    embedding.num_embeddings = len(embedding.weight)
    if padding_idx is not None:
        embedding.padding_idx = padding_idx
    if embedding.padding_idx is not None and embedding.padding_idx >= embedding.num_embeddings:
        embedding.padding_idx = None  # a row that is not there: torch refuses to look anything up
    model.config.get_text_config().vocab_size = num_ids
    if hasattr(model, "vocab_size"):
        model.vocab_size = num_ids
