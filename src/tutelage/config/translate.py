"""Pydantic's errors said in the words of a recipe: path, what was found, what was expected, nearest match.

In: a ValidationError and the values it is about. Out: problems.
"""

import difflib
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Union, cast, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from tutelage.config.base import PROBLEMS, fields_by_key
from tutelage.config.modes import MODES
from tutelage.config.problems import Path, dotted
from tutelage.plugins import own_loss_names

MAX_SHOWN = 40  # characters of a found value
MAX_PLACES = 3  # that a key may belong to
LATER = {
    "bench": "this section is not available yet; remove it",
    "launch": "this section is not available yet; remove it",
    "served": "a served teacher is not available yet; name a hub id, a folder, a .gguf file or a sample",
}
# Losses of hidden states need layers, projectors or groups, which only a method of their own kind has.
OTHER_PLACE = {
    **dict.fromkeys(("hidden_mse", "hidden_normalised_mse", "hidden_cosine"), "use a method of kind feature"),
    **dict.fromkeys(("relation_distance", "relation_angle"), "use a method of kind relation"),
}
# What other tools call our keys.
OTHER_NAMES = {
    "lr": "learning_rate",
    "rate": "learning_rate",
    "epochs": "num_train_epochs",
    "num_epochs": "num_train_epochs",
    "steps": "max_steps",
    "num_steps": "max_steps",
    "batch_size": "per_device_train_batch_size",
    "train_batch_size": "per_device_train_batch_size",
    "accumulation_steps": "gradient_accumulation_steps",
    "grad_accum": "gradient_accumulation_steps",
    "wd": "weight_decay",
    "betas": "adam_beta1",
    "clip_grad_norm": "max_grad_norm",
    "gradient_clipping": "max_grad_norm",
    "scheduler": "lr_scheduler_type",
    "lr_scheduler": "lr_scheduler_type",
    "warmup": "warmup_ratio",
    "warmup_steps": "warmup_ratio",
    "patience": "early_stopping_patience",
    "rank": "r",
    "lora_r": "r",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "target_modules": "targets",
    "license": "licence",
    "model_name_or_path": "model",
    "model_name": "model",
}
# Where settings of other tools are decided here.
OTHER_SETTINGS = {
    "seed": "seeds stand under `seeds`, at the top: {selection: 7, report: [42, 123]}",
    "bf16": "number formats are the models': students.NAME.dtype and teacher.dtype",
    "fp16": "number formats are the models': students.NAME.dtype and teacher.dtype",
    "optim": "AdamW is the one optimizer; remove it",
    "optimizer": "AdamW is the one optimizer; remove it",
    "output_dir": "results go into `workspace`, at the top",
}
COMMON_KEYS = frozenset({"kind", "name", "model", "rows", "task", "data"})  # in many sections: no hint to one of them
EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text (in quotes)",
    "string_too_short": "text that is not empty",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "a number from {ge:g}",
    "less_than": "a number below {lt:g}",
    "less_than_equal": "a number up to {le:.10g}",
    "too_short": "at least {min_length} of them",
    "literal_error": "{expected}",
    "string_pattern_mismatch": "auto, cpu, mps, cuda or cuda:N",  # the one pattern there is: a device
}


def translate(error: ValidationError, root: type[BaseModel], values: Any) -> list[tuple[Path, str]]:
    """Turn each error into a path of the recipe and a message; members of one union are joined."""
    found: dict[Path, list[Any]] = {}
    problems: list[tuple[Path, str]] = []
    for details in error.errors(include_url=False):
        loc = tuple(part for part in details["loc"] if part != "[key]")
        if details["type"] == PROBLEMS:
            base = raw_path(loc, values, all_exist=True)
            problems += [((*base, *path), message) for path, message in details.get("ctx", {})["problems"]]
        elif not _follows_from_its_parts(details):
            found.setdefault(raw_path(loc, values), []).append(details)
    problems += [(path, _message(path, entries, root)) for path, entries in found.items()]
    return problems


def raw_path(loc: Sequence[str | int], values: Any, *, all_exist: bool = False) -> Path:
    """Drop from a pydantic location what the recipe does not contain: tags and members of unions.

    Args:
        loc: Where pydantic found the error.
        values: The recipe's values.
        all_exist: Whether the last part, too, is there or a tag; else it may be a key that is missing.
    """
    path: list[str | int] = []
    current: Any = values
    for index, part in enumerate(loc):
        is_key = isinstance(current, dict) and part in current
        is_index = isinstance(current, list | tuple) and isinstance(part, int) and part < len(current)
        if is_key or is_index:
            current = cast(Any, current)[part]
        elif all_exist or index < len(loc) - 1 or not isinstance(current, dict):
            continue  # a tag; a key that is missing can only come last
        path.append(part)
    return tuple(path)


def fields_at(root: type[BaseModel], loc: Sequence[str | int]) -> dict[str, FieldInfo]:
    """Return the fields that the schema has at a pydantic location; nothing where keys are free."""
    annotation: Any = root
    for part in loc:
        annotation = _step(annotation, part)
    sections = list(members(annotation))
    return fields_by_key(sections[0]) if len(sections) == 1 else {}


def _follows_from_its_parts(details: Any) -> bool:
    """Say whether a list counts as too short only because its entries are not valid."""
    return details["type"] == "too_short" and len(details["input"]) >= details["ctx"]["min_length"]


def _message(path: Path, entries: list[Any], root: type[BaseModel]) -> str:
    first = entries[0]
    kind, value = first["type"], first["input"]
    if kind == "extra_forbidden":
        return _unknown_key(path, list(fields_at(root, first["loc"][:-1])), root)
    if kind == "missing":
        return "missing" + _description(root, first["loc"])
    if kind == "union_tag_not_found":
        return f"has no kind; {_kinds(root, first['loc'])}"
    if kind == "union_tag_invalid":
        tag, expected = first["ctx"]["tag"], first["ctx"]["expected_tags"].replace("'", "")
        is_loss = "losses" in path
        known = [*expected.split(", "), *(own_loss_names() if is_loss else ())]
        own = "; a loss of your own is registered by a file under `plugins`" if is_loss else ""
        return f"kind {tag!r} is not known; " + (OTHER_PLACE.get(tag) or near_or_all(tag, known) + own)
    if isinstance(value, Mapping) and "served" in value:
        return LATER["served"]
    if kind not in EXPECTED:
        return first["msg"]
    if kind == "literal_error" and len(entries) == 1 and isinstance(value, str):
        options = first["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        return f"found {shown(value)}; {near_or_all(value, options)}"
    expected = " or ".join(
        dict.fromkeys(str(EXPECTED.get(e["type"], e["msg"])).format(**e.get("ctx", {})) for e in entries)
    )
    return f"found {shown(value)}, expected {expected}{_mode_hint(value)}{_grid_hint(path, value)}"


def shown(value: Any) -> str:
    """Say what was found, briefly: numbers and text as in YAML, the others by what they are."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return repr(value if len(value) <= MAX_SHOWN else value[: MAX_SHOWN - 3] + "...")
    if isinstance(value, Mapping):
        return f"a mapping of {len(value)}" if value else "an empty mapping"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}" if value else "an empty list"
    return str(value)[:MAX_SHOWN]


def near_or_all(found: str, known: Sequence[str]) -> str:
    """Name the nearest of the known words, or all of them."""
    near = difflib.get_close_matches(found, known, n=1)
    return f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}"


def _unknown_key(path: Path, known: Sequence[str], root: type[BaseModel]) -> str:
    key = str(path[-1])
    if (name := OTHER_NAMES.get(key)) in known:
        return f"unknown key; here it is called {name}"
    if key in LATER:
        return LATER[key]
    if key in MODES:
        return f"unknown key; a value per mode needs both keys: {{{MODES[0]}: .., {MODES[1]}: ..}}"
    if not difflib.get_close_matches(key, known, n=1, cutoff=0.8):
        if key in OTHER_SETTINGS and path[:1] == ("train",):
            return f"unknown key; {OTHER_SETTINGS[key]}"
        places = [place for place in places_of(key, root) if len(path) < 2 or not place.startswith(f"{path[0]}.NAME.")]
        if places and key not in COMMON_KEYS:
            return f"unknown key here; it belongs under {' or '.join(places[:MAX_PLACES])}"
    return f"unknown key; {near_or_all(key, known)}"


def places_of(key: str, section: type[BaseModel], prefix: str = "") -> list[str]:
    """Return the sections that have a key, as dotted paths in which NAME stands for a name of the user's."""
    found: list[str] = []
    for name, field in fields_by_key(section).items():
        path = f"{prefix}{name}" + (".NAME" if get_origin(field.annotation) is dict else "")
        for member in _sections(field.annotation):
            if key in fields_by_key(member):
                found.append(path)
            found += places_of(key, member, f"{path}.")
    return list(dict.fromkeys(found))


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    if get_origin(annotation) is dict:
        annotation = get_args(annotation)[1]
    elif get_origin(annotation) is tuple:
        annotation = get_args(annotation)[0]
    yield from members(annotation)


def _mode_hint(value: Any) -> str:
    if isinstance(value, Mapping) and set(value) & set(MODES):
        return f"; a value per mode has exactly the keys {MODES[0]} and {MODES[1]}"
    return ""


def _grid_hint(path: Path, value: Any) -> str:
    """Say where several values to be tried are written."""
    if not isinstance(value, list) or not value or any(isinstance(each, list | dict) for each in value):
        return ""
    values = ", ".join(str(each) for each in value)
    if path[:1] == ("methods",) and len(path) > 2 and "grid" not in path:
        return f"; several values are tried by the method's `grid: {{{dotted(path[2:])}: [{values}]}}`"
    if path[:1] == ("train",):
        return f"; several values are tried by a method's `grid: {{{dotted(path)}: [{values}]}}`"
    return ""


def _description(root: type[BaseModel], loc: Sequence[str | int]) -> str:
    field = fields_at(root, loc[:-1]).get(str(loc[-1]))
    return f"; expected: {field.description}" if field is not None else ""


def _kinds(root: type[BaseModel], loc: Sequence[str | int]) -> str:
    annotation: Any = root
    for part in loc:
        annotation = _step(annotation, part)
    return "expected kind: " + ", ".join(_tag(member) for member in members(annotation))


def members(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the sections that an annotation may stand for."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from members(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for argument in get_args(annotation):
            yield from members(argument)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation


def _tag(section: type[BaseModel]) -> str:
    return get_args(section.model_fields["kind"].annotation)[0] if "kind" in section.model_fields else section.__name__


def _step(annotation: Any, part: str | int) -> Any:
    """Follow one part of a location through the types; None where it leads nowhere."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _step(get_args(annotation)[0], part)
    if origin in (Union, types.UnionType):
        sections = list(members(annotation))
        if len(sections) == 1:  # an optional section; pydantic puts no tag there
            return _step(sections[0], part)
        return next((section for section in sections if _tag(section) == part), None)
    if origin is dict:
        return get_args(annotation)[1]
    if origin is tuple:
        return get_args(annotation)[0]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        field = fields_by_key(annotation).get(str(part))
        return field.annotation if field is not None else None
    return None
