"""Recipes to start from.

In: a name, and a data file where there is one. Out: ``NAME.yaml``.
"""

import json
from pathlib import Path

from tutelage.errors import ConfigError
from tutelage.store import safe_name, write_file

TEMPLATES = Path(__file__).parent / "templates"
DEMO = TEMPLATES / "demo.yaml"
SAMPLE = TEMPLATES / "sample.yaml"
OWN = TEMPLATES / "own.yaml"


def write_recipe(name: str, *, folder: Path, data: str | None) -> Path:
    """Write ``NAME.yaml`` from a template; a file that is there is never replaced.

    Args:
        name: Name of the experiment; must be usable as a file name.
        folder: Where the recipe goes.
        data: The user's own file, as seen from ``folder``; None writes a recipe for the sample.

    Raises:
        ConfigError: If the name cannot be a file name or the file exists.
    """
    path = folder / f"{safe_name(name)}.yaml"
    if path.exists():
        raise ConfigError(f"{path} exists and was left alone. Choose another name, or delete it first.")
    template = (SAMPLE if data is None else OWN).read_text(encoding="utf-8")
    # JSON text is YAML text; a file name may hold quotes, colons or braces.
    text = template.replace("__NAME__", json.dumps(name)).replace(
        "__DATA__", json.dumps(data or "", ensure_ascii=False)
    )
    write_file(path, text, point="recipe")
    return path
