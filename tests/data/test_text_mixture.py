"""Shares are exact, streams are shuffled within bounds, and both are pure functions."""

from collections import Counter
from fractions import Fraction
from itertools import count, islice

from hypothesis import given
from hypothesis import strategies as st

from tutelage.data.mixture import exact_shares, largest_total, shuffled_stream

WEIGHTS = st.lists(st.floats(0.01, 100, allow_nan=False), min_size=1, max_size=6)


@given(total=st.integers(0, 5000), weights=WEIGHTS)
def test_shares_sum_to_the_total_and_each_is_its_quota_rounded(total, weights):
    shares = exact_shares(total, weights)
    assert sum(shares) == total
    whole = sum(Fraction(weight) for weight in weights)
    for share, weight in zip(shares, weights, strict=True):
        assert abs(share - total * Fraction(weight) / whole) < 1


def test_shares_go_by_the_largest_remainder_and_ties_to_the_earlier_source():
    assert exact_shares(10, [1, 1, 1]) == [4, 3, 3]
    assert exact_shares(10, [0.7, 0.2, 0.1]) == [7, 2, 1]
    assert exact_shares(100, [6, 5, 2]) == [46, 39, 15]  # quotas 46.15, 38.46, 15.38
    assert exact_shares(3, [1000, 1]) == [3, 0]


@given(rows=st.data(), weights=WEIGHTS)
def test_the_largest_total_fits_and_one_row_more_does_not(rows, weights):
    available = rows.draw(st.lists(st.integers(0, 200), min_size=len(weights), max_size=len(weights)))
    total = largest_total(available, weights)
    assert all(share <= own for share, own in zip(exact_shares(total, weights), available, strict=True))
    more = exact_shares(total + 1, weights)
    assert any(share > own for share, own in zip(more, available, strict=True))


def test_a_stream_yields_every_record_once_in_another_order_that_the_seed_decides():
    records = list(range(500))
    first = list(shuffled_stream(records, buffer=50, seed="1:0"))
    assert Counter(first) == Counter(records)
    assert first != records
    assert first == list(shuffled_stream(records, buffer=50, seed="1:0"))
    assert first != list(shuffled_stream(records, buffer=50, seed="2:0"))
    assert list(shuffled_stream(records, buffer=1, seed="1:0")) == records


def test_a_stream_is_read_no_further_than_the_buffer_and_may_be_endless():
    read = []

    def endless():
        for number in count():
            read.append(number)
            yield number

    found = list(islice(shuffled_stream(endless(), buffer=20, seed="0"), 30))
    assert len(read) == 30 + 20 - 1
    assert all(value < place + 20 for place, value in enumerate(found))
