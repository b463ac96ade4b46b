"""What a raw label value means: one of the task's classes, or an error that says why not.

In: values from a file, the source's own class names, and the recipe's ``label_map``. Out: class indices.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from tutelage.data.problems import DataProblemsError
from tutelage.errors import DataError

HIDDEN = "-1 is how GLUE hides the labels of its test files; use the train and dev files"
MAX_SHOWN_VALUES = 8
LABELS_KEY = ("labels",)
# What `false` and `true` mean among two classes with these names; other pairs are taken in their order.
FALSE_NAMES, TRUE_NAMES = ("false", "no", "negative", "off", "0"), ("true", "yes", "positive", "on", "1")


class LabelReader:
    """Turns raw values into class indices, and remembers which it met.

    With a ``label_map`` only its keys are accepted, or the source's own names in their place. Without one, in this
    order: where the source names its own classes, the name behind an integer; a value equal to a class name; an integer
    as an index into ``labels``, unless a class name is itself a number; true and false. Values are compared as text, so
    ``1``, ``1.0``, ``"1"`` and ``" 1 "`` are the same.
    """

    def __init__(
        self,
        labels: Sequence[str],
        *,
        label_map: Mapping[Any, str] | None = None,
        class_names: Sequence[str] | None = None,
        task_name: str = "",
    ) -> None:
        """Decide what every value means.

        Args:
            labels: The task's class names, in order.
            label_map: Raw value to class name.
            class_names: The source's own names behind integers.
            task_name: For messages.

        Raises:
            DataError: If ``label_map`` leads to a class that does not exist, or misses a class.
        """
        self.labels, self.task_name = tuple(labels), task_name
        self.declared = {str(index): name for index, name in enumerate(class_names or ())}
        self.is_mapped = label_map is not None
        self.found: Counter[str] = Counter()  # rows by value, also of values that mean nothing
        self._index_of = {label_key(name): index for index, name in enumerate(labels)}
        has_numbers = any(_is_number(name) for name in labels)
        self.by_order = label_map is None and not self.declared and not has_numbers
        if label_map is not None:
            self._meanings = self._chosen(_checked_map(label_map, labels, task_name))
            self._behind = {key: self._meanings[key] for key in self.declared if key in self._meanings}
            return
        behind = {key: self._index_of.get(label_key(name)) for key, name in self.declared.items()}
        self._behind = {key: index for key, index in behind.items() if index is not None}
        self._is_undecided = bool(behind) and {*behind.values()} != {*range(len(labels))}
        numbers = {str(index): index for index in range(len(labels))} if self.by_order else {}
        self._meanings = {**_booleans(labels), **numbers, **self._index_of}

    _is_undecided = False

    def _chosen(self, chosen: Mapping[str, str]) -> dict[str, int]:
        """Return the index of every value in a map; its keys may be the source's own names in place of numbers."""
        if self.declared and {*chosen} <= {label_key(name) for name in self.declared.values()}:
            chosen = {key: chosen[label_key(name)] for key, name in self.declared.items() if label_key(name) in chosen}
        return {raw: self.labels.index(name) for raw, name in chosen.items()}

    def __call__(self, raw: Any) -> int:
        """Return the class of a value.

        Raises:
            DataProblemsError: If the source's own names for its integers are not the task's.
            ValueError: If the value means nothing; says why.
        """
        key = label_key(raw)
        self.found[key] += 1
        is_index = key in self.declared and not (isinstance(raw, str) and key in self._index_of)
        if is_index and self._is_undecided:
            raise DataProblemsError([(LABELS_KEY, self._other_names())])
        found = (self._behind if is_index else self._meanings).get(key)
        if found is None:
            raise ValueError(f"the label is {raw!r}, expected {self._expected(key)}")
        return found

    def mapping(self) -> list[str]:
        """Return what every value met stands for: ``0 (neg) -> negative``."""
        known = {**self._meanings, **self._behind}
        return [
            f"{key}{f' ({self.declared[key]})' if key in self.declared else ''} -> {self.labels[known[key]]}"
            for key in sorted(self.found, key=natural_order)
            if key in known
        ]

    def shifted(self) -> str | None:
        """Say that integers, read as indices, do not fit the classes, where they count from elsewhere."""
        values = sorted(self.found, key=natural_order)
        if not self.by_order or not values or not all(_is_whole(value) for value in values) or values[0] == "0":
            return None
        is_shifted = values == [str(index) for index in range(1, len(values) + 1)]
        if len(values) > len(self.labels) or not (is_shifted or len(values) == len(self.labels)):
            return None
        line = _map_line(dict(zip(values, self.labels, strict=False)))
        return (
            f"the labels are the numbers {', '.join(values[:MAX_SHOWN_VALUES])}, but numbers without names count "
            f"from 0 to {len(self.labels) - 1} ({_shown(self.labels)}). Say what each means, for example `{line}`"
        )

    def _expected(self, key: str) -> str:
        if self.is_mapped:
            keys = ", ".join(repr(known) for known in self._meanings)
            advice = HIDDEN if key == "-1" else "correct it or add it to `data.labels`"
            return f"a key of data.labels ({keys}); {advice}"
        expected = ", ".join(repr(name) for name in self.labels)
        expected += f", or an index from 0 to {len(self.labels) - 1}" if self.by_order else ""
        return f"{expected}; {HIDDEN if key == '-1' else 'correct it, or say what it means with `data.labels`'}"

    def _other_names(self) -> str:
        names = list(self.declared.values())
        guess = match_names(names, self.labels)
        line = _map_line({str(index): guess.get(name, "CLASS") for index, name in enumerate(names)})
        return (
            f"the data set itself names its classes {_shown(names)} (0 to {len(names) - 1}), the task's are "
            f"{_shown(self.labels)}. Say which is which: `{line}`, or give `verbalisers` the data set's names"
        )


def label_reader(labels: Sequence[str], **options: Any) -> LabelReader:
    """Return a :class:`LabelReader`."""
    return LabelReader(labels, **options)


def match_names(names: Sequence[str], labels: Sequence[str]) -> dict[str, str]:
    """Return the class that each name seems to be: equal but for case, or the beginning of one and of no other."""
    found = {}
    for name in names:
        own = name.strip().lower()
        equal = [label for label in labels if label.strip().lower() == own]
        begun = [label for label in labels if label.lower().startswith(own) or own.startswith(label.lower())]
        candidates = equal or begun
        if len(candidates) == 1:
            found[name] = candidates[0]
    return found if len(set(found.values())) == len(found) else {}


def _map_line(meanings: Mapping[str, str]) -> str:
    return "labels: {" + ", ".join(f"{raw}: {name}" for raw, name in meanings.items()) + "}"


def _shown(names: Sequence[str]) -> str:
    rest = f", ... ({len(names)} in all)" if len(names) > MAX_SHOWN_VALUES else ""
    return ", ".join(names[:MAX_SHOWN_VALUES]) + rest


def _booleans(labels: Sequence[str]) -> dict[str, int]:
    """Return what false and true stand for among two classes."""
    if len(labels) != 2:
        return {}
    plain = [label.strip().lower() for label in labels]
    is_reversed = plain[0] in TRUE_NAMES and plain[1] in FALSE_NAMES
    return {"false": int(is_reversed), "true": int(not is_reversed)}


def _checked_map(label_map: Mapping[Any, str], labels: Sequence[str], task_name: str) -> dict[str, str]:
    unknown = sorted({str(name) for name in label_map.values()} - set(labels))
    missing = sorted(set(labels) - {str(name) for name in label_map.values()})
    if unknown or missing:
        problem = f"leads to the unknown class {unknown[0]!r}" if unknown else f"never leads to {missing[0]!r}"
        raise DataError(
            f"tasks.{task_name}.data.labels {problem}. Expected every one of the classes "
            f"{', '.join(labels)} and no other; write RAW_VALUE: CLASS_NAME."
        )
    return {label_key(raw): str(name) for raw, name in label_map.items()}


def label_key(raw: Any) -> str:
    """Write a raw label as text: 1, 1.0, "1", "1.0" and " 1 " are one label, as are true, "true" and "True"."""
    if raw is None:
        return ""
    if isinstance(raw, bool):
        return str(raw).lower()
    if isinstance(raw, float | Decimal):
        return str(int(raw)) if math.isfinite(raw) and raw == int(raw) else str(raw)
    text = str(raw).strip()
    whole, point, zeros = text.partition(".")
    if point and _is_whole(whole) and zeros.strip("0") == "":
        return whole
    return text.lower() if text.lower() in ("true", "false") else text


def _is_whole(text: str) -> bool:
    return text.removeprefix("-").isascii() and text.removeprefix("-").isdecimal()


def natural_order(value: str) -> tuple[bool, int, str]:
    """Sort key: numbers by size, then words."""
    return (not _is_whole(value), int(value) if _is_whole(value) else 0, value)


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True
