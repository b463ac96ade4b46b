"""What a check yields.

In: a ``Look``. Out: a ``Refusal`` (the run cannot end well) or a ``Note`` (the user should know it before the run).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tutelage.errors import DataError, TutelageError

if TYPE_CHECKING:
    from tutelage.experiment.checks.look import Look

Key = tuple[str | int, ...]  # a path of the recipe: ("tasks", "sentiment", "data", "label")


@dataclass(frozen=True)
class Refusal:
    """One thing that is wrong; ``key`` is the setting to change."""

    key: Key
    message: str


@dataclass(frozen=True)
class Note:
    """One line that ``plan`` and ``run`` print: a mapping of labels, counts, a warning."""

    key: Key
    message: str


Finding = Refusal | Note
Check = Callable[["Look"], Iterator[Finding]]


def guarded(key: Key, check: Callable[[], object]) -> Iterator[Refusal]:
    """Yield what ``check`` raises as a refusal at ``key``; nothing when it passes."""
    try:
        check()
    except TutelageError as error:
        yield from refusals(key, error)


def refusals(key: Key, error: TutelageError) -> Iterator[Refusal]:
    """Yield what an error says: one refusal at ``key``, or each of several problems below it."""
    problems = getattr(error, "problems", None)
    if not isinstance(error, DataError) or not problems:
        yield Refusal(key, str(error))
        return
    for path, message in problems:
        yield Refusal((*key, *path), message)
