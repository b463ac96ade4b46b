"""Say in words what an arm minimised: divergence with its own parameter, temperature, weights.

In: a method's section of the resolved recipe, and the grid point that its runs use. Out: one line.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from tutelage.report.numerals import setting

# What a recipe means that leaves the parameter of its divergence out; the configuration's own defaults.
DEFAULTS = {"jsd": {"beta": 0.5}, "skew_kl": {"skew": 0.1}, "skew_reverse_kl": {"skew": 0.1}}
NOT_SETTINGS = ("kind", "grid", "signal", "divergence", "losses")


def method_words(section: Mapping[str, Any], point: Mapping[str, Any]) -> str:
    """Return ``jsd (beta 0.5), alpha 0.3, temperature 2, from final_hidden``; the grid point wins."""
    return ", ".join(_words(_with_point(section, point)))


def _with_point(section: Mapping[str, Any], point: Mapping[str, Any]) -> dict[str, Any]:
    merged = {name: dict(value) if isinstance(value, Mapping) else value for name, value in section.items()}
    for path, value in point.items():
        *parents, last = path.split(".")
        place = merged
        for parent in parents:
            inner = place.get(parent)
            place[parent] = dict(inner) if isinstance(inner, Mapping) else {}
            place = place[parent]
        place[last] = value
    return merged


def _words(section: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    divergence = section.get("divergence")
    if divergence:
        yield _divergence(str(divergence), section)
    for loss in section.get("losses") or ():
        rest = [
            f"{name} {_value(value)}" for name, value in sorted(loss.items()) if _is_told(name, value, loss["kind"])
        ]
        yield " ".join([_divergence(loss["kind"], loss), *rest])
    for name, value in sorted(section.items()):
        if name in NOT_SETTINGS or name in DEFAULTS.get(str(divergence), {}):
            continue
        if isinstance(value, Mapping):
            yield from _words(value, prefix=f"{name}." if name == "train" else "")
        elif value is not None:
            yield f"{prefix}{name.rstrip('_')} {_value(value)}"
    if section.get("signal"):
        yield f"from {section['signal']}"


def _divergence(kind: str, section: Mapping[str, Any]) -> str:
    own = {name: section.get(name) for name in DEFAULTS.get(kind, {})}
    shown = [f"{name} {_value(DEFAULTS[kind][name] if value is None else value)}" for name, value in own.items()]
    return f"{kind} ({', '.join(shown)})" if shown else kind


def _is_told(name: str, value: Any, kind: str) -> bool:
    return value is not None and name != "kind" and name not in DEFAULTS.get(kind, {})


def _value(value: Any) -> str:
    return ", ".join(map(_value, value)) if isinstance(value, list | tuple) else setting(value)
