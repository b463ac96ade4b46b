"""Values that differ by mode: ``{fast: .., full: ..}`` becomes one of the two.

In: a tree and a mode. Out: the same tree with every such mapping resolved.
"""

from typing import Any

from tutelage.config.problems import Path, Place
from tutelage.config.yaml_tree import Tree

MODES = ("fast", "full")
DEFAULT_MODE = "full"


def mode_of(values: Any) -> str:
    """Return the mode that a recipe asks for; ``full`` where it asks for none or for an unknown one."""
    mode = values.get("mode") if isinstance(values, dict) else None
    return mode if mode in MODES else DEFAULT_MODE


def resolve_modes(tree: Tree, mode: str) -> Tree:
    """Replace every mapping whose keys are exactly ``fast`` and ``full`` by the value for ``mode``."""
    places: dict[Path, Place] = {}
    return Tree(_resolve(tree, tree.values, mode, (), (), places), places)


def _resolve(tree: Tree, value: Any, mode: str, old: Path, new: Path, places: dict[Path, Place]) -> Any:
    """Copy ``value`` from path ``old`` to path ``new``; the two part ways below a resolved mapping."""
    if old in tree.places:
        places[new] = tree.places[old]
    if isinstance(value, dict):
        if set(value) == set(MODES):
            return _resolve(tree, value[mode], mode, (*old, mode), new, places)
        return {key: _resolve(tree, part, mode, (*old, key), (*new, key), places) for key, part in value.items()}
    if isinstance(value, list):
        return [_resolve(tree, part, mode, (*old, i), (*new, i), places) for i, part in enumerate(value)]
    return value
