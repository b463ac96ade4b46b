"""Exact intervals where the bootstrap has nothing to draw from: all items alike, or one item only.

In: values per item and the cluster of each item. Out: intervals and p-values that grow honest as items grow few.

The bootstrap of equal values gives an interval without width, for one item as for a thousand. A binomial
interval over the clusters (Clopper and Pearson 1934, Biometrika 26:404) has the width that their number allows.
"""

import numpy as np
from scipy import stats

from tutelage.report.resampling import LEVEL, ROUNDING_DIGITS, Interval

# With fewer items no paired test can reach 5 %: five to nil has p = 2 * 0.5^5 = 0.0625.
LEAST_ITEMS = 6


def is_degenerate(draws: np.ndarray) -> bool:
    """Tell whether all resamples say the same."""
    return bool(np.ptp(draws) <= 10.0**-ROUNDING_DIGITS)


def binomial_interval(share: float, num_clusters: int, *, level: float = LEVEL) -> Interval:
    """Return the Clopper-Pearson interval of a share; of scores between 0 and 1 it is wider than it must be."""
    successes, tail = share * num_clusters, (1 - level) / 2
    low = stats.beta.ppf(tail, successes, num_clusters - successes + 1) if successes > 0 else 0.0
    high = stats.beta.ppf(1 - tail, successes + 1, num_clusters - successes) if successes < num_clusters else 1.0
    return Interval(*(round(float(value), ROUNDING_DIGITS) for value in (share, low, high)))


def difference_interval(difference: float, num_clusters: int, *, level: float = LEVEL) -> Interval:
    """Return the interval of a difference that every item shows alike.

    Without any difference, the interval holds what a share of items that was never seen can still be; else the
    binomial interval of ``(1 + difference) / 2``.
    """
    if abs(difference) <= 10.0**-ROUNDING_DIGITS:
        reach = binomial_interval(0.0, num_clusters, level=level).high
        return Interval(0.0, -reach, reach)
    share = binomial_interval((1 + difference) / 2, num_clusters, level=level)
    return Interval(difference, 2 * share.low - 1, 2 * share.high - 1)


def few_differ(cluster_differences: np.ndarray, interval: Interval, p_value: float) -> tuple[Interval, float]:
    """Widen a bootstrap interval that is clear of zero for fewer than six items: alone they can never reach 5 %.

    Which way each of these items falls is a coin; the exact interval of its share is added to the bootstrap's.
    """
    differing = cluster_differences[np.abs(cluster_differences) > 10.0**-ROUNDING_DIGITS]
    if len(differing) >= LEAST_ITEMS or interval.low <= 0 <= interval.high:
        return interval, p_value
    wins = int((differing > 0).sum())
    coin = binomial_interval(wins / len(differing), len(differing))
    size = float(np.abs(differing).sum()) / len(cluster_differences)
    low, high = size * (2 * coin.low - 1), size * (2 * coin.high - 1)
    exact_p = float(stats.binomtest(wins, len(differing), 0.5).pvalue)
    wider = Interval(interval.estimate, min(interval.low, low), max(interval.high, high))
    return wider, max(p_value, min(1.0, exact_p))


def sign_test(difference: float, num_clusters: int) -> float:
    """Return the exact p when every item falls to the same side; 1 when none differs."""
    return 1.0 if abs(difference) <= 10.0**-ROUNDING_DIGITS else min(1.0, 2 * 0.5**num_clusters)


def visible_difference(standard_error: float, num_clusters: int) -> float:
    """Return the true difference that a test of 5 % would see four times of five; at least that of six items.

    The factor is 1.96 + 0.84 (Cohen 1988, Statistical Power Analysis for the Behavioral Sciences, section 2.4).
    """
    return min(1.0, max(2.8 * standard_error, LEAST_ITEMS / num_clusters))
