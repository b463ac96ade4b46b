"""Problems of a recipe: where each is, what was found, what was expected.

In: paths, places and messages. Out: ``RecipeError``, one error that lists them all within 80 columns.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from tutelage.errors import ConfigError
from tutelage.store.secrets import redact

Path = tuple[str | int, ...]
WIDTH = 80


@dataclass(frozen=True)
class Place:
    """Where a value was written: a line of the recipe, a variable, or the command line."""

    source: str
    line: int | None = None

    def __str__(self) -> str:
        return f"line {self.line}" if self.line is not None else self.source


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, at a path of the recipe."""

    path: Path
    message: str
    place: Place | None = None

    @property
    def line(self) -> int | None:
        """The line of the recipe, where the problem has one."""
        return self.place.line if self.place else None

    def __str__(self) -> str:
        return ": ".join(part for part in (str(self.place or ""), dotted(self.path), self.message) if part)


class RecipeError(ConfigError):
    """A recipe is not valid; ``problems`` holds everything that is wrong with it."""

    def __init__(self, title: str, problems: Sequence[Problem], *, secrets: Sequence[str] = ()) -> None:
        ordered = sorted(problems, key=lambda problem: (problem.line is None, problem.line or 0))
        self.problems = tuple(
            Problem(problem.path, redact(problem.message, secrets), problem.place) for problem in dict.fromkeys(ordered)
        )
        super().__init__(redact(_message(title, self.problems), secrets))


def dotted(path: Path) -> str:
    """Write a path as the command line does: ``methods.KD1.grid.alpha``."""
    return ".".join(str(part) for part in path)


def _message(title: str, problems: Sequence[Problem]) -> str:
    """One problem fits a line of its own; several become a list, wrapped to 80 columns."""
    if len(problems) == 1:
        return f"{title}, {problems[0]}"
    lines = [f"{title} has {len(problems)} problems:"]
    for problem in problems:
        where = ": ".join(part for part in (str(problem.place or ""), dotted(problem.path)) if part)
        lines += textwrap.wrap(where, WIDTH, initial_indent="  ", subsequent_indent="    ")
        lines += textwrap.wrap(problem.message, WIDTH, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)
