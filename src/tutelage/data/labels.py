"""What a raw label value means: one of the task's classes, or an error that says why not.

In: values from a file and the recipe's ``label_map``. Out: class indices.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tutelage.errors import DataError

HIDDEN = "-1 is how GLUE hides the labels of its test files; use the train and dev files"


def label_reader(
    labels: Sequence[str],
    *,
    label_map: Mapping[Any, str] | None = None,
    class_names: Sequence[str] | None = None,
    task_name: str = "",
) -> Callable[[Any], int]:
    """Return a function from a raw value to a class index; it raises ``ValueError`` with the reason.

    With a ``label_map`` only its keys are accepted (compared as text, so ``1`` and ``"1"`` are the
    same). Without one, in this order: a value equal to a class name; where the source names its own
    classes, the name behind an integer; an integer or numeric string as an index into ``labels``,
    unless a class name is itself a number.

    Args:
        labels: The task's class names, in order.
        label_map: Raw value to class name.
        class_names: The source's own names behind integers, used when they are the task's names.
        task_name: For messages.

    Raises:
        DataError: If ``label_map`` leads to a class that does not exist, or misses a class.
    """
    index_of = {name: index for index, name in enumerate(labels)}
    if label_map is not None:
        return _mapped_reader(_checked_map(label_map, labels, task_name), index_of)
    names = [str(index) for index in range(len(labels))]
    expected = f"{', '.join(repr(name) for name in labels)}"
    if class_names is not None and set(class_names) == set(labels):
        names_behind = {str(index): index_of[name] for index, name in enumerate(class_names)}
    elif any(_is_number(name) for name in labels):
        names_behind = {}
    else:
        names_behind = {name: index for index, name in enumerate(names)}
        expected += f", or an index from 0 to {len(labels) - 1}"

    def read(raw: Any) -> int:
        key = _as_key(raw)
        if key in index_of:
            return index_of[key]
        if key in names_behind:
            return names_behind[key]
        advice = HIDDEN if key == "-1" else "correct it, or say what it means with `data.labels`"
        raise ValueError(f"the label is {raw!r}, expected {expected}; {advice}")

    return read


def _checked_map(label_map: Mapping[Any, str], labels: Sequence[str], task_name: str) -> dict[str, str]:
    unknown = sorted({str(name) for name in label_map.values()} - set(labels))
    missing = sorted(set(labels) - {str(name) for name in label_map.values()})
    if unknown or missing:
        problem = f"leads to the unknown class {unknown[0]!r}" if unknown else f"never leads to {missing[0]!r}"
        raise DataError(
            f"tasks.{task_name}.data.labels {problem}. Expected every one of the classes "
            f"{', '.join(labels)} and no other; write RAW_VALUE: CLASS_NAME."
        )
    return {_as_key(raw): str(name) for raw, name in label_map.items()}


def _mapped_reader(label_map: Mapping[str, str], index_of: Mapping[str, int]) -> Callable[[Any], int]:
    def read(raw: Any) -> int:
        name = label_map.get(_as_key(raw))
        if name is None:
            keys = ", ".join(repr(key) for key in label_map)
            advice = HIDDEN if _as_key(raw) == "-1" else "correct it or add it to `data.labels`"
            raise ValueError(f"the label is {raw!r}, expected a key of data.labels ({keys}); {advice}")
        return index_of[name]

    return read


def _as_key(raw: Any) -> str:
    """Write a raw label as text: 1, 1.0, "1" and " 1 " are one label, as are true and "true"."""
    if raw is None:
        return ""
    if isinstance(raw, bool):
        return str(raw).lower()
    if isinstance(raw, float) and raw.is_integer():
        return str(int(raw))
    return str(raw).strip()


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True
