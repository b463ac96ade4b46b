"""Overrides from environment variables and from a ``.env`` file.

In: variables and the recipe they change. Out: overrides, warnings about names that mean nothing, variables to pass on.
"""

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tutelage.config.overrides import Override
from tutelage.config.problems import Place, Problem
from tutelage.config.yaml_tree import plain_scalar

PREFIX = "TUTELAGE_"
ENV_FILE = ".env"
MAX_ENV_BYTES = 2**16
# Read by the hub's client and by our own cache folder, not by a recipe.
PASSED_ON = ("HF_TOKEN", "HF_HOME", "TUTELAGE_CACHE")
NOT_FOR_RECIPES = ("TUTELAGE_CACHE", "TUTELAGE_CRASH_POINT", "TUTELAGE_CRASH_ACTION", "TUTELAGE_CRASH_TRACE")
STUDENT = "TUTELAGE_STUDENT_"
ASSIGNMENT = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)")

Changes = list[tuple[str, Any]] | str  # paths and values, or what is wrong


def _set(*paths: str) -> Callable[[str, Any], Changes]:
    return lambda text, values: [(path, text) for path in paths]


def _seeds(text: str, values: Any) -> Changes:
    seeds = [plain_scalar(part.strip()) for part in text.strip("[] ").split(",")]
    if not all(type(seed) is int for seed in seeds):
        return f"found {text!r}, expected whole numbers with commas between them, such as 42,123"
    return [("seeds.report", seeds)]


def _students(text: str, values: Any) -> Changes:
    names, models = _student_names(values), [part.strip() for part in text.split(",")]
    if len(models) not in (1, len(names)):
        return f"names {len(models)} models, but the recipe has {len(names)} students ({', '.join(names)})"
    models = models * len(names) if len(models) == 1 else models
    return [(f"students.{name}.model", model) for name, model in zip(names, models, strict=True)]


def _precision(text: str, values: Any) -> Changes:
    return [("teacher.dtype", text), *((f"students.{name}.dtype", text) for name in _student_names(values))]


VARIABLES: dict[str, Callable[[str, Any], Changes]] = {
    "TUTELAGE_TEACHER": _set("teacher.model"),
    "TUTELAGE_STUDENTS": _students,
    "TUTELAGE_DEVICE": _set("teacher.device", "train.device"),
    "TUTELAGE_MODE": _set("mode"),
    "TUTELAGE_SEEDS": _seeds,
    "TUTELAGE_PRECISION": _precision,
    "TUTELAGE_WORKSPACE": _set("workspace"),
}


def read_env_file(folders: Sequence[Path]) -> tuple[dict[str, str], list[str]]:
    """Read the first ``.env`` there is: ``KEY=VALUE`` lines, ``#`` comments, optional quotes and ``export``.

    Returns:
        The variables, and a warning for every line that is none; values are never in a warning.
    """
    file = next((folder / ENV_FILE for folder in folders if (folder / ENV_FILE).is_file()), None)
    if file is None:
        return {}, []
    with file.open("rb") as stream:
        content = stream.read(MAX_ENV_BYTES + 1)
    if len(content) > MAX_ENV_BYTES:
        return {}, [f"{file} is larger than {MAX_ENV_BYTES // 1024} KiB and was not read"]
    variables, warnings = {}, []
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = ASSIGNMENT.fullmatch(line.strip())
        if match is None:
            warnings.append(f"{file}, line {number}: not of the form KEY=VALUE, ignored")
            continue
        variables[match[1]] = _unquote(match[2])
    return variables, warnings


def environment_overrides(
    variables: Mapping[str, str], values: Any, *, source: str
) -> Iterator[Override | Problem | str]:
    """Turn variables into overrides.

    Args:
        variables: Names and values.
        values: The recipe so far; its students' names are read.
        source: ``.env`` or ``environment``.

    Yields:
        An override, a problem with a value, or a warning about a name that means nothing. An
        empty variable is as good as unset.
    """
    for name, text in sorted(variables.items()):
        if not text or name in NOT_FOR_RECIPES or name in PASSED_ON:
            continue
        changes = _changes(name, text, values)
        where = f"{source} {name}"
        if changes is None:
            if warning := _unknown(name, values, source=source):
                yield warning
        elif isinstance(changes, str):
            yield Problem((), changes, Place(where))
        else:
            yield from (Override(where, path, value) for path, value in changes)


def _changes(name: str, text: str, values: Any) -> Changes | None:
    if name in VARIABLES:
        return VARIABLES[name](text, values)
    if name.startswith(STUDENT):
        wanted = name.removeprefix(STUDENT)
        found = [student for student in _student_names(values) if _as_variable(student) == wanted.upper()]
        if len(found) == 1:
            return [(f"students.{found[0]}.model", text)]
    return None


def _unknown(name: str, values: Any, *, source: str) -> str | None:
    students = [STUDENT + _as_variable(student) for student in _student_names(values)]
    near = difflib.get_close_matches(name, [*VARIABLES, *students, *PASSED_ON], n=1, cutoff=0.8)
    # A .env file serves other programs too; only what looks like ours is reported.
    if not name.startswith(PREFIX) and not (near and source == ENV_FILE):
        return None
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join([*VARIABLES, *students])}"
    return f"{name} ({source}) names nothing and was ignored; {hint}"


def _student_names(values: Any) -> list[str]:
    students = values.get("students") if isinstance(values, dict) else None
    return list(students) if isinstance(students, dict) else []


def _as_variable(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]", "_", name).upper()


def _unquote(text: str) -> str:
    text = text.strip()
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1]
    return re.sub(r"\s#.*", "", text).rstrip()
