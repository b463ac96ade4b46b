"""From choice scores to items: what a model answered, how sure it was, and whether it was right.

In: a model and prompts, or the teacher's cached class scores. Out: ``Items``.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import nn

from tutelage.data.rows import ChoicePrompt
from tutelage.errors import DataError
from tutelage.evaluate.choices import Progress, check_finite, score_choices
from tutelage.evaluate.items import Items


def evaluate_classification(
    model: nn.Module,
    prompts: Sequence[ChoicePrompt],
    *,
    labels: Sequence[str],
    pad_id: int,
    token_budget: int,
    device: torch.device | str,
    cluster_keys: Sequence[str] | None = None,
    texts: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Items:
    """Let a model choose among the labels' verbalisers for every prompt.

    Args:
        model: A causal language model; run in evaluation mode, which is put back.
        prompts: One per item, choices in the order of ``labels``.
        labels: Names of the classes.
        pad_id: Fills the rows of a batch; never read.
        token_budget: Padded tokens per forward pass.
        device: Where the model is.
        cluster_keys: Items that belong together; None takes the prompts' own, else each item by itself.
        texts: Kept in ``Items`` for the report.
        progress: As in :func:`tutelage.evaluate.choices.score_choices`.

    Returns:
        The items, in the order of ``prompts``; ``valid`` is True where the most likely token of the
        whole vocabulary begins one of the verbalisers.

    Raises:
        DataError: If there are no prompts, or a prompt's choices do not match ``labels``.
        NumericsError: If a score is not finite; names the items.
    """
    scores = score_choices(model, prompts, pad_id=pad_id, token_budget=token_budget, device=device, progress=progress)
    first_BC = np.array([[int(ids[0]) for ids in prompt.choice_ids] for prompt in prompts])
    return items_from_scores(
        scores.logprobs_BC,
        item_keys=[prompt.item_key for prompt in prompts],
        gold_B=np.array([prompt.gold for prompt in prompts]),
        valid_B=(first_BC == scores.top1_B[:, None]).any(axis=1),
        labels=labels,
        cluster_keys=cluster_keys or [prompt.cluster_key or prompt.item_key for prompt in prompts],
        texts=texts,
    )


def items_from_scores(
    scores_BC: Float[np.ndarray, "B C"],
    *,
    item_keys: Sequence[str],
    gold_B: Int[np.ndarray, " B"] | Sequence[int],
    valid_B: Bool[np.ndarray, " B"],
    labels: Sequence[str],
    cluster_keys: Sequence[str] | None = None,
    texts: Sequence[str] | None = None,
) -> Items:
    """Make items from log-probabilities: prediction = argmax, confidence = softmax over the choices.

    Equal scores go to the first label. A confidence is the share of the choices' joint mass, so it
    lies in [1/C, 1].

    Raises:
        DataError: If there are no items, or their parts do not fit together.
        NumericsError: If a score is not finite; names the items.
    """
    scores_BC = np.asarray(scores_BC, dtype=np.float64)
    gold_B = np.asarray(gold_B, dtype=np.int64)
    if scores_BC.shape != (len(item_keys), len(labels)) or not len(item_keys):
        raise DataError(
            f"Found scores of shape {scores_BC.shape}, expected one row for each of {len(item_keys)} items (at least "
            f"one) and one column for each of the labels {list(labels)}. Score the same split with the same task."
        )
    if gold_B.min() < 0 or gold_B.max() >= len(labels):
        raise DataError(
            f"A gold label is {gold_B.min()} or {gold_B.max()}, expected 0 to {len(labels) - 1} ({labels})."
        )
    check_finite(scores_BC, item_keys, what="choice log-probability")
    prediction_B = scores_BC.argmax(axis=1)
    best_B = scores_BC.max(axis=1)
    return Items(
        labels=tuple(labels),
        item_keys=tuple(item_keys),
        cluster_keys=tuple(item_keys if cluster_keys is None else cluster_keys),
        gold_B=gold_B,
        prediction_B=prediction_B,
        score_B=(prediction_B == gold_B).astype(np.float64),
        confidence_B=1.0 / np.exp(scores_BC - best_B[:, None]).sum(axis=1),
        valid_B=np.asarray(valid_B, dtype=bool),
        logprobs_BC=scores_BC,
        texts=None if texts is None else tuple(texts),
    )


def teacher_items_from_scores(
    scores_BC: Float[np.ndarray, "B C"],
    *,
    item_keys: Sequence[str],
    gold_B: Int[np.ndarray, " B"] | Sequence[int],
    labels: Sequence[str],
    valid_B: Bool[np.ndarray, " B"] | None = None,
    cluster_keys: Sequence[str] | None = None,
    texts: Sequence[str] | None = None,
) -> Items:
    """Make the teacher's items from its cached class scores, without a second pass of the teacher.

    Args:
        scores_BC: ``ClassScores``: log-probabilities of the labels' tokens out of the whole vocabulary,
            nats, before any renormalisation.
        item_keys: One per item.
        gold_B: Indices into ``labels``.
        labels: Names of the classes.
        valid_B: Whether the teacher's most likely token is a label's. None derives it where the scores
            prove it: the rest of the vocabulary holds less than the best label, ``p_best >= 1 - sum p``.
            That is exact above one half and a lower bound below.
        cluster_keys: Items that belong together; None makes each item its own cluster.
        texts: Kept in ``Items`` for the report.

    Raises:
        DataError: If there are no items, or their parts do not fit together.
        NumericsError: If a score is not finite; names the items.
    """
    scores_BC = np.asarray(scores_BC, dtype=np.float64)
    probs_BC = np.exp(scores_BC)
    proven_B = probs_BC.max(axis=1, initial=0.0) >= 1.0 - probs_BC.sum(axis=1)
    return items_from_scores(
        scores_BC,
        item_keys=item_keys,
        gold_B=gold_B,
        valid_B=proven_B if valid_B is None else valid_B,
        labels=labels,
        cluster_keys=cluster_keys,
        texts=texts,
    )
