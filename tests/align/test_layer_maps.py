"""Which layer of the student is compared with which of the teacher."""

from fractions import Fraction
from itertools import pairwise, product

import pytest

from tutelage.align import layer_pairs
from tutelage.errors import AlignmentError

SIZES = list(product(range(1, 25), repeat=2))


def pairs(kind, m, n, available=None, **arguments):
    everything = range(n + 1) if available is None else available
    return layer_pairs(kind, student_layers=m, teacher_layers=n, available=everything, **arguments)


def test_22_layers_on_12():
    assert pairs("even", 12, 22) == list(
        zip(range(1, 13), [2, 4, 6, 7, 9, 11, 13, 15, 17, 18, 20, 22], strict=True)
    )  # fmt: skip


def test_half_as_many_layers_take_every_second_one():
    assert pairs("even", 15, 30) == [(i, 2 * i) for i in range(1, 16)]


def test_as_many_layers_are_compared_one_by_one():
    assert pairs("even", 5, 5) == [(i, i) for i in range(1, 6)]


def test_a_student_with_more_layers_leaves_some_out():
    assert pairs("even", 22, 12) == [(s, t) for t, s in pairs("even", 12, 22)]


def test_an_even_map_is_within_half_a_layer_of_equal_depth_ends_at_both_ends_and_uses_no_layer_twice():
    for m, n in SIZES:
        found = pairs("even", m, n)
        assert len(found) == min(m, n)
        assert found[-1] == (m, n)
        assert all(a < c and b < d for (a, b), (c, d) in pairwise(found)), (m, n)
        for s, t in found:
            assert abs(Fraction(s, m) - Fraction(t, n)) <= Fraction(1, 2 * max(m, n)), (m, n, s, t)


def test_halves_are_rounded_up_not_to_even_numbers():
    assert pairs("even", 2, 5) == [(1, 3), (2, 5)]
    assert pairs("even", 2, 9) == [(1, 5), (2, 9)]


def test_proportional_is_even_where_every_decoder_layer_is_available():
    for m, n in SIZES:
        assert pairs("proportional", m, n, range(1, n + 1)) == pairs("even", m, n), (m, n)


def test_proportional_takes_every_cached_layer_of_a_stride():
    assert pairs("proportional", 15, 30, [28, 4, 8, 12, 16, 20, 24]) == [
        (2, 4), (4, 8), (6, 12), (8, 16), (10, 20), (12, 24), (14, 28)
    ]  # fmt: skip


def test_of_several_layers_with_one_student_layer_proportional_keeps_the_nearest():
    assert pairs("proportional", 2, 30, range(4, 31, 4)) == [(1, 16), (2, 28)]
    assert pairs("proportional", 2, 30, [14, 16]) == [(1, 16)]  # equally near: the deeper


def test_proportional_pairs_are_nearest_on_both_sides_and_never_cross():
    for (m, n), step in product(product(range(1, 17, 3), range(1, 17)), (1, 2, 3, 5)):
        available = range(step, n + 1, step)
        if not available:
            continue
        found = pairs("proportional", m, n, available)
        assert all(a < c and b < d for (a, b), (c, d) in pairwise(found)), (m, n, step)
        for s, t in found:
            distance = abs(Fraction(s, m) - Fraction(t, n))
            assert distance == min(abs(Fraction(other, m) - Fraction(t, n)) for other in range(1, m + 1))


def test_the_embeddings_are_paired_with_the_embeddings_alone():
    assert pairs("proportional", 3, 30, [0, 1, 10]) == [(0, 0), (1, 10)]
    assert pairs("proportional", 3, 30, [1]) == [(1, 1)]
    assert all(s > 0 and t > 0 for s, t in pairs("even", 3, 30))


def test_fixed_is_what_was_given():
    assert pairs("fixed", 4, 22, [0, 12, 22], given={4: 22, 0: 0, 2: 12}) == [(0, 0), (2, 12), (4, 22)]


def test_shrink_turns_indices_from_0_into_layer_numbers_from_1():
    assert pairs("shrink", 3, 6, kept=[0, 2, 5]) == [(1, 1), (2, 3), (3, 6)]


def test_shrink_leaves_out_the_layers_that_were_not_cached():
    assert pairs("shrink", 3, 6, [2, 3, 6], kept=[0, 2, 5]) == [(2, 3), (3, 6)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("evenly", 2, 4), "found layer map 'evenly'; expected one of even, proportional, fixed, shrink"),
        (("even", 0, 4), "0 student layers"),
        (("even", 2, 4, [4]), r"layers 2, 4, but of these 2 cannot be had \(available: 4\): add them to the `layers`"),
        (("even", 2, 4, []), r"of these 2, 4 cannot be had \(available: none\)"),
        (("proportional", 2, 4, []), "no teacher layer is available; add a signal `hidden`"),
        (("proportional", 2, 4, [5]), "found available teacher layer 5; expected 0 .* to 4"),
    ],
)
def test_a_map_that_cannot_be_made_says_what_to_do(arguments, message):
    with pytest.raises(AlignmentError, match=message):
        pairs(*arguments)


@pytest.mark.parametrize(
    ("given", "available", "message"),
    [
        (None, None, "without layers; give `layers:"),
        ({}, None, "without layers"),
        ({5: 2}, None, "found student layer 5; expected 0 .* to 4"),
        ({-1: 2}, None, "found student layer -1"),
        ({4: 23}, None, "found teacher layer 23; expected 0 .* to 22"),
        ({4: 22, 2: 11}, [22, 12], "of these 11 cannot be had .*12, 22.*layer map proportional"),
    ],
)
def test_a_fixed_map_that_does_not_fit_says_which_layer(given, available, message):
    with pytest.raises(AlignmentError, match=message):
        pairs("fixed", 4, 22, available, given=given)


@pytest.mark.parametrize(
    ("kept", "available", "message"),
    [
        (None, None, "needs a student that was made by leaving out"),
        ([0, 2], None, "keeps the teacher's layers .0, 2.; expected 3 ascending indices below 6"),
        ([0, 2, 6], None, "ascending indices below 6"),
        ([2, 0, 5], None, "ascending indices"),
        ([0, 2, 5], [2, 4, 5], r"\(numbers 1, 3, 6\) is available; found 2, 4, 5"),
    ],
)
def test_a_shrink_map_that_does_not_fit_says_why(kept, available, message):
    with pytest.raises(AlignmentError, match=message):
        pairs("shrink", 3, 6, available, kept=kept)
