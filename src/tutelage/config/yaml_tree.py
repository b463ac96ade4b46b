"""YAML 1.2 read as plain values with the line of every key, and nothing that could harm.

In: text. Out: a ``Tree`` of dicts, lists and scalars; tags, alias bombs and duplicate keys are problems.

ruamel.yaml's parser gives events only: no constructor runs, so a tag can never make an object.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from tutelage.config.problems import Path, Place, Problem
from tutelage.config.yaml_words import explain

MAX_BYTES = 2**20
MAX_EVENTS = 10_000  # about 0.7 s of the pure-Python scanner; a recipe has some 300
MAX_NODES = 5_000  # after aliases are written out
MAX_ALIASES = 16
MAX_DEPTH = 32
MAX_DIGITS = 300  # Python refuses to read integers of more than 4,300 digits

# Plain scalars of the YAML 1.2 core schema (yaml.org/spec/1.2.2, section 10.3.2).
INTEGER = re.compile(r"[-+]?[0-9]+")
OCTAL = re.compile(r"0o[0-7]+")
HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
CORE_TAGS = ("tag:yaml.org,2002:str", "!")


@dataclass
class Tree:
    """Plain values, and where each path was written."""

    values: Any
    places: dict[Path, Place] = field(default_factory=dict)

    def place(self, path: Path) -> Place | None:
        """Find the place of ``path``, or of the nearest section around it."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
        return None


class _Refused(Exception):  # noqa: N818 - never leaves this module
    def __init__(self, message: str, line: int | None) -> None:
        self.problem = Problem((), message, Place("recipe", line) if line is not None else None)


def read_tree(text: str) -> tuple[Tree, list[Problem]]:
    """Read one YAML document.

    Returns:
        The tree and what is wrong with it. Where nothing can be read, the tree holds None.
    """
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        return Tree(None), [Problem((), f"larger than {MAX_BYTES // 2**20} MiB; a recipe has about 60 lines")]
    try:
        builder = _Builder(list(_checked_events(text)))
        return builder.tree(), builder.problems
    except _Refused as refused:
        return Tree(None), [refused.problem]


def plain_scalar(text: str) -> Any:
    """Resolve an unquoted scalar by the YAML 1.2 core schema: ``1e-5`` is a float, ``no`` is text."""
    if text in WORDS:
        return WORDS[text]
    if len(text) <= MAX_DIGITS:
        for pattern, base in ((INTEGER, 10), (OCTAL, 8), (HEXADECIMAL, 16)):
            if pattern.fullmatch(text):
                return int(text.removeprefix("0o"), base) if base == 8 else int(text, base)
        if FLOAT.fullmatch(text):
            return float(text)
    return text


def _checked_events(text: str) -> Iterator[Event]:
    """Yield the parser's events; stop at the first that a recipe has no use for."""
    depth = aliases = documents = 0
    for count, event in enumerate(_events(text)):
        line = _line(event)
        depth += isinstance(event, MappingStartEvent | SequenceStartEvent)
        depth -= isinstance(event, MappingEndEvent | SequenceEndEvent)
        aliases += isinstance(event, AliasEvent)
        documents += isinstance(event, DocumentStartEvent)
        if count > MAX_EVENTS:
            raise _Refused(f"more than {MAX_EVENTS:,} keys and values; a recipe has about 60 lines", line)
        if depth > MAX_DEPTH:
            raise _Refused(f"nested more than {MAX_DEPTH} levels deep", line)
        if aliases > MAX_ALIASES:
            raise _Refused(f"more than {MAX_ALIASES} aliases (*name); write the values out", line)
        if documents > 1:
            raise _Refused("a second document (---) starts here; a recipe is one document", line)
        if isinstance(event, DocumentStartEvent) and event.version not in (None, (1, 2)):
            raise _Refused("asks for another YAML version; recipes are YAML 1.2", line)
        yield event


def _events(text: str) -> Iterator[Event]:
    try:
        yield from YAML(typ="safe", pure=True).parse(text)
    except MarkedYAMLError as error:
        what, line = explain(error, text)
        raise _Refused(f"not valid YAML: {what}", line) from None
    except YAMLError as error:
        raise _Refused(f"not valid YAML: {str(error).splitlines()[0]}", None) from None
    except (ValueError, OverflowError) as error:  # such as the escape "\UFFFFFFFF"
        raise _Refused(f"not valid YAML: {error}", None) from None


def _line(event: Event) -> int:
    return event.start_mark.line + 1  # type: ignore[union-attr]


class _Builder:
    """Turns a list of events into values; an anchor is remembered as the index of its event."""

    def __init__(self, events: list[Event]) -> None:
        self.events = events
        self.problems: list[Problem] = []
        self.places: dict[Path, Place] = {}
        self.anchors: dict[str, int] = {}
        self.num_nodes = 0

    def tree(self) -> Tree:
        first = next((i for i, event in enumerate(self.events) if isinstance(event, DocumentStartEvent)), None)
        values = self._build(first + 1, ())[0] if first is not None else None
        return Tree(values, self.places)

    def _build(self, index: int, path: Path) -> tuple[Any, int]:
        """Return the value whose first event is at ``index``, and the index after its last."""
        event = self.events[index]
        line = _line(event)
        self.places.setdefault(path, Place("recipe", line))
        self.num_nodes += 1
        if self.num_nodes > MAX_NODES:
            raise _Refused(f"more than {MAX_NODES:,} values once its aliases are written out", line)
        if isinstance(event, AliasEvent):
            if event.anchor not in self.anchors:
                raise _Refused(
                    f"alias *{event.anchor} refers to itself or to nothing above it; quote text that begins with *",
                    line,
                )
            return self._build(self.anchors[event.anchor], path)[0], index + 1
        value, after = self._build_new(event, index, path)
        if event.anchor is not None:  # type: ignore[attr-defined]
            self.anchors[event.anchor] = index  # type: ignore[attr-defined]
        return value, after

    def _build_new(self, event: Event, index: int, path: Path) -> tuple[Any, int]:
        self._refuse_tag(event, path)
        if isinstance(event, MappingStartEvent):
            return self._mapping(index + 1, path)
        if isinstance(event, SequenceStartEvent):
            return self._sequence(index + 1, path)
        assert isinstance(event, ScalarEvent)
        is_plain = event.style is None and event.tag is None
        return (plain_scalar(event.value) if is_plain else event.value), index + 1

    def _mapping(self, index: int, path: Path) -> tuple[dict[str, Any], int]:
        values: dict[str, Any] = {}
        while not isinstance(self.events[index], MappingEndEvent):
            event = self.events[index]
            line = _line(event)
            if not isinstance(event, ScalarEvent):
                raise _Refused("a key is not a plain word", line)
            self._refuse_tag(event, path)
            key = event.value  # as written: class names such as `0` and `true` stay what they are
            if key in values:
                first = self.places[*path, key].line
                self.problems.append(
                    Problem((*path, key), f"duplicate key; first on line {first}", Place("recipe", line))
                )
                _, index = self._build(index + 1, (*path, key))
                continue
            self.places[*path, key] = Place("recipe", line)
            values[key], index = self._build(index + 1, (*path, key))
        return values, index + 1

    def _sequence(self, index: int, path: Path) -> tuple[list[Any], int]:
        values: list[Any] = []
        while not isinstance(self.events[index], SequenceEndEvent):
            value, index = self._build(index, (*path, len(values)))
            values.append(value)
        return values, index + 1

    def _refuse_tag(self, event: Any, path: Path) -> None:
        tag = str(event.tag) if event.tag is not None else None
        if tag is not None and tag not in CORE_TAGS:
            self.problems.append(
                Problem(path, f"tag {tag} is not allowed; write the value without it", Place("recipe", _line(event)))
            )
