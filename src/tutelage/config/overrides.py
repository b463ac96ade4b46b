"""Dotted overrides such as ``train.learning_rate=2e-5``, put into the tree of a recipe.

In: a tree, a dotted path, a value. Out: the tree changed, or a problem.
"""

import difflib
from dataclasses import dataclass
from typing import Any

from tutelage.config.problems import Path, Place, Problem, dotted
from tutelage.config.yaml_tree import Tree, plain_scalar, read_tree

COMMAND_LINE = "command line"
NAMED_SECTIONS = ("students", "tasks", "methods")  # their keys are the user's own names


@dataclass(frozen=True)
class Override:
    """One value that replaces what the recipe says."""

    source: str
    path: str
    value: Any

    def record(self) -> dict[str, Any]:
        """Return what goes into the provenance."""
        return {"source": self.source, "path": self.path, "value": self.value}


def parse_override(text: str) -> Override | Problem:
    """Read ``path=value``; the value is a YAML scalar, or a list or mapping in brackets."""
    path, equals, value = text.partition("=")
    path = path.strip()
    if not equals or not path or not all(path.split(".")):
        return Problem(
            (), f"{text!r} is not an override; expected path=value such as train.max_steps=10", Place(COMMAND_LINE)
        )
    if value.lstrip()[:1] not in ("[", "{", '"', "'"):
        return Override(COMMAND_LINE, path, plain_scalar(value.strip()))
    tree, problems = read_tree(value)
    if problems:
        return Problem(tuple(path.split(".")), f"{value!r} is {problems[0].message}", Place(COMMAND_LINE))
    return Override(COMMAND_LINE, path, tree.values)


def apply_override(tree: Tree, override: Override) -> Problem | None:
    """Set a value in ``tree``, making sections that are missing on the way.

    A name that ``students``, ``tasks`` or ``methods`` does not hold is a problem; whether a key
    exists is left to the schema, which then blames the override's place.
    """
    place = Place(override.source)
    container, path, rest = tree.values, (), override.path.split(".")
    while True:
        key, rest = _next_key(container, path, rest)
        if isinstance(key, Problem):
            return Problem(key.path, key.message, place)
        path = (*path, key)
        tree.places[path] = place
        if not rest:
            container[key] = override.value
            _forget_places_below(tree, path)
            return None
        if isinstance(container, dict) and container.get(key) is None:
            container[key] = {}
        container = container[key]


def _next_key(container: Any, path: Path, rest: list[str]) -> tuple[Any, list[str]]:
    if isinstance(container, list):
        if rest[0].isdigit() and int(rest[0]) < len(container):
            return int(rest[0]), rest[1:]
        return Problem((*path, rest[0]), f"is not an index of this list of {len(container)}"), rest
    if not isinstance(container, dict):
        return Problem(path, f"is a single value ({container!r}) and has no {dotted(tuple(rest))}"), rest
    if len(path) == 3 and path[0] == "methods" and path[2] == "grid":
        return ".".join(rest), []  # keys of a grid are dotted paths themselves
    for length in range(len(rest), 0, -1):  # names may hold dots too: S1.5
        if (key := ".".join(rest[:length])) in container:
            return key, rest[length:]
    if len(path) == 1 and path[0] in NAMED_SECTIONS and len(rest) > 1:
        near = difflib.get_close_matches(rest[0], list(container), n=1) or [", ".join(container)]
        return Problem((*path, rest[0]), f"{path[0]} has no {rest[0]!r}; did you mean {near[0]}?"), rest
    return rest[0], rest[1:]


def _forget_places_below(tree: Tree, path: Path) -> None:
    for other in [other for other in tree.places if len(other) > len(path) and other[: len(path)] == path]:
        del tree.places[other]
