"""Write numbers the way people read them.

In: shares, differences, counts and p-values. Out: short strings; "-" stands for what is not known.
"""

from collections.abc import Mapping

Number = int | float
MISSING = "-"
P_FLOOR = 0.001
SCIENTIFIC_BELOW = 1e-3


def percent(share: Number | None, *, digits: int = 1) -> str:
    """Return 0.953 as ``95.3``, without the sign."""
    return MISSING if share is None else f"{100 * share:.{digits}f}"


def points(difference: Number | None, *, digits: int = 1) -> str:
    """Return 0.019 as ``+1.9``; what rounds to zero has no sign."""
    if difference is None:
        return MISSING
    text = f"{100 * difference:+.{digits}f}"
    return text[1:] if float(text) == 0 else text


def percent_interval(interval: Mapping[str, Number], *, digits: int = 1) -> str:
    """Return ``[93.9, 96.6]``."""
    return f"[{percent(interval['low'], digits=digits)}, {percent(interval['high'], digits=digits)}]"


def unsigned_zero(text: str) -> str:
    """Return ``0.0`` for ``-0.0``."""
    return text.lstrip("-") if text.startswith("-") and not text.strip("-0.") else text


def decimal(value: Number | None, *, digits: int = 3) -> str:
    """Return a plain decimal number."""
    return MISSING if value is None else unsigned_zero(f"{value:.{digits}f}")


def count(value: Number | None) -> str:
    """Return 1234567 as ``1,234,567``."""
    return MISSING if value is None else f"{value:,.0f}"


def millions(value: Number | None) -> str:
    """Return 81413568 as ``81.4 M``; below a hundred thousand the plain count."""
    if value is None:
        return MISSING
    return f"{value / 1e6:.1f} M" if value >= 1e5 else count(value)


def p_value(value: Number | None) -> str:
    """Return three digits, or ``< 0.001``."""
    if value is None:
        return MISSING
    return f"< {P_FLOOR}" if value < P_FLOOR else f"{value:.3f}"


def setting(value: object) -> str:
    """Return a setting as a recipe would write it: ``2``, ``0.3``, ``5e-5``."""
    if not isinstance(value, float):
        return str(value)
    if value and abs(value) < SCIENTIFIC_BELOW:
        mantissa, _, exponent = f"{value:.3e}".partition("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:g}"


def settings(values: Mapping[str, object]) -> str:
    """Return ``alpha 0.3, temperature 2``; a dotted key loses its folder where that stays clear."""
    return ", ".join(f"{short_key(key)} {setting(value)}" for key, value in sorted(values.items()))


def short_key(key: str) -> str:
    """Return the last part of a dotted path."""
    return key.rpartition(".")[2]
