"""The section of a loss that a user registered, made from its function's keyword arguments.

In: raw values of one entry of ``losses``. Out: a frozen section, or problems in the words of a recipe.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, Strict, ValidationError, create_model

from tutelage.config.base import Positive, Section, refuse
from tutelage.config.translate import translate
from tutelage.plugins import OwnLoss, find_own_loss

_are_unregistered_kept: ContextVar[bool] = ContextVar("are_unregistered_kept", default=False)


class UnregisteredLoss(Section):
    """A loss of the user's whose file was not loaded: kept as it is, by what only lists or reads a recipe."""

    model_config = ConfigDict(extra="allow")

    kind: str
    weight: Positive = 1.0


@contextmanager
def unregistered_kept() -> Iterator[None]:
    """Accept any kind of loss inside: the recipe is not going to be run."""
    token = _are_unregistered_kept.set(True)
    try:
        yield
    finally:
        _are_unregistered_kept.reset(token)


def validate_loss(values: Any, known: Callable[[Any], Any], kinds: frozenset[str], teacher_base: type[Section]) -> Any:
    """Validate one entry of ``losses``: of the package, of the user, or kept as it is.

    Args:
        values: Raw, or a section already.
        known: Validates a loss of the package.
        kinds: The package's.
        teacher_base: The section that losses which read the teacher have in common.
    """
    kind = values.get("kind") if isinstance(values, Mapping) else None
    if not isinstance(kind, str) or kind in kinds:
        return known(values)
    own = find_own_loss(kind)
    if own is None:
        return UnregisteredLoss.model_validate(values) if _are_unregistered_kept.get() else known(values)
    section = own_section(own.name, own.source.digest, teacher_base)
    try:
        return section.model_validate(values)
    except ValidationError as error:
        refuse(translate(error, section, values))


@cache
def own_section(name: str, digest: str, teacher_base: type[Section]) -> type[Section]:
    """Make the section of a registered loss; ``digest`` tells versions of its file apart."""
    own = find_own_loss(name)
    assert own is not None, "the caller found it"
    fields: dict[str, Any] = {"kind": (Literal[name], Field(description=f"A loss of {own.source.name}."))}
    fields |= _settings(own)
    base = teacher_base if own.reads != "labels" else Section
    if base is Section:
        fields["weight"] = (Positive, Field(default=1.0, description="Factor of this term."))
    return create_model(
        f"Own_{name}",
        __base__=base,
        __module__=own.compute.__module__,
        __doc__=f"The loss {name} of {own.source.name}.",
        **fields,
    )


def _settings(own: OwnLoss) -> dict[str, Any]:
    fields = {}
    for key, parameter in own.settings.items():
        default = ... if parameter.default is parameter.empty else parameter.default
        is_plain = parameter.annotation in (float, int, bool, str)
        annotation = Annotated[parameter.annotation, Strict()] if is_plain else parameter.annotation
        fields[key] = (annotation, Field(default=default, description=f"Of the loss {own.name}."))
    return fields
