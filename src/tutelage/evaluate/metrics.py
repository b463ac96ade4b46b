"""What the items say about a classifier, in one number each.

In: ``Items``. Out: accuracy, macro-F1, valid ratio and calibration error, each in [0, 1].
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from tutelage.errors import DataError
from tutelage.evaluate.items import Items

ECE_BINS = 15  # Guo et al. 2017, arXiv:1706.04599, section 4


def accuracy(items: Items) -> float:
    """Return the share of items whose prediction is the gold label; every item is in the denominator."""
    return float(items.score_B.mean())


def valid_ratio(items: Items) -> float:
    """Return the share of items at which the model's own first token begins one of the labels."""
    return float(items.valid_B.mean())


def macro_f1(gold_B: Int[np.ndarray, " B"], prediction_B: Int[np.ndarray, " B"], *, num_labels: int) -> float:
    """Average the labels' F1, ``2 tp / (2 tp + fp + fn)``, over the labels that occur in either array.

    1.0 when all predictions are right; a label that occurs but is never hit counts 0.

    Args:
        gold_B: Label indices, at least one.
        prediction_B: Label indices.
        num_labels: All indices are below it.
    """
    tp_C = np.bincount(gold_B[gold_B == prediction_B], minlength=num_labels)
    gold_C = np.bincount(gold_B, minlength=num_labels)
    predicted_C = np.bincount(prediction_B, minlength=num_labels)
    occurring_C = (gold_C + predicted_C) > 0  # gold + predicted = 2 tp + fp + fn
    return float((2.0 * tp_C[occurring_C] / (gold_C + predicted_C)[occurring_C]).mean())


def expected_calibration_error(
    confidence_B: Float[np.ndarray, " B"], score_B: Float[np.ndarray, " B"], *, num_bins: int = ECE_BINS
) -> float:
    """Return ``sum_b (n_b / n) |mean score - mean confidence|`` over equal-width bins ``(lo, hi]`` of [0, 1].

    0 when each bin's confidence equals its accuracy.

    Args:
        confidence_B: In [0, 1].
        score_B: 1.0 right, 0.0 wrong.
        num_bins: Of equal width.

    Source:
        Guo et al. 2017, arXiv:1706.04599, equation 3.
    """
    edges = np.linspace(0.0, 1.0, num_bins + 1)
    bin_B = np.clip(np.searchsorted(edges, confidence_B, side="left") - 1, 0, num_bins - 1)
    gap_K = np.bincount(bin_B, weights=score_B - confidence_B, minlength=num_bins)  # n_b * (accuracy - confidence)
    return float(np.abs(gap_K).sum() / len(confidence_B))


METRICS: dict[str, Callable[[Items], float]] = {
    "accuracy": accuracy,
    "macro_f1": lambda items: macro_f1(items.gold_B, items.prediction_B, num_labels=len(items.labels)),
    "valid_ratio": valid_ratio,
    "ece": lambda items: expected_calibration_error(items.confidence_B, items.score_B),
}


def metrics(items: Items) -> dict[str, float]:
    """Compute every metric of ``METRICS``, and ``n``, the number of items.

    Raises:
        DataError: If there are no items.
    """
    if not len(items):
        raise DataError("There are no items to measure: found 0, expected at least one. Check the split's rows.")
    return {name: compute(items) for name, compute in METRICS.items()} | {"n": len(items)}
