"""Whether a model writes rows in a batch as it writes each of them alone; some architectures do not.

In: a model. Out: yes or no, found out once per model by writing a few tokens both ways.

Recurrent states of some families are not kept apart from the padding before a shorter prompt, or from other rows.
"""

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from tutelage.models.head import plain_model

LONG, SHORT, STEPS = 7, 4, 3  # ids of the two prompts, tokens that are written
# Of the largest logit: other shapes of matrices sum in another order (see models/probe.py, ROW_TOLERANCES).
TOLERANCES = {torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1, torch.float64: 1e-6}

_found: "weakref.WeakKeyDictionary[nn.Module, bool]" = weakref.WeakKeyDictionary()


class Steps(LogitsProcessor):
    """Keep the logits of every step."""

    def __init__(self) -> None:
        self.scores: list[Float[Tensor, "B V"]] = []

    def __call__(self, input_ids: Int[Tensor, "B T"], scores: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        """Return the logits as they are."""
        self.scores.append(scores.float())
        return scores


@torch.no_grad()
def writes_in_batches(model: nn.Module) -> bool:
    """Say whether two prompts of unequal length, written together, get the logits that each gets alone.

    Args:
        model: A causal language model, plain or with an adapter, in evaluation mode.
    """
    inner: Any = plain_model(model)
    if inner not in _found:
        ids = np.random.default_rng(0).integers(inner.get_input_embeddings().weight.shape[0], size=LONG + SHORT)
        prompts = [ids[:LONG], ids[LONG:]]
        together, written = _logits(inner, prompts)
        is_half = torch.is_autocast_enabled(inner.device.type) and inner.dtype == torch.float32
        tolerance = TOLERANCES[torch.bfloat16 if is_half else inner.dtype]
        _found[inner] = all(
            _agree(together[:, row], written[row], *_logits(inner, [prompt]), tolerance=tolerance)
            for row, prompt in enumerate(prompts)
        )
    return _found[inner]


def _logits(inner: Any, prompts: Sequence[np.ndarray]) -> tuple[Float[Tensor, "L B V"], Int[Tensor, "B L"]]:
    from tutelage.models.generate import left_padded, plain_defaults  # late: it asks here first

    ids_BT, mask_BT = left_padded(prompts, device=inner.device)
    steps = Steps()
    with plain_defaults(inner):
        written = inner.generate(
            input_ids=ids_BT,
            attention_mask=mask_BT,
            generation_config=GenerationConfig(max_new_tokens=STEPS, do_sample=False, use_cache=True, pad_token_id=0),
            logits_processor=LogitsProcessorList([steps]),
        )
    return torch.stack(steps.scores), written[:, ids_BT.shape[1] :]


def _agree(
    batch_LV: Float[Tensor, "L V"],
    batch_ids_L: Int[Tensor, " L"],
    alone_L1V: Float[Tensor, "L 1 V"],
    alone_ids_1L: Int[Tensor, "1 L"],
    *,
    tolerance: float,
) -> bool:
    """Compare step by step, as long as both have written the same so far."""
    for step in range(STEPS):
        difference = (batch_LV[step] - alone_L1V[step, 0]).abs().max()
        if not bool(difference <= tolerance * alone_L1V[step, 0].abs().max()):
            return False
        if batch_ids_L[step] != alone_ids_1L[0, step]:
            return True
    return True
