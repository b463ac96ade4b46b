"""What a check yields.

In: a ``Look``. Out: a ``Refusal`` (the run cannot end well) or a ``Note`` (the user should know it before the run).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tutelage.errors import TutelageError

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
        yield Refusal(key, str(error))
