"""Log-probabilities in a few bits stay within the stated bounds, and what cannot is refused."""

import numpy as np
import pytest

from tutelage.cache.quantise import LevelCodes, level_codes, restore_levels, restore_sqrt, sqrt_codes
from tutelage.errors import NumericsError


def sorted_logprobs(generator: np.random.Generator, count: int, k: int, vocab_size: int, scale: float) -> np.ndarray:
    logits = generator.normal(size=(count, vocab_size)) * scale
    logprobs = logits - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True))
    return -np.sort(-(logprobs - logits.max(1, keepdims=True)), axis=1)[:, :k].astype(np.float32)


@pytest.mark.parametrize(
    ("k", "vocab_size", "scale"), [(1, 50, 1), (8, 50, 3), (50, 50, 3), (20, 500, 0.01), (5, 9, 30)]
)
def test_level_codes_come_back_within_about_one_step(k: int, vocab_size: int, scale: float) -> None:
    exact_NK = sorted_logprobs(np.random.default_rng(k), 100, k, vocab_size, scale)
    found_NK = restore_levels(level_codes(exact_NK))
    step_N1 = (exact_NK[:, :1] - exact_NK[:, -1:]) / 255
    slack_N1 = (1 + np.abs(exact_NK[:, -1:])) * 2**-10
    assert (np.abs(found_NK - exact_NK) <= step_N1 + slack_N1).all()
    assert (np.diff(found_NK, axis=1) <= 0).all()
    assert (found_NK <= 0).all()


def test_the_mass_of_the_tail_keeps_its_digits() -> None:
    for scale in (0.1, 2.0, 5.0):
        exact_NK = sorted_logprobs(np.random.default_rng(3), 200, 10, 100, scale)
        found_NK = restore_levels(level_codes(exact_NK))
        mass_N, stored_N = (np.exp(part.astype(np.float64)).sum(1) for part in (exact_NK, found_NK))
        tail_N = 1 - mass_N
        clear = tail_N > 1e-3  # below, the float32 inputs themselves have lost the tail
        assert (np.abs(1 - stored_N - tail_N)[clear] <= 0.005 * tail_N[clear]).all()
        assert (np.abs(stored_N - mass_N) <= 0.005 * mass_N).all()


def test_a_kept_mass_of_one_comes_back_as_one() -> None:
    exact_NK = np.log(np.array([[0.5, 0.25, 0.25]], dtype=np.float32))
    assert np.exp(restore_levels(level_codes(exact_NK))).sum() == pytest.approx(1, abs=1e-6)


def test_level_codes_that_break_the_bound_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NumericsError, match="8-bit codes"):
        level_codes(np.array([[-1.0, -100_000.0]], dtype=np.float32))

    def shifted(coded: LevelCodes) -> np.ndarray:
        return restore_levels(coded) - 0.1

    monkeypatch.setattr("tutelage.cache.quantise.restore_levels", shifted)
    with pytest.raises(NumericsError, match="bound"):
        level_codes(np.log(np.array([[0.5, 0.25]], dtype=np.float32)))


@pytest.mark.parametrize("bits", [1, 4, 12, 16])
def test_sqrt_codes_come_back_within_their_bound(bits: int) -> None:
    exact = -np.concatenate([[0.0], np.geomspace(1e-6, 64, 500)]).astype(np.float32)
    codes = sqrt_codes(exact, bits)
    assert codes.min() >= 0
    assert codes.max() < 2**bits
    step = 8 / (2**bits - 1)
    assert (np.abs(restore_sqrt(codes, bits) - exact) <= step * np.sqrt(-exact) + step**2 / 4 + 1e-5).all()


def test_a_draw_that_cannot_happen_is_refused() -> None:
    with pytest.raises(NumericsError, match="-64"):
        sqrt_codes(np.array([-1.0, -65.0]), 12)
