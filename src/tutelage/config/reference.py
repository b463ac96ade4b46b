"""The field reference, generated from the schema so that it cannot go stale.

In: the schema. Out: rows, Markdown (``docs/recipe.md``), plain lines.
"""

import json
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from tutelage.config.base import FAST_DEFAULT, LARGEST, fields_by_key
from tutelage.config.environment import PASSED_ON, STUDENT, VARIABLES
from tutelage.config.schema import RESERVED, Recipe
from tutelage.config.training import TrainChanges
from tutelage.config.translate import members

LAST_FIELDS = ("grid", "train")  # of a method: inherited, so pydantic lists them first
PLAIN_TYPES = {str: "text", bool: "true or false", int: "whole number", float: "number", Any: "any", type(None): "null"}
INTRODUCTION = """\
# Recipe reference

Made by `tutelage schema --markdown`; do not edit. `tutelage schema --json` gives the same as a JSON Schema,
`tutelage new NAME` a recipe to start from.

* **YAML 1.2.** `1e-5` is a number and `no` is text. Unknown keys, duplicate keys, tags and wrong types are errors; all
  of them are listed at once, with line and nearest match.
* **Modes.** `{fast: .., full: ..}` is allowed in place of any value; `mode` picks. Where a default differs by mode,
  both are given.
* **Grids.** A key of `grid` is a dotted path: a key of the method itself (`temperature`, `losses.1.weight`) or
  `train.KEY`. Every method gets the same number of trials, the product of its lists, or none has a grid at all.
* **Short forms.** `{kind: logit, alpha: a, temperature: T}` stands for
  `losses: [{kind: cross_entropy, weight: a}, {kind: forward_kl, weight: 1 - a, temperature: T}]`.
* **Overrides.** File, then `.env` (beside the recipe, else in the current folder), then environment, then command line:
  `tutelage run recipe.yaml train.learning_rate=2e-5`. Each is recorded with the results; tokens are not.
* **Paths** of data and models start at the recipe's folder, `workspace` at the current one.
* **Tokens** of the hub belong into `HF_TOKEN`. A recipe that holds one is refused.
"""


@dataclass(frozen=True)
class Row:
    """One setting."""

    name: str
    type: str
    default: str
    description: str


@dataclass(frozen=True)
class Table:
    """The settings of one section, at a path such as ``students.NAME.adapter``."""

    section: type[BaseModel]
    path: str
    kind: str | None
    summary: str
    rows: tuple[Row, ...]

    @property
    def title(self) -> str:
        """The path, and the kind where a section has several."""
        return f"`{self.path}`" + (f", kind `{self.kind}`" if self.kind else "")


def reference_tables(section: type[BaseModel] = Recipe, path: str = "") -> Iterator[Table]:
    """Yield the table of a section, then those of the sections inside it."""
    fields = ordered_fields(section)
    kind = get_args(section.model_fields["kind"].annotation)[0] if "kind" in fields else None
    rows = tuple(_row(name, field) for name, field in fields.items())
    yield Table(section, path or "recipe", kind, " ".join((section.__doc__ or "").split()), rows)
    for name, field in fields.items():
        below = f"{path}.{name}" if path else name
        for inner, suffix in _sections(field.annotation):
            if inner is not TrainChanges:
                yield from reference_tables(inner, below + suffix)


def ordered_fields(section: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return a section's fields as a reader wants them: ``kind`` first, what methods share last."""
    fields = fields_by_key(section)
    if "kind" not in fields:
        return fields
    names = ["kind", *(n for n in fields if n not in (*LAST_FIELDS, "kind")), *(n for n in LAST_FIELDS if n in fields)]
    return {name: fields[name] for name in names}


def as_markdown() -> str:
    """Write the whole reference: rules, environment, one table per section."""
    parts = [INTRODUCTION, _environment()]
    for table in reference_tables():
        lines = [f"## {table.title}", "", table.summary, "", "| key | type | default | meaning |", "|---|---|---|---|"]
        lines += [_cells(row) for row in table.rows]
        parts.append("\n".join(lines) + "\n")
    reserved = ", ".join(f"`{name}`" for name in RESERVED)
    parts.append(f"Reserved for later, and refused until then: {reserved}, `teacher.served`.\n")
    return "\n".join(parts)


def as_lines() -> str:
    """Write one line per setting: path, type, default."""
    lines = []
    for table in reference_tables():
        prefix = "" if table.path == "recipe" else table.path + "."
        lines += [
            f"{prefix}{row.name}: {row.type}" + (f" = {row.default}" if row.default else "") for row in table.rows
        ]
    return "\n".join(line.replace("`", "") for line in dict.fromkeys(lines)) + "\n"


def as_json_schema() -> str:
    """Write the JSON Schema, for editors."""
    return json.dumps(Recipe.model_json_schema(), indent=2, ensure_ascii=False) + "\n"


def _cells(row: Row) -> str:
    texts = (f"`{row.name}`", row.type, row.default, row.description)
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"


def _environment() -> str:
    names = ", ".join(f"`{name}`" for name in (*VARIABLES, f"{STUDENT}NAME"))
    passed = ", ".join(f"`{name}`" for name in PASSED_ON)
    return (
        f"Variables that change a recipe: {names}. Seeds and students are separated by commas. {passed} are passed on "
        "to whatever reads them. A `TUTELAGE_` variable that names nothing is reported.\n"
    )


def _row(name: str, field: FieldInfo) -> Row:
    return Row(name, type_words(field.annotation, tuple(field.metadata)), _default(field), field.description or "")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default is PydanticUndefined:
        return ""  # a section: its own table says
    extra = field.json_schema_extra
    fast = extra.get(FAST_DEFAULT, PydanticUndefined) if isinstance(extra, dict) else PydanticUndefined
    full = _value(field.default)
    return full if fast is PydanticUndefined else f"{full} (fast: {_value(fast)})"


def _value(value: Any) -> str:
    """Write a default as YAML would."""
    if isinstance(value, BaseModel):
        return f"`{{kind: {getattr(value, 'kind', '')}}}`"
    if isinstance(value, tuple):
        return "`[" + ", ".join(_value(part).strip("`") for part in value) + "]`"
    if isinstance(value, float):
        return f"`{value:g}`"
    plain = isinstance(value, str) and value and "\n" not in value
    return f"`{value}`" if plain else f"`{json.dumps(value)}`"


def type_words(annotation: Any, metadata: tuple[Any, ...] = ()) -> str:
    """Say in words what a value may be."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner = [m for extra in arguments[1:] for m in (extra.metadata if isinstance(extra, FieldInfo) else [extra])]
        return type_words(arguments[0], (*metadata, *inner))
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(type_words(argument) for argument in arguments))
    if origin is Literal:
        return ", ".join(f"`{argument}`" for argument in arguments)
    if origin is dict:
        return f"mapping to {type_words(arguments[1])}"
    if origin is tuple:
        return f"list of {type_words(arguments[0])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return PLAIN_TYPES.get(annotation, str(annotation)) + _bounds(metadata)


def _bounds(metadata: tuple[Any, ...]) -> str:
    words = {Gt: ("above", "gt"), Ge: ("from", "ge"), Lt: ("below", "lt"), Le: ("to", "le")}
    bounds = [m for m in metadata if type(m) in words and m != Le(LARGEST)]  # that one is no choice of anybody's
    found = [f" {words[type(m)][0]} {getattr(m, words[type(m)][1]):g}" for m in bounds]
    not_empty = any(isinstance(m, MinLen) for m in metadata)
    return "".join(found) + (", not empty" if not_empty else "")


def _sections(annotation: Any) -> Iterator[tuple[type[BaseModel], str]]:
    """Yield the sections inside an annotation, and what their path gains: ``.NAME`` or ``[]``."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from _sections(arguments[0])
    elif origin is dict:
        yield from ((inner, ".NAME" + suffix) for inner, suffix in _sections(arguments[1]))
    elif origin is tuple:
        yield from ((inner, "[]" + suffix) for inner, suffix in _sections(arguments[0]))
    else:
        yield from ((inner, "") for inner in members(annotation))
