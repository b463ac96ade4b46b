"""Log-probabilities in a few bits, each with a bound that the writer asserts.

In: log-probabilities. Out: small integer codes with what is needed to undo them, and back.
"""

from dataclasses import dataclass

import numpy as np

from tutelage.errors import NumericsError

TOP_LEVEL = 255  # levels are one byte
SQRT_RANGE = 8.0  # codes of sqrt(-log p) span [0, 8]: probabilities down to e**-64
HALF_ULP = 2.0**-11  # relative rounding of a normal float16
FLOAT32_SLACK = 2.0**-18  # rounding of the reader's float32 log-sum-exp over many entries
EMPTY_TAIL = 65_504.0  # the largest float16: exp(-65504) is 0


@dataclass(frozen=True)
class LevelCodes:
    """Log-probabilities of N positions, largest first, in equal steps below the first.

    ``log p_j = log mass - log sum_i exp(-r_i) - r_j`` with ``r_j = codes_NK * spread_N / 255``: the steps give the
    shape, the mass of all kept entries gives the level, so the mass of the tail keeps its digits.
    """

    codes_NK: np.ndarray  # int64, 0 to 255, ascending
    spread_N: np.ndarray  # float16: first minus last log-probability
    mass_N: np.ndarray  # float16: log mass where the mass is below 1/2, else -log(1 - mass)


def level_codes(logprobs_NK: np.ndarray) -> LevelCodes:
    """Quantise sorted log-probabilities in float64 arithmetic.

    Raises:
        NumericsError: If an entry does not come back within
            ``spread / 255 + (1 + |log mass| + spread) * 2**-11 + 2**-18`` nats.
    """
    exact_NK = logprobs_NK.astype(np.float64)
    below_NK = exact_NK[:, :1] - exact_NK
    log_mass_N = exact_NK[:, 0] + np.log(np.exp(-below_NK).sum(axis=1))
    tail_N = 1.0 - np.exp(log_mass_N)
    log_tail_N = np.log(np.maximum(tail_N, np.finfo(np.float64).tiny))
    with np.errstate(over="ignore"):  # what float16 cannot hold is refused below
        spread_N = below_NK[:, -1].astype(np.float16)
        stored_N = np.where(tail_N > 0.5, log_mass_N, np.where(tail_N > 0, -log_tail_N, EMPTY_TAIL)).astype(np.float16)
    steps_N = np.maximum(spread_N.astype(np.float64), np.finfo(np.float16).smallest_subnormal) / TOP_LEVEL
    codes_NK = np.rint(below_NK / steps_N[:, None]).clip(0, TOP_LEVEL).astype(np.int64)
    coded = LevelCodes(codes_NK, spread_N, stored_N)
    if not (np.isfinite(spread_N) & np.isfinite(stored_N)).all():
        raise broken_bound(exact_NK)
    bound_N1 = (below_NK[:, -1] / TOP_LEVEL + (1 + np.abs(log_mass_N) + below_NK[:, -1]) * HALF_ULP + FLOAT32_SLACK)[
        :, None
    ]
    if not (np.abs(restore_levels(coded) - exact_NK) <= bound_N1).all():
        raise broken_bound(exact_NK)
    return coded


def broken_bound(logprobs_NK: np.ndarray) -> NumericsError:
    """Say that log-probabilities cannot be stored in one byte each."""
    return NumericsError(
        f"The log-probability {float(logprobs_NK.min()):g} does not survive 8-bit codes within their bound. "
        "Store topk with dtype fp16 or fp32."
    )


def restore_levels(coded: LevelCodes) -> np.ndarray:
    """Undo :func:`level_codes`: float32 [N, K], never above 0."""
    steps_N = coded.spread_N.astype(np.float32) / np.float32(TOP_LEVEL)
    below_NK = coded.codes_NK.astype(np.float32) * steps_N[:, None]
    mass_N = coded.mass_N.astype(np.float32)
    log_mass_N = np.where(mass_N < 0, mass_N, np.log1p(-np.exp(-np.abs(mass_N))))
    level_N = log_mass_N - np.log(np.exp(-below_NK).sum(axis=1))
    return np.minimum(level_N[:, None] - below_NK, np.float32(0))


def sqrt_codes(logprobs: np.ndarray, bits: int) -> np.ndarray:
    """Quantise log-probabilities in equal steps of ``sqrt(-log p)``, finest near 0.

    With ``s = 8 / (2**bits - 1)`` a value comes back within ``s * sqrt(-log p) + s**2 / 4`` nats.

    Raises:
        NumericsError: If one is below -64 nats, where the codes end.
    """
    roots = np.sqrt(np.maximum(-logprobs.astype(np.float64), 0.0))
    codes = np.rint(roots * (((1 << bits) - 1) / SQRT_RANGE)).astype(np.int64)
    if roots.size and roots.max() > SQRT_RANGE:
        raise NumericsError(
            f"The teacher drew an id of log-probability {float(logprobs.min()):g}; expected more than "
            f"{-(SQRT_RANGE**2):g}, as a draw below has no chance to happen. Check the teacher's sampling."
        )
    return codes


def restore_sqrt(codes: np.ndarray, bits: int) -> np.ndarray:
    """Undo :func:`sqrt_codes`: float32."""
    return -((codes * (SQRT_RANGE / ((1 << bits) - 1))) ** 2).astype(np.float32)
