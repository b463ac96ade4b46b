"""Points of a method's grid: paths checked against the schema, values by building the method with them.

In: a method section with ``grid``. Out: problems, points, and the method at one point.
"""

import difflib
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from tutelage.config.own_losses import unregistered_kept

Path = tuple[str | int, ...]
MethodType = TypeVar("MethodType", bound=BaseModel)
NOT_SEARCHED = frozenset({"kind", "grid", "device"})
FREE_PREFIX = "train.lr_scheduler_kwargs."  # a mapping whose keys are those of transformers


def grid_points(method: Any) -> list[dict[str, Any]]:
    """List every combination of a method's grid, the last key changing fastest; one empty point without a grid."""
    return [dict(zip(method.grid, values, strict=True)) for values in itertools.product(*method.grid.values())]


def num_trials(method: Any) -> int:
    """Count the grid points."""
    return math.prod(len(values) for values in method.grid.values())


def with_point(method: MethodType, point: Mapping[str, Any]) -> MethodType:
    """Return ``method`` without its grid and with the values of ``point`` in place.

    Raises:
        pydantic.ValidationError: If a value does not fit the schema.
    """
    values = method.model_dump(exclude={"grid"}, exclude_unset=True)
    for path, value in point.items():
        _set(values, path.split("."), value)
    with unregistered_kept():  # the method was validated, with every loss of the user's registered where it must be
        return type(method).model_validate(values)


def searchable_paths(method: BaseModel) -> list[str]:
    """List the dotted paths that a grid of this method may name."""
    return sorted(path for path in _leaves(method) if path.split(".")[-1] not in NOT_SEARCHED)


def grid_problems(method: Any) -> Iterator[tuple[Path, str]]:
    """Yield what is wrong with a method's grid, at paths below the method."""
    known = searchable_paths(method)
    for path, values in method.grid.items():
        if path not in known and not path.startswith(FREE_PREFIX):
            near = difflib.get_close_matches(path, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}"
            yield ("grid", path), f"is not a setting of this method; {hint}"
            continue
        for index, value in enumerate(values):
            if value in values[:index]:
                yield ("grid", path, index), f"{value!r} is listed twice; a trial would run twice"
            yield from (((("grid", path, index)), text) for text in _value_problems(method, path, value))


def _value_problems(method: BaseModel, path: str, value: Any) -> list[str]:
    try:
        with_point(method, {path: value})
    except ValidationError as error:
        return [
            f"{value!r} does not fit {path}: {details['msg'][:1].lower()}{details['msg'][1:]}"
            for details in error.errors()[:1]
        ]
    return []


def _leaves(section: BaseModel, prefix: str = "") -> Iterator[str]:
    for attribute, field in type(section).model_fields.items():
        name, value = field.alias or attribute, getattr(section, attribute)
        if isinstance(value, BaseModel):
            yield from _leaves(value, f"{prefix}{name}.")
        elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
            for index, part in enumerate(value):
                yield from _leaves(part, f"{prefix}{name}.{index}.")
        else:
            yield f"{prefix}{name}"


def _set(values: Any, path: list[str], value: Any) -> None:
    key, rest = path[0], path[1:]
    if isinstance(values, list):
        _set(values[int(key)], rest, value)
        return
    if not rest:
        values[key] = value
        return
    child = values.get(key, {})
    values[key] = list(child) if isinstance(child, tuple) else child
    _set(values[key], rest, value)
