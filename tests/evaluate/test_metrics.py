"""Metrics against slow oracles in exact fractions."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.errors import DataError
from tutelage.evaluate import Items, expected_calibration_error, items_from_scores, macro_f1, metrics

PAIRS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40)
SURE = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60)


def oracle_macro_f1(pairs) -> Fraction:
    """Precision and recall, label by label, as in a textbook."""
    scores = []
    for label in sorted({value for pair in pairs for value in pair}):
        hits = sum(gold == label and predicted == label for gold, predicted in pairs)
        predicted_as = sum(predicted == label for _, predicted in pairs)
        really = sum(gold == label for gold, _ in pairs)
        precision = Fraction(hits, predicted_as) if predicted_as else Fraction(0)
        recall = Fraction(hits, really) if really else Fraction(0)
        scores.append(2 * precision * recall / (precision + recall) if hits else Fraction(0))
    return sum(scores, Fraction(0)) / len(scores)


def oracle_ece(pairs) -> Fraction:
    """Every bin's mean confidence and accuracy, in exact fractions."""
    total = Fraction(0)
    edges = [float(edge) for edge in np.linspace(0, 1, 16)]
    for number, (low, high) in enumerate(pairwise(edges)):
        inside = [pair for pair in pairs if low < pair[0] <= high or (number == 0 and pair[0] == 0)]
        if inside:
            mean_confidence = sum((Fraction(c) for c, _ in inside), Fraction(0)) / len(inside)
            share_right = Fraction(sum(right for _, right in inside), len(inside))
            total += Fraction(len(inside), len(pairs)) * abs(share_right - mean_confidence)
    return total


def f1(pairs) -> float:
    gold, predicted = np.array(pairs).T
    return macro_f1(gold, predicted, num_labels=4)


def ece(pairs) -> float:
    return expected_calibration_error(np.array([c for c, _ in pairs]), np.array([float(right) for _, right in pairs]))


@given(PAIRS)
def test_macro_f1_equals_the_textbook_formula(pairs):
    assert f1(pairs) == pytest.approx(float(oracle_macro_f1(pairs)), abs=1e-12)


@given(PAIRS, st.permutations(range(4)), st.randoms())
def test_macro_f1_ignores_the_order_of_items_and_the_names_of_labels(pairs, renamed, random):
    other = [(renamed[gold], renamed[predicted]) for gold, predicted in pairs]
    random.shuffle(other)
    assert f1(other) == pytest.approx(f1(pairs), abs=1e-12)
    assert f1([(predicted, gold) for gold, predicted in pairs]) == pytest.approx(f1(pairs), abs=1e-12)
    assert 0 <= f1(pairs) <= 1


def test_macro_f1_of_a_worked_example():
    # label 0: P = 2/3, R = 2/2, F1 = 4/5; label 1: P = 1/1, R = 1/2, F1 = 2/3; label 2 occurs nowhere.
    assert macro_f1(np.array([0, 0, 1, 1]), np.array([0, 0, 0, 1]), num_labels=3) == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert macro_f1(np.array([0, 0]), np.array([1, 1]), num_labels=2) == 0.0
    assert macro_f1(np.array([0, 1]), np.array([0, 1]), num_labels=2) == 1.0
    # Always the majority: accuracy 0.9, but not macro-F1.
    assert macro_f1(np.array([0] * 9 + [1]), np.zeros(10, dtype=int), num_labels=2) == pytest.approx(18 / 19 / 2)


@given(SURE)
def test_ece_equals_the_sum_over_bins_in_exact_fractions(pairs):
    assert ece(pairs) == pytest.approx(float(oracle_ece(pairs)), abs=1e-12)


@given(SURE)
def test_ece_lies_between_the_overall_gap_and_one(pairs):
    gap = abs(sum(c - right for c, right in pairs)) / len(pairs)  # the triangle inequality over the bins
    assert gap - 1e-12 <= ece(pairs) <= 1


@given(SURE, st.integers(2, 4))
def test_ece_does_not_change_when_every_item_occurs_several_times(pairs, times):
    assert ece(pairs * times) == pytest.approx(ece(pairs), abs=1e-12)


def test_ece_has_fifteen_bins_that_include_their_upper_edge():
    assert ece([(0.75, True)] * 3 + [(0.75, False)]) == pytest.approx(0.0, abs=1e-12)
    assert ece([(1.0, True)]) == 0.0
    assert ece([(1.0, False)]) == 1.0
    assert ece([(0.0, False)]) == 0.0
    # Opposite errors cancel inside a bin and add up across two: the border at 14/15 separates 0.93 from 0.94.
    assert ece([(0.94, True), (0.94, False), (0.95, True)]) == pytest.approx(abs(2 - 2.83) / 3)
    assert ece([(0.93, True), (0.94, False)]) == pytest.approx((0.07 + 0.94) / 2)
    edge = float(np.linspace(0, 1, 16)[14])
    assert ece([(edge, True), (0.93, False)]) == pytest.approx(abs(1 - edge - 0.93) / 2)


def test_metrics_of_items_name_accuracy_f1_validity_calibration_and_number():
    items = items_from_scores(
        np.log(np.array([[0.75, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.25]])),
        item_keys=list("abcd"),
        gold_B=np.array([0, 0, 1, 1]),
        valid_B=np.array([True, True, False, True]),
        labels=("negative", "positive"),
    )
    found = metrics(items)
    assert found == {
        "accuracy": 0.75,
        "macro_f1": pytest.approx((4 / 5 + 2 / 3) / 2),
        "valid_ratio": 0.75,
        "ece": pytest.approx(0.0, abs=1e-12),
        "n": 4,
    }
    assert all(type(value) in (float, int) for value in found.values())  # plain numbers: they go into JSON


def test_an_unparseable_answer_stays_in_the_denominator():
    parts = {"item_keys": ["a", "b"], "gold_B": np.array([0, 0]), "labels": ("x", "y")}
    items = items_from_scores(np.array([[-1.0, -2.0], [-1.0, -2.0]]), valid_B=np.array([True, False]), **parts)
    assert metrics(items)["accuracy"] == 1.0  # over both
    assert metrics(items)["n"] == 2
    assert metrics(items)["valid_ratio"] == 0.5


def test_no_items_are_an_error_and_not_a_nan():
    none = np.zeros(0)
    empty = Items(("a",), (), (), none.astype(int), none.astype(int), none, none, none.astype(bool))
    with pytest.raises(DataError, match="found 0"):
        metrics(empty)
