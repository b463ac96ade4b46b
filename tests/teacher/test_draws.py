"""Draws depend on what they are for, follow the teacher's distribution, and are counted right."""

import numpy as np
import pytest
import torch
from scipy import stats

from tutelage.teacher.draws import count_distinct, draw, philox, uniforms
from tutelage.types import TeacherRow

OPTIONS = {"num_draws": 7, "temperature": 2.0, "seed": 3}


def row(key: int, positions: list[int]) -> TeacherRow:
    return TeacherRow(np.arange(50, dtype=np.int32), np.array(positions), key.to_bytes(16, "little"))


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((2**32 - 1,) * 4, (2**32 - 1,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_gives_the_words_of_its_published_known_answers(
    counter: tuple[int, ...], key: tuple[int, ...], expected: str
) -> None:
    found = philox(np.array(counter, np.uint32)[:, None], np.array(key, np.uint32)[:, None])
    assert " ".join(f"{word:08x}" for word in found[:, 0]) == expected


def test_uniforms_depend_on_key_position_temperature_seed_and_nothing_else() -> None:
    rows = [row(1, [3, 9]), row(2, [3, 4, 40])]
    found = uniforms(rows, **OPTIONS)
    assert found.shape == (5, 7)
    assert np.array_equal(uniforms(rows[::-1], **OPTIONS), found[[2, 3, 4, 0, 1]])  # batch order
    assert np.array_equal(uniforms([row(2, [4])], **OPTIONS), found[[3]])  # other rows, other positions
    assert np.array_equal(uniforms(rows, **{**OPTIONS, "num_draws": 4}), found[:, :4])  # fewer draws: the first ones
    others = [
        uniforms([row(3, [3, 9])], **OPTIONS),
        uniforms([row(1, [4, 10])], **OPTIONS),
        uniforms(rows[:1], **{**OPTIONS, "temperature": 1.0}),
        uniforms(rows[:1], **{**OPTIONS, "seed": 4}),
    ]
    assert not any(np.isin(other, found).any() for other in others)
    assert uniforms([], **OPTIONS).shape == (0, 7)


def test_uniforms_are_uniform_and_independent_along_every_axis() -> None:
    rows = [row(number, list(range(50))) for number in range(40)]
    found = uniforms(rows, num_draws=25, temperature=1.0, seed=0)
    assert 0 <= found.min() < found.max() < 1
    assert stats.kstest(found.flatten(), "uniform").pvalue > 1e-3
    table = found.reshape(40, 50, 25) - 0.5
    pairs = [(table[1:], table[:-1]), (table[:, 1:], table[:, :-1]), (table[:, :, 1:], table[:, :, :-1])]
    for left, right in pairs:
        products = (left * right).flatten() * 12  # variance of a uniform: 1 / 12
        assert abs(products.mean()) < 4 / np.sqrt(products.size)


@pytest.mark.parametrize("num_ids", [5, 64, 97, 300])
def test_draws_follow_the_distribution(num_ids: int) -> None:
    weights_nU = torch.rand(1, num_ids, generator=torch.Generator().manual_seed(1)).pow(4)
    weights_nU[0, ::7] = 0.0
    num_draws = 200_000
    numbers = torch.from_numpy(np.random.default_rng(0).random((1, num_draws)))
    counts = torch.bincount(draw(weights_nU, numbers)[0], minlength=num_ids).double()
    expected = weights_nU[0].double() / weights_nU.double().sum() * num_draws
    assert counts[::7].sum() == 0
    kept = expected > 5
    assert stats.chisquare(
        [*counts[kept], counts[~kept].sum() + 1e-9], [*expected[kept], expected[~kept].sum() + 1e-9]
    ).pvalue > 1e-3  # fmt: skip


def test_a_draw_is_the_inverse_of_the_cumulative_distribution_at_every_uniform() -> None:
    generator = torch.Generator().manual_seed(2)
    weights_nU = torch.rand(6, 200, generator=generator)
    weights_nU[:, 50:130] = 0.0
    numbers = torch.rand(6, 500, generator=generator, dtype=torch.float64)
    ends = weights_nU.double().cumsum(dim=1)
    expected = torch.searchsorted(ends, numbers * ends[:, -1:], right=True)
    assert (draw(weights_nU, numbers) != expected).float().mean() < 1e-3  # rounding at a border


def test_the_ends_of_the_unit_interval_draw_the_first_and_the_last_possible_id() -> None:
    weights_nU = torch.zeros(2, 130)
    weights_nU[:, 3] = 1.0
    weights_nU[1, 70] = 1e-12
    numbers = torch.tensor([[0.0, 1 - 2.0**-53]] * 2, dtype=torch.float64)
    assert draw(weights_nU, numbers).tolist() == [[3, 3], [3, 70]]


def test_ids_below_the_resolution_of_a_float32_sum_are_drawn_as_often_as_they_should() -> None:
    # 10,000 ids of 3e-8 each behind one of almost 1: a float32 running sum stays at 1
    weights_nU = torch.full((1, 10_001), 3e-8)
    weights_nU[0, 0] = 1.0
    numbers = torch.linspace(0, 1, 100_001, dtype=torch.float64)[None, :-1]
    share = (draw(weights_nU, numbers) > 0).double().mean()
    assert abs(float(share) - 3e-4) < 2e-5


def test_nan_weights_give_ids_of_the_vocabulary_so_that_the_column_can_refuse_them() -> None:
    weights_nU = torch.full((2, 97), float("nan"))
    found = draw(weights_nU, torch.rand(2, 5, dtype=torch.float64))
    assert found.min() >= 0
    assert found.max() < 97


def test_distinct_ids_are_ascending_with_their_counts_and_zeros_behind() -> None:
    ids, counts = count_distinct(torch.tensor([[5, 2, 5, 5], [1, 1, 1, 1], [3, 0, 2, 1]]))
    assert ids.tolist() == [[2, 5, 0, 0], [1, 0, 0, 0], [0, 1, 2, 3]]
    assert counts.tolist() == [[1, 3, 0, 0], [4, 0, 0, 0], [1, 1, 1, 1]]
