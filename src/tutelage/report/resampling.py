"""The bootstrap over items: draws, percentile intervals and two-sided p-values.

In: values per item and the cluster of each item. Out: resampled means, and what is read off them.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

NUM_RESAMPLES = 10_000
RESAMPLING_SEED = 2015  # any fixed number; it is recorded with every result
LEVEL = 0.95
# Resampled means are rounded here, so that the order of a float sum can never decide a tie at zero.
ROUNDING_DIGITS = 12
CHUNK_CELLS = 1_000_000  # resampled indices alive at a time: 8 MB
# How often each cluster is drawn is the same for every pair of arms: 2,000 clusters take 20 MB as bytes.
KEPT_CELLS = 60_000_000


@dataclass(frozen=True)
class Interval:
    """An estimate and the two ends of its interval."""

    estimate: float
    low: float
    high: float


def bootstrap_means(
    values: np.ndarray, clusters: np.ndarray, *, num_resamples: int = NUM_RESAMPLES, seed: int = RESAMPLING_SEED
) -> np.ndarray:
    """Resample clusters with replacement and return the mean over their items each time.

    Args:
        values: One row per quantity, one column per item, shape [M, I]. All rows see the same draws.
        clusters: Cluster of each item, shape [I]; rows of a cluster are drawn together.
        num_resamples: Draws R.
        seed: Of the generator; equal seeds and cluster counts give equal draws.

    Returns:
        float64 [R, M].

    Source:
        Efron and Tibshirani 1993, An Introduction to the Bootstrap, sections 6 and 8.
    """
    _, cluster_of_item = np.unique(clusters, return_inverse=True)
    num_clusters = int(cluster_of_item.max()) + 1
    columns = np.vstack([values, np.ones(values.shape[1])])
    sums = np.stack([np.bincount(cluster_of_item, row, num_clusters) for row in columns], axis=1)
    draws = np.concatenate([_means(counts, sums) for counts in _drawn_counts(num_clusters, num_resamples, seed)])
    return np.round(draws, ROUNDING_DIGITS)


def _means(counts: np.ndarray, sums: np.ndarray) -> np.ndarray:
    totals = counts.astype(np.float64) @ sums
    return totals[:, :-1] / totals[:, -1:]


def _drawn_counts(num_clusters: int, num_resamples: int, seed: int) -> Iterable[np.ndarray]:
    if num_clusters * num_resamples > KEPT_CELLS:
        return _draw_counts(num_clusters, num_resamples, seed)
    return _kept_counts(num_clusters, num_resamples, seed, CHUNK_CELLS)


@lru_cache(maxsize=4)
def _kept_counts(num_clusters: int, num_resamples: int, seed: int, _chunk_cells: int) -> tuple[np.ndarray, ...]:
    return tuple(_draw_counts(num_clusters, num_resamples, seed))


def _draw_counts(num_clusters: int, num_resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each cluster is in each resample, some resamples at a time."""
    generator = np.random.default_rng(seed)
    chunk = max(1, CHUNK_CELLS // num_clusters)
    for start in range(0, num_resamples, chunk):
        size = min(chunk, num_resamples - start)
        chosen = generator.integers(0, num_clusters, size=(size, num_clusters))
        cells = (chosen + np.arange(size)[:, None] * num_clusters).ravel()
        counts = np.bincount(cells, minlength=size * num_clusters).reshape(size, num_clusters)
        yield counts.astype(np.uint8 if counts.max() < 256 else np.int64)


def percentile_interval(estimate: float, draws: np.ndarray, *, level: float = LEVEL) -> Interval:
    """Cut ``(1 - level) / 2`` of the draws off either side."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(
        round(float(estimate), ROUNDING_DIGITS), round(float(low), ROUNDING_DIGITS), round(float(high), ROUNDING_DIGITS)
    )


def two_sided_p(draws: np.ndarray) -> float:
    """Twice the smaller share of draws at or beyond zero, at most 1; at least ``2 / (R + 1)``.

    Draws that are all zero give 1. The +1 counts the observed sample as one of the draws
    (Davison and Hinkley 1997, Bootstrap Methods and their Application, section 4.2).
    """
    tail = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    return min(1.0, 2 * (tail + 1) / (len(draws) + 1))
