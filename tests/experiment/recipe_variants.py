"""Recipes that use every section of the schema, and for every key of them a recipe that differs in that key alone.

In: the schema's classes. Out: ``Setting``s found by walking a recipe, and valid other values made from their types.
"""

import copy
import types
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from tutelage.config import LoadedRecipe, Recipe
from tutelage.config.base import fields_by_key
from tutelage.config.translate import members

CLASSIFICATION = {
    "name": "keys",
    "seeds": {"selection": 7, "report": [1]},
    "teacher": {
        "model": "owner/teacher",
        "adapt": {"task": "sentiment", "rows": 32, "adapter": {"kind": "lora"}},
    },
    "students": {
        "S1": {"shrink": {"layers": 4, "by": "influence"}},
        "S2": {"model": "owner/student", "revision": "a", "adapter": {"kind": "lora", "targets": ["q_proj"]}},
    },
    "tasks": {
        "sentiment": {
            "kind": "classification",
            "data": {"source": "rows.jsonl", "text": "review", "labels": {"0": "bad", "1": "good"}},
            "template": "Review: {text}\nSentiment:",
            "verbalisers": {"bad": " bad", "good": " good"},
        }
    },
    "methods": {"B0": {"kind": "baseline"}},
}
METHODS = {  # every kind of signal and method
    **{name: CLASSIFICATION[name] for name in ("name", "seeds", "tasks")},
    "teacher": {"model": "owner/teacher"},
    "students": {"S1": {"shrink": {"layers": 4}}},
    "signals": [
        {"kind": "final_hidden"},
        {"kind": "topk", "temperatures": [1, 2]},
        {"kind": "sampled", "temperatures": [1, 2]},
        {"kind": "hidden", "layers": [2, 4]},
        {"kind": "pooled", "stride": 2},
        {"kind": "sequences", "do_sample": True},
    ],
    "methods": {
        "B0": {"kind": "baseline"},
        "PSEUDO": {"kind": "pseudo"},
        "KD1": {"kind": "logit", "divergence": "jsd", "beta": 0.4},
        "SKEW": {"kind": "logit", "divergence": "skew_kl", "skew": 0.2},
        "STATES": {"kind": "feature", "logit": {"divergence": "jsd", "beta": 0.4}},
        "FIXED": {"kind": "feature", "layer_map": "fixed", "layers": {"2": 4}, "logit": {"divergence": "skew_kl"}},
        "GROUPS": {"kind": "relation", "group_rows": 4},
        "ANSWERS": {"kind": "sequence"},
        "SUM": {
            "kind": "custom",
            "signal": "final_hidden",
            "losses": [
                {"kind": "cross_entropy"}, {"kind": "forward_kl"}, {"kind": "reverse_kl"}, {"kind": "jsd"},
                {"kind": "skew_kl"}, {"kind": "skew_reverse_kl"}, {"kind": "total_variation"},
            ],
        },
    },
}  # fmt: skip
SEARCHED = {  # trials, and a report that lists another experiment's
    **{name: CLASSIFICATION[name] for name in ("name", "seeds", "tasks")},
    "teacher": {"model": "owner/teacher", "base": "owner/base", "adapter_weights": "merge"},
    "students": {"S1": {"model": "owner/student", "base": "owner/base", "adapter_weights": "merge"}},
    "signals": [{"kind": "final_hidden"}, {"kind": "hidden", "stride": 2}, {"kind": "pooled", "layers": [2, 4]}],
    "methods": {
        "B0": {"kind": "baseline", "grid": {"train.learning_rate": [0.1, 0.2]}},
        "KD1": {"kind": "logit", "grid": {"alpha": [0.1, 0.3]}},
    },
}
READING = {
    "name": "keys",
    "seeds": {"selection": 7, "report": [1]},
    "teacher": {"model": "owner/teacher"},
    "students": {"S1": {"shrink": {"layers": 4, "by": "influence"}}},
    "tasks": {"places": {"kind": "reading", "data": {"source": "rows.jsonl"}, "doc_stride": 64}},
    "methods": {"B0": {"kind": "baseline"}, "PSEUDO": {"kind": "pseudo"}},
}
TEXT = {
    "name": "keys",
    "seeds": {"selection": 7, "report": [1]},
    "teacher": {"model": "owner/teacher"},
    "students": {"S1": {"shrink": {"layers": 4, "by": "influence"}}},
    "tasks": {
        "one": {"kind": "text", "data": {"source": "rows.jsonl", "rows": 100, "streaming": True}},
        "mixed": {"kind": "text", "data": {"mixture": [{"source": "rows.jsonl"}, {"source": "more.jsonl"}]}},
    },
    "methods": {"B0": {"kind": "baseline"}, "KD1": {"kind": "logit"}},
}
RECIPES: dict[str, dict[str, Any]] = {
    "classification": CLASSIFICATION, "methods": METHODS, "searched": SEARCHED, "reading": READING, "text": TEXT,
}  # fmt: skip
WORDS = {  # texts that have a form: another valid one
    "date": "2026-01-31",
    "device": "cpu",
    "template": "Another: {text}\nWord:",
}
PLACEHOLDERS = {"reading": "Other: {context} {question}:"}


@dataclass(frozen=True)
class Setting:
    """A key of a recipe: where it stands, and the section that declares it."""

    path: tuple[str | int, ...]
    section: type[BaseModel]
    key: str
    field: FieldInfo
    value: Any

    @property
    def name(self) -> str:
        """Section and key, such as ``Train.learning_rate``."""
        return f"{self.section.__name__}.{self.key}"

    @property
    def place(self) -> str:
        """The path without the names that a user chose, and without numbers of a list."""
        named = [index for index, key in enumerate(self.path) if key in ("students", "tasks", "methods") and index == 0]
        return ".".join(str(key) for i, key in enumerate(self.path) if i - 1 not in named and not isinstance(key, int))

    @property
    def declared(self) -> str:
        """The key as the first section names it that has it, so that what is inherited counts once."""
        owner = next(each for each in reversed(self.section.__mro__) if self.key in _keys(each))
        return f"{owner.__name__}.{self.key}"


def _keys(section: type) -> Mapping[str, FieldInfo]:
    return fields_by_key(section) if issubclass(section, BaseModel) else {}


def has_one_value(setting: Setting) -> bool:
    """Tell whether a key cannot be changed by itself: ``kind``, or a section whose own keys are changed."""
    return len(get_args(setting.field.annotation)) == 1 and get_origin(setting.field.annotation) is Literal


def loaded(values: Mapping[str, Any], folder: Path) -> LoadedRecipe:
    """Return a recipe of plain values as if it had been read from a file in ``folder``."""
    values = copy.deepcopy(dict(values)) | {"workspace": values.get("workspace", str(folder / "runs"))}
    mode = values.get("mode", "full")
    recipe = Recipe.model_validate(values, context={"mode": mode})
    return LoadedRecipe(recipe, values, folder / "keys.yaml", [], "")


def settings_of(section: BaseModel, path: tuple[str | int, ...] = ()) -> Iterator[Setting]:
    """Yield every key of a section and of the sections below it."""
    names = {field.alias or name: name for name, field in type(section).model_fields.items()}
    for key, field in fields_by_key(type(section)).items():
        value = getattr(section, names[key])
        yield Setting((*path, key), type(section), key, field, value)
        below: Any = ()
        if isinstance(value, BaseModel):
            below = [((), value)]
        elif isinstance(value, dict):
            below = [((name,), each) for name, each in value.items()]
        elif isinstance(value, tuple):
            below = [((index,), each) for index, each in enumerate(value)]
        for suffix, each in below:
            if isinstance(each, BaseModel):
                yield from settings_of(each, (*path, key, *suffix))


def with_value(values: Mapping[str, Any], path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    """Return a copy of plain values in which one key has another value."""
    changed: Any = copy.deepcopy(dict(values))
    place = changed
    for key in path[:-1]:
        if isinstance(place, dict) and place.get(key) is None:
            place[key] = {}
        place = place[key]
    place[path[-1]] = value
    return changed


def variants(
    values: Mapping[str, Any], folder: Path, done: Collection[str] = ()
) -> Iterator[tuple[Setting, LoadedRecipe | None]]:
    """Yield every key with a recipe that differs in it alone; None where no other value is valid.

    Of several sections of one kind at one place, such as two methods, the first in which the key can be changed.

    Args:
        values: Of a recipe.
        folder: Of the recipe.
        done: Names of settings that are left out; it may grow on the way.
    """
    base = loaded(values, folder)
    values, seen = dict(values) | {"workspace": str(folder / "runs")}, set()
    for setting in settings_of(base.recipe):
        if setting.name in done or has_one_value(setting):
            continue
        if (setting.place, setting.name) not in seen:
            variant = _variant(base, values, setting, folder)
            if variant is not None:
                seen.add((setting.place, setting.name))
            yield setting, variant


def _variant(base: LoadedRecipe, values: dict[str, Any], setting: Setting, folder: Path) -> LoadedRecipe | None:
    for other in other_values(setting):
        try:
            changed = loaded(with_value(values, setting.path, other), folder)
        except ValidationError:
            continue
        if changed.recipe != base.recipe:
            return changed
    return None


def other_values(setting: Setting) -> Iterator[Any]:
    """Yield values of a key's type that differ from the one it has; whether they are valid is the schema's to say."""
    if setting.key == "template" and setting.section.__name__ == "Reading":
        yield PLACEHOLDERS["reading"]
    if setting.key in WORDS:
        yield WORDS[setting.key]
    value = setting.value
    if isinstance(value, dict) and any(isinstance(each, BaseModel) for each in value.values()):
        plain = {name: each.model_dump(mode="json", exclude_unset=True) for name, each in value.items()}
        yield {**plain, "OTHER": next(iter(plain.values()))}
    elif isinstance(value, tuple) and any(isinstance(each, BaseModel) for each in value):
        yield from _shorter(setting.value)
    elif isinstance(value, BaseModel):
        yield None
        yield from ({"kind": get_args(other.model_fields["kind"].annotation)[0]} for other in _others(setting))
    else:
        yield from _values(setting.field.annotation, value)


def _others(setting: Setting) -> list[type[BaseModel]]:
    """Return the other sections that may stand at a place where one of several kinds stands."""
    found = list(members(setting.field.annotation))
    return [other for other in found if other is not type(setting.value) and "kind" in other.model_fields]


def _shorter(value: tuple[Any, ...]) -> Iterator[Any]:
    """Yield a list of sections without one of them."""
    plain = [each.model_dump(mode="json", exclude_unset=True) for each in value]
    for index in reversed(range(len(plain))):
        yield plain[:index] + plain[index + 1 :]


def _values(annotation: Any, value: Any) -> Iterator[Any]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from _values(arguments[0], value)
    elif origin in (Union, types.UnionType):
        for each in sorted(arguments, key=lambda each: each is type(None)):
            yield from _values(each, value)
    elif origin is Literal:
        yield from (each for each in reversed(arguments) if each != value)
    elif origin is tuple:
        held = list(value) if isinstance(value, tuple) else [value] if value is not None else []
        yield held
        for each in _values(arguments[0], held[-1] if held else None):
            yield [*held[:-1], each]
            yield [*held, each]
    elif origin is dict:
        yield {"num_cycles": 1}  # of a schedule
        for name in value or ():
            for each in _values(arguments[1], value[name]):
                yield {**value, name: each}
    elif annotation is type(None):
        yield None
    elif annotation is bool:
        yield not value
    elif annotation is int:
        held = value if isinstance(value, int) else 0
        yield from (held + 1, held * 2, max(held // 2, 1), 3, 8)
    elif annotation is float:
        held = float(value) if isinstance(value, int | float) else 0.0
        yield from (held / 2 or 0.5, held + 0.25, 0.5)
    elif annotation is str:
        yield f"{value or ''}other" if not str(value or "").startswith(" ") else f"{value}s"
        yield from ("topk", "other")
    elif annotation is Any:
        yield from (1, 0.5)
