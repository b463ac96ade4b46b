"""Embeddings for tokens that were added to a tokenizer and never to its model.

In: a model, the number of ids that it is to know. Out: the same model with more rows in its embeddings and its head.
"""

from typing import Any

import torch
from transformers import PreTrainedModel

from tutelage.errors import ModelError
from tutelage.models.quantised import quantisation_of


def grow_embeddings(model: PreTrainedModel, num_ids: int) -> None:
    """Give a model embeddings and logits for at least ``num_ids`` ids; one that has them is left alone.

    Every new row is the mean of the old ones, so a new token starts as the average token: no random number is drawn,
    and the logits of the old tokens do not move.

    Raises:
        ModelError: If the model's weights are quantised.
    """
    before = int(model.get_input_embeddings().weight.shape[0])  # type: ignore[union-attr]
    if num_ids <= before:
        return
    if quantisation_of(model.config) is not None:
        raise ModelError(
            "The embeddings of a quantised model cannot be given more rows. Remove `resize_embeddings`, or use the "
            "plain weights."
        )
    model.resize_token_embeddings(num_ids, mean_resizing=False)
    grown: list[Any] = [model.get_input_embeddings(), model.get_output_embeddings()]
    tensors = {id(tensor): tensor for layer in grown for tensor in layer.parameters(recurse=False)}  # tied ones once
    with torch.no_grad():
        for tensor in tensors.values():
            tensor[before:] = tensor[:before].float().mean(dim=0).to(tensor.dtype)
