"""The statistics against hand-made oracles: enumeration, binomial sums, textbook values and simulation."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from tutelage.errors import DataError
from tutelage.report import exact
from tutelage.report.resampling import bootstrap_means, percentile_interval, two_sided_p
from tutelage.report.statistics import (
    bootstrap_interval,
    cohens_d,
    effect_word,
    holm,
    mcnemar,
    paired_difference,
    seed_spread,
    share_interval,
)


def bernoulli(seed, num_items, probability=0.8):
    return (np.random.default_rng(seed).random(num_items) < probability).astype(float)


# --- intervals


def test_estimate_is_the_mean_over_items_and_seeds(scored):
    runs = {1: scored([1, 0, 1, 1]), 2: scored([0, 0, 1, 1])}
    assert bootstrap_interval(runs).estimate == pytest.approx(5 / 8)


def test_bootstrap_distribution_equals_full_enumeration_of_a_small_sample():
    values = np.array([0.0, 1.0, 3.0, -2.0])
    every = np.array([np.mean(draw) for draw in itertools.product(values, repeat=4)])
    draws = bootstrap_means(values[None], np.arange(4), num_resamples=40_000)[:, 0]
    for point in np.unique(np.round(every, 6)):
        share = np.mean(np.isclose(every, point))
        assert np.mean(np.isclose(draws, point)) == pytest.approx(share, abs=4 * math.sqrt(share / 40_000) + 1e-4)


def test_interval_agrees_with_the_normal_approximation_on_many_items(scored):
    scores = bernoulli(0, 4000)
    interval = bootstrap_interval({1: scored(scores)})
    reach = 1.959964 * scores.std() / math.sqrt(4000)
    assert interval.low == pytest.approx(scores.mean() - reach, abs=0.05 * reach)
    assert interval.high == pytest.approx(scores.mean() + reach, abs=0.05 * reach)


def test_interval_halves_with_four_times_the_items(scored):
    small, large = (bootstrap_interval({1: scored(bernoulli(3, n))}) for n in (500, 2000))
    ratio = (large.high - large.low) / (small.high - small.low)
    assert ratio == pytest.approx(0.5, abs=0.07)


def test_items_of_a_cluster_are_drawn_together(scored):
    scores = bernoulli(4, 300)
    once = bootstrap_interval({1: scored(scores)})
    doubled = np.repeat(scores, 2)
    together = bootstrap_interval({1: scored(doubled, clusters=np.repeat(np.arange(300), 2))})
    apart = bootstrap_interval({1: scored(doubled)})
    assert together.high - together.low == pytest.approx(once.high - once.low, rel=0.05)
    assert apart.high - apart.low < 0.8 * (together.high - together.low)


def test_unequal_clusters_are_weighted_by_their_items():
    draws = bootstrap_means(np.array([[1.0, 1.0, 1.0, 0.0]]), np.array([0, 0, 0, 1]), num_resamples=4000)[:, 0]
    assert set(np.round(np.unique(draws), 9)) == {0.0, 0.75, 1.0}
    assert np.mean(draws == 0.75) == pytest.approx(0.5, abs=0.03)


def test_draws_depend_on_the_seed_and_on_nothing_else():
    values = bernoulli(5, 50)[None]
    first, again, other = (bootstrap_means(values, np.arange(50), num_resamples=100, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_chunks_do_not_change_the_draws(monkeypatch):
    values = bernoulli(5, 50)[None]
    whole = bootstrap_means(values, np.arange(50), num_resamples=200)
    monkeypatch.setattr("tutelage.report.resampling.CHUNK_CELLS", 333)
    assert np.array_equal(whole, bootstrap_means(values, np.arange(50), num_resamples=200))


def test_interval_and_p_value_cover_as_often_as_they_say():
    generator = np.random.default_rng(11)
    covered, rejected, num_worlds = 0, 0, 250
    for world in range(num_worlds):
        differences = generator.choice([-1.0, 0.0, 0.0, 0.0, 1.0], 150)  # true mean 0
        draws = bootstrap_means(differences[None], np.arange(150), num_resamples=400, seed=world)[:, 0]
        interval = percentile_interval(differences.mean(), draws)
        covered += interval.low <= 0 <= interval.high
        rejected += two_sided_p(draws) < 0.05
    assert 0.90 <= covered / num_worlds <= 0.985
    assert 0.015 <= rejected / num_worlds <= 0.10


# --- paired differences


def test_identical_runs_differ_by_zero_with_p_one(scored):
    runs = {seed: scored(bernoulli(seed, 200)) for seed in (1, 2, 3)}
    result = paired_difference(runs, dict(runs))
    assert result.interval.estimate == 0
    # no difference in 200 items: up to 1 - 0.025^(1/200) of all items may still differ
    assert -result.interval.low == result.interval.high == pytest.approx(1 - 0.025 ** (1 / 200))
    assert result.p_value == 1
    assert (result.cohens_d, result.effect) == (0, "negligible")
    assert result.mcnemar_pooled is not None
    assert (result.mcnemar_pooled.wins, result.mcnemar_pooled.losses, result.mcnemar_pooled.p_value) == (0, 0, 1)


def test_difference_averages_seeds_within_an_item(scored):
    a = {1: scored([1, 1, 0, 1]), 2: scored([1, 0, 0, 1])}
    b = {1: scored([0, 1, 0, 1]), 2: scored([0, 0, 1, 1])}
    result = paired_difference(a, b)
    per_item = np.array([1.0, 0.0, -0.5, 0.0])
    assert result.interval.estimate == pytest.approx(per_item.mean())
    assert result.cohens_d == pytest.approx(per_item.mean() / per_item.std(ddof=1))
    assert result.seed_differences == (0.25, 0.0)
    every = np.array([np.mean(draw) for draw in itertools.product(per_item, repeat=4)])
    expected = min(1.0, 2 * min(np.mean(every <= 0), np.mean(every >= 0)))
    assert result.p_value == pytest.approx(expected, abs=0.02)


def test_swapping_the_arms_swaps_the_sign(scored):
    a, b = {1: scored(bernoulli(1, 300, 0.85))}, {1: scored(bernoulli(2, 300, 0.75))}
    there, back = paired_difference(a, b), paired_difference(b, a)
    assert there.interval.estimate == -back.interval.estimate
    assert there.interval.low == pytest.approx(-back.interval.high)
    assert there.p_value == back.p_value
    assert there.mcnemar_pooled is not None
    assert back.mcnemar_pooled is not None
    assert (there.mcnemar_pooled.wins, there.mcnemar_pooled.losses) == (
        back.mcnemar_pooled.losses,
        back.mcnemar_pooled.wins,
    )


def test_order_of_the_items_does_not_matter(scored):
    first, second = bernoulli(1, 100), bernoulli(2, 100)
    keys = np.array([f"k{index:03d}" for index in range(100)])
    order = np.random.default_rng(0).permutation(100)
    straight = paired_difference({1: scored(first, keys=keys)}, {1: scored(second, keys=keys)})
    shuffled = paired_difference({1: scored(first[order], keys=keys[order])}, {1: scored(second, keys=keys)})
    assert straight == shuffled


def test_pairing_narrows_the_interval_of_runs_that_agree(scored):
    base = bernoulli(1, 1000)
    better = base.copy()
    better[np.flatnonzero(base == 0)[:20]] = 1
    paired = paired_difference({1: scored(better)}, {1: scored(base)}).interval
    unpaired_reach = 1.96 * math.sqrt(2 * base.var() / 1000)
    assert paired.high - paired.low < unpaired_reach
    assert paired.low > 0


@pytest.mark.parametrize("seed", range(8))
def test_interval_is_clear_of_zero_exactly_when_p_is_below_five_percent(scored, seed):
    generator = np.random.default_rng(seed)
    a, b = scored(generator.random(80) < 0.75), scored(generator.random(80) < 0.6)
    result = paired_difference({1: a}, {1: b})
    clear = result.interval.low > 0 or result.interval.high < 0
    assert clear == (result.p_value < 0.05) or abs(result.p_value - 0.05) < 0.015


def test_other_items_are_refused(scored):
    with pytest.raises(DataError, match=r"one only, first 'i00002'"):
        paired_difference({1: scored([1, 0, 1])}, {1: scored([1, 0])})
    with pytest.raises(DataError, match="same items"):
        paired_difference({1: scored([1, 0], keys=["a", "b"])}, {1: scored([1, 0], keys=["a", "c"])})


def test_seeds_of_one_arm_with_other_items_are_refused(scored):
    with pytest.raises(DataError, match="same items"):
        bootstrap_interval({1: scored([1, 0, 1]), 2: scored([1, 0])})


def test_other_clusters_are_refused(scored):
    with pytest.raises(DataError, match="other clusters"):
        paired_difference({1: scored([1, 0], clusters=["x", "x"])}, {1: scored([1, 0], clusters=["x", "y"])})


@pytest.mark.parametrize(
    ("scores", "keys", "message"),
    [([1, 0], ["a", "a"], "twice"), ([1, float("nan")], None, "not finite"), ([], [], "above 0")],
)
def test_broken_item_scores_are_refused(scored, scores, keys, message):
    with pytest.raises(DataError, match=message):
        scored(scores, keys=keys)


def test_seeds_are_paired_by_number_not_by_place(scored):
    x, y = bernoulli(1, 100), bernoulli(2, 100)
    result = paired_difference({2: scored(y), 1: scored(x)}, {1: scored(x), 2: scored(y)})
    assert result.pairs == ((1, 1), (2, 2))
    assert result.seed_differences == (0.0, 0.0)


def test_a_seed_that_one_arm_lacks_is_left_out_of_both(scored):
    a = {1: scored([1, 1, 0]), 2: scored([1, 1, 1])}
    result = paired_difference(a, {2: scored([1, 0, 0]), 3: scored([0, 0, 0])})
    assert result.pairs == ((2, 2),)
    assert result.interval.estimate == pytest.approx(2 / 3)


def test_an_untrained_arm_pairs_with_every_seed(scored):
    trained, teacher = {5: scored([1, 0, 0]), 3: scored([1, 1, 0])}, {None: scored([1, 1, 1])}
    assert paired_difference(trained, teacher).pairs == ((3, None), (5, None))
    assert paired_difference(teacher, trained).pairs == ((None, 3), (None, 5))


def test_arms_without_a_common_seed_are_refused(scored):
    with pytest.raises(DataError, match=r"\[1\] and \[2\]"):
        paired_difference({1: scored([1, 0])}, {2: scored([1, 0])})


# --- exact and small-sample tests


def exact_mcnemar(wins, losses):
    n, k = wins + losses, min(wins, losses)
    return min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n) if n else 1.0


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (1, 0), (5, 5), (9, 1), (1, 9), (30, 14), (210, 160)])
def test_mcnemar_is_the_exact_binomial_tail_doubled(wins, losses):
    assert mcnemar(wins, losses).p_value == pytest.approx(exact_mcnemar(wins, losses), rel=1e-9)


def test_mcnemar_counts_discordant_items_per_seed_and_pooled(scored):
    a = {1: scored([1, 1, 0, 0, 1]), 2: scored([1, 1, 1, 0, 0])}
    b = {1: scored([0, 0, 1, 0, 1]), 2: scored([1, 0, 0, 0, 1])}
    result = paired_difference(a, b)
    assert result.mcnemar_per_seed is not None
    assert result.mcnemar_pooled is not None
    assert [(test.wins, test.losses) for test in result.mcnemar_per_seed] == [(2, 1), (2, 1)]
    assert (result.mcnemar_pooled.wins, result.mcnemar_pooled.losses) == (4, 2)
    assert result.mcnemar_pooled.p_value == pytest.approx(exact_mcnemar(4, 2))


def test_mcnemar_is_absent_for_graded_scores(scored):
    result = paired_difference({1: scored([0.5, 1.0])}, {1: scored([0.0, 1.0])})
    assert (result.mcnemar_per_seed, result.mcnemar_pooled) == (None, None)


def test_t_interval_of_three_seeds_is_the_textbook_one():
    spread = seed_spread([1.0, 2.0, 3.0])
    reach = 4.302652729911275 / math.sqrt(3)  # t(0.975, 2) from printed tables: 4.303
    assert (spread.mean, spread.sd) == (2, 1)
    assert spread.low == pytest.approx(2 - reach)
    assert spread.high == pytest.approx(2 + reach)


def test_one_seed_has_no_spread():
    spread = seed_spread([0.7])
    assert (spread.mean, spread.sd, spread.low, spread.high) == (0.7, None, None, None)


def test_cohens_d_without_spread_is_zero_or_undefined():
    assert cohens_d(np.zeros(5)) == 0
    assert cohens_d(np.full(5, 0.3)) is None
    assert effect_word(None) == "undefined"


@pytest.mark.parametrize(
    ("size", "word"),
    [(0.0, "negligible"), (-0.19, "negligible"), (0.2, "small"), (-0.5, "medium"), (0.79, "medium"), (0.8, "large")],
)
def test_effect_words_follow_cohen(size, word):
    assert effect_word(size) == word


def test_holm_steps_down_and_never_decreases():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_share_of_an_arm_in_itself_is_one_without_spread(scored):
    runs = {1: scored(bernoulli(1, 100))}
    share = share_interval(runs, runs)
    assert share is not None
    assert (share.estimate, share.low, share.high) == (1, 1, 1)


def test_share_resamples_both_arms_on_the_same_items(scored):
    whole = bernoulli(1, 400, 0.9)
    part = whole.copy()
    part[np.flatnonzero(whole)[:36]] = 0
    share = share_interval({1: scored(part)}, {1: scored(whole)})
    assert share is not None
    assert share.estimate == pytest.approx(part.mean() / whole.mean())
    kept = part[whole == 1]  # part is a subset of whole, so the share is a proportion among its right items
    reach = 1.96 * kept.std() / math.sqrt(len(kept))
    assert share.high - share.low == pytest.approx(2 * reach, rel=0.08)


def test_share_of_nothing_is_unknown(scored):
    assert share_interval({1: scored([1, 0, 1])}, {1: scored([0, 0, 0])}) is None


# --- where the bootstrap has nothing to draw from


@pytest.mark.parametrize(("share", "n"), [(0.0, 20), (1.0, 20), (1.0, 1), (0.0, 1), (1.0, 400)])
def test_all_right_and_all_wrong_have_the_exact_binomial_interval(scored, share, n):
    result = bootstrap_interval({1: scored([share] * n), 2: scored([share] * n)})
    expected = stats.binomtest(int(share * n), n).proportion_ci(method="exact")
    assert (result.low, result.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert result.high - result.low > 0.005


def test_rows_of_one_cluster_count_as_one(scored):
    alone = bootstrap_interval({1: scored([1.0] * 40, clusters=["same"] * 40)})
    assert (alone.low, alone.high) == (pytest.approx(0.025), 1.0)


def test_one_item_proves_no_difference(scored):
    result = paired_difference({1: scored([1.0])}, {1: scored([0.0])})
    assert result.interval.estimate == 1
    assert result.interval.low == pytest.approx(2 * 0.025 - 1)
    assert result.p_value == 1
    assert result.visible == 1


@pytest.mark.parametrize(("wins", "shown"), [(5, False), (6, True)])
def test_six_items_that_all_fall_to_one_side_are_the_least_that_show_a_difference(scored, wins, shown):
    for right in ([1.0] * wins, [1.0] * wins + [0.0] * (40 - wins)):
        result = paired_difference({1: scored(right)}, {1: scored([0.0] * len(right))})
        assert (result.interval.low > 0) == shown
        assert (result.p_value < 0.05) == shown


def test_a_part_equal_to_the_whole_in_every_item_keeps_an_interval(scored):
    right = [1.0, 0.0, 1.0, 1.0] * 10
    teacher, student = {None: scored(right)}, {1: scored(right)}
    kept = share_interval(student, teacher)
    reach = (1 - 0.025 ** (1 / 40)) / 0.75
    assert kept is not None
    assert (kept.estimate, kept.low, kept.high) == (1, pytest.approx(1 - reach), pytest.approx(1 + reach))
    itself = share_interval(teacher, teacher)
    assert itself is not None
    assert (itself.low, itself.high) == (1, 1)


def test_equal_seeds_have_no_t_interval():
    assert seed_spread([0.067, 0.067]).low is None
    assert seed_spread([0.067, 0.067]).sd == 0


def test_the_smallest_visible_difference_is_found_four_times_of_five():
    generator = np.random.default_rng(0)
    num_items, sd = 400, 0.5
    true = exact.visible_difference(sd / num_items**0.5, num_items)
    means = generator.normal(true, sd, (2000, num_items)).mean(axis=1)
    assert np.mean(means > 1.96 * sd / num_items**0.5) == pytest.approx(0.8, abs=0.03)
