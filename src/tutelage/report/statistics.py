"""Paired statistics on the scores of the same items: intervals, differences, exact tests, effect sizes.

In: per-item scores of one or more runs (seeds) of an arm. Out: estimates with 95 % intervals and p-values.

One item is scored by every arm and every seed, so arms are always compared item by item. Items (in
clusters that must stay together) are resampled; seeds are averaged within an item first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from tutelage.errors import DataError
from tutelage.report import exact
from tutelage.report.pairing import ItemScores, Seed, pair_seeds, score_matrix
from tutelage.report.resampling import (
    LEVEL,
    NUM_RESAMPLES,
    RESAMPLING_SEED,
    ROUNDING_DIGITS,
    Interval,
    bootstrap_means,
    percentile_interval,
    two_sided_p,
)

# Cohen 1988, Statistical Power Analysis for the Behavioral Sciences, section 2.2.
EFFECT_WORDS = ((0.2, "negligible"), (0.5, "small"), (0.8, "medium"))


@dataclass(frozen=True)
class McNemar:
    """Items that only the first arm, or only the second, got right, and the exact two-sided p."""

    wins: int
    losses: int
    p_value: float


@dataclass(frozen=True)
class SeedSpread:
    """How far seeds differ: sd (n - 1) and the t interval of their mean.

    Both are None for one seed; equal seeds have an sd of 0, and no interval: few seeds that agree prove no certainty.
    """

    num_seeds: int
    mean: float
    sd: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class PairedDifference:
    """First arm minus second arm on the same items."""

    interval: Interval
    p_value: float
    cohens_d: float | None
    effect: str
    pairs: tuple[tuple[Seed, Seed], ...]
    seed_differences: tuple[float, ...]
    seed_spread: SeedSpread
    mcnemar_per_seed: tuple[McNemar, ...] | None  # None when scores are not 0 or 1
    mcnemar_pooled: McNemar | None
    num_items: int
    num_clusters: int
    visible: float  # the smallest true difference that this comparison would usually show


def bootstrap_interval(
    runs: Mapping[Seed, ItemScores],
    *,
    level: float = LEVEL,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = RESAMPLING_SEED,
) -> Interval:
    """Return the mean score of an arm, seeds averaged within an item, with its bootstrap interval.

    Where all items say the same (0 %, 100 %, one item) the interval is the exact binomial one.
    """
    scores, clusters, _ = score_matrix(runs)
    per_item = scores.mean(axis=0)
    draws = bootstrap_means(per_item[None], clusters, num_resamples=num_resamples, seed=seed)[:, 0]
    if exact.is_degenerate(draws) and 0 <= per_item.mean() <= 1:
        return exact.binomial_interval(float(per_item.mean()), len(np.unique(clusters)), level=level)
    return percentile_interval(per_item.mean(), draws, level=level)


def share_interval(
    part: Mapping[Seed, ItemScores],
    whole: Mapping[Seed, ItemScores],
    *,
    level: float = LEVEL,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = RESAMPLING_SEED,
) -> Interval | None:
    """Return mean(part) / mean(whole) with both means resampled together; None if ``whole`` can be 0.

    A part that is the whole itself is 1 for certain.

    Raises:
        DataError: If the two do not hold the same items.
    """
    part_scores, clusters, keys = score_matrix(part)
    whole_scores, _, _ = score_matrix(whole, expected_keys=keys)
    values = np.stack([part_scores.mean(axis=0), whole_scores.mean(axis=0)])
    draws = bootstrap_means(values, clusters, num_resamples=num_resamples, seed=seed)
    if draws[:, 1].min() <= 0:
        return None
    part_mean, whole_mean = (float(value) for value in values.mean(axis=1))
    ratios = draws[:, 0] / draws[:, 1]
    if exact.is_degenerate(ratios) and part is not whole:
        gap = exact.difference_interval(part_mean - whole_mean, len(np.unique(clusters)), level=level)
        low, high = ((whole_mean + end) / whole_mean for end in (gap.low, gap.high))
        return Interval(*(round(value, ROUNDING_DIGITS) for value in (part_mean / whole_mean, max(0.0, low), high)))
    return percentile_interval(part_mean / whole_mean, ratios, level=level)


def paired_difference(
    first: Mapping[Seed, ItemScores],
    second: Mapping[Seed, ItemScores],
    *,
    level: float = LEVEL,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = RESAMPLING_SEED,
) -> PairedDifference:
    """Return first minus second, item by item and seed by seed; 0 with p = 1 for identical runs.

    Where all items say the same, interval and p are the exact ones for that number of items.
    Seeds are paired by number. An arm without a seed (teacher, untouched student) pairs with every
    seed of the other. A seed that only one arm has is left out of both.

    Raises:
        DataError: If the runs hold different items, or no seed is in both arms.
    """
    pairs = pair_seeds(list(first), list(second))
    a, clusters, keys = score_matrix({pair: first[pair[0]] for pair in pairs})
    b, clusters_b, _ = score_matrix({pair: second[pair[1]] for pair in pairs}, expected_keys=keys)
    if not np.array_equal(clusters, clusters_b):
        raise DataError(
            "The same items are in other clusters in the second arm; evaluate both arms on one prepared task."
        )
    difference = a - b
    per_item = difference.mean(axis=0)
    draws = bootstrap_means(per_item[None], clusters, num_resamples=num_resamples, seed=seed)[:, 0]
    per_seed = None
    if np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all():
        per_seed = tuple(mcnemar(int((row > 0).sum()), int((row < 0).sum())) for row in difference)
    means_of_clusters = cluster_means(per_item, clusters)
    mean, num_clusters = float(per_item.mean()), len(means_of_clusters)
    interval, p_value = percentile_interval(mean, draws, level=level), two_sided_p(draws)
    if exact.is_degenerate(draws):
        interval = exact.difference_interval(interval.estimate, num_clusters, level=level)
        p_value = exact.sign_test(mean, num_clusters)
    else:
        interval, p_value = exact.few_differ(means_of_clusters, interval, p_value)
    effect_size = cohens_d(per_item)
    means = tuple(round(float(value), ROUNDING_DIGITS) for value in difference.mean(axis=1))
    return PairedDifference(
        interval=interval,
        p_value=p_value,
        cohens_d=effect_size,
        effect=effect_word(effect_size),
        pairs=tuple(pairs),
        seed_differences=means,
        seed_spread=seed_spread(means, level=level),
        mcnemar_per_seed=per_seed,
        mcnemar_pooled=mcnemar(sum(m.wins for m in per_seed), sum(m.losses for m in per_seed)) if per_seed else None,
        num_items=len(keys),
        num_clusters=num_clusters,
        visible=exact.visible_difference(float(draws.std()), num_clusters),
    )


def cluster_means(values: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Return the mean value of each cluster."""
    _, cluster_of_item = np.unique(clusters, return_inverse=True)
    return np.bincount(cluster_of_item, values) / np.bincount(cluster_of_item)


def mcnemar(wins: int, losses: int) -> McNemar:
    """Test exactly whether discordant items fall to either side equally often; no discordant item gives p = 1.

    Source:
        McNemar 1947, Psychometrika 12:153; the exact form is a binomial test with p = 1/2.
    """
    discordant = wins + losses
    p_value = float(stats.binomtest(wins, discordant, 0.5).pvalue) if discordant else 1.0
    return McNemar(wins, losses, min(1.0, p_value))


def seed_spread(values: Sequence[float], *, level: float = LEVEL) -> SeedSpread:
    """Return mean, sd (n - 1) and the t interval with n - 1 degrees of freedom over a few seeds."""
    array = np.asarray(values, dtype=float)
    if len(array) < 2:
        return SeedSpread(len(array), float(array.mean()), None, None, None)
    mean, sd = float(array.mean()), float(array.std(ddof=1))
    if sd < 10.0**-ROUNDING_DIGITS:
        return SeedSpread(len(array), round(mean, ROUNDING_DIGITS), 0.0, None, None)
    reach = float(stats.t.ppf((1 + level) / 2, len(array) - 1)) * sd / len(array) ** 0.5
    mean, sd, low, high = (round(value, ROUNDING_DIGITS) for value in (mean, sd, mean - reach, mean + reach))
    return SeedSpread(len(array), mean, sd, low, high)


def cohens_d(differences: np.ndarray) -> float | None:
    """Return mean / sd of paired differences (d_z); 0 when nothing differs, None when the sd alone is 0."""
    mean = float(np.mean(differences))
    sd = float(np.std(differences, ddof=1)) if len(differences) > 1 else 0.0
    if sd < 10.0**-ROUNDING_DIGITS:
        return 0.0 if abs(mean) < 10.0**-ROUNDING_DIGITS else None
    return round(mean / sd, ROUNDING_DIGITS)


def effect_word(effect_size: float | None) -> str:
    """Name the size of Cohen's d: negligible below 0.2, small below 0.5, medium below 0.8, else large."""
    if effect_size is None:
        return "undefined"
    return next((word for bound, word in EFFECT_WORDS if abs(effect_size) < bound), "large")


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for their number by Holm's step-down rule (1979, Scand. J. Statist. 6:65)."""
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted
