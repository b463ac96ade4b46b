"""Raw records become examples, or an error that names the row.

In: a ``Loaded`` source and a task. Out: ``Example``s with stable keys.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tutelage.data.examples import Example, cluster_key, text_digest
from tutelage.data.labels import LABELS_KEY, LabelReader
from tutelage.data.problems import DataProblemsError
from tutelage.data.records import BAD_ROW, Loaded, Record
from tutelage.data.task import TEXT_FIELD, ClassificationTask
from tutelage.errors import DataError

ID_COLUMNS = ("id", "idx")
MAX_SHOWN_PROBLEMS = 3
PLACE = re.compile(r".*?(:\d+|\[[^\]]*\])(?=:? )")  # how the readers name a row


@dataclass
class ExamplesRead:
    """The examples of one split, and what became of the other rows."""

    examples: list[Example]
    left_out: Counter[str]  # by reason: bad_row
    notes: list[str]
    labels: LabelReader


def read_examples(
    task: ClassificationTask,
    loaded: Loaded,
    name: str,
    label_map: Mapping[Any, str] | None,
    *,
    key_prefix: str = "",
    skip_bad: bool = False,
) -> ExamplesRead:
    """Turn the raw rows of one split into examples.

    Args:
        task: Columns, labels and template.
        loaded: The source.
        name: The split.
        label_map: See :class:`tutelage.data.labels.LabelReader`.
        key_prefix: Precedes every item key, so that ids which start anew in another file stay unique.
        skip_bad: Leave rows out that are not valid, and count them.

    Raises:
        DataError: If rows are not valid: all are counted, the first three shown with ``file:line``; or if the source
            names its classes otherwise than the task.
    """
    labels = LabelReader(
        task.labels,
        label_map=label_map,
        class_names=loaded.class_names.get(task.label_column),
        task_name=task.name,
    )
    records = loaded.splits[name]
    identifier = id_column(records)
    seen: Counter[str] = Counter()
    examples, problems = [], []
    for record in records:
        try:
            record.require_readable()
            fields = _fields(task, record)
            gold = labels(_label(task, record))
        except DataProblemsError:
            raise
        except ValueError as error:
            problems.append(f"{record.where}: {error}")
            continue
        if identifier is not None:
            item_key = str(record.values[identifier])
        else:
            digest = text_digest(*(part for pair in sorted(fields.items()) for part in pair), str(gold))
            item_key = f"{digest}-{seen[digest]}" if seen[digest] else digest
            seen[digest] += 1
        item_key = f"{key_prefix}{loaded.key_prefix}{item_key}"
        examples.append(Example(item_key, cluster_key(fields[TEXT_FIELD]), fields, gold))
    shifted = labels.shifted() if problems else None
    if shifted is not None:
        raise DataProblemsError([(LABELS_KEY, shifted)])
    left_out, notes = skipped(problems, skip_bad=skip_bad)
    if not examples:
        raise DataError(f"{loaded.info.source}: the split {name!r} holds no rows. Expected at least one labelled text.")
    return ExamplesRead(examples, left_out, notes, labels)


def skipped(problems: Sequence[str], *, skip_bad: bool) -> tuple[Counter[str], list[str]]:
    """Refuse rows that are not valid, or count them as left out and name the first.

    Raises:
        DataError: If there is a problem and bad rows are not to be skipped.
    """
    if not skip_bad:
        raise_problems(problems)
    notes = [f"{len(problems):,} bad rows are skipped, the first: {problems[0]}"] if problems else []
    return +Counter({BAD_ROW: len(problems)}), notes


def raise_problems(problems: Sequence[str]) -> None:
    """Refuse a split that has rows which are not valid: all are counted, each of the first three mistakes said once.

    Args:
        problems: Each a place (``FILE:LINE``, ``SOURCE:SPLIT[NUMBER]``) and what is wrong there.

    Raises:
        DataError: If there is a problem.
    """
    if not problems:
        return
    places: dict[str, list[str]] = {}
    for problem in problems:
        found = PLACE.match(problem)
        place = found[0] if found else problem
        places.setdefault(problem.removeprefix(place), []).append(place)
    shown = list(places.items())[:MAX_SHOWN_PROBLEMS]
    left = len(problems) - sum(len(found) for _, found in shown)
    rest = f" ... and {left} more rows." if left else ""
    raise DataError("; ".join(_listed(found) + mistake for mistake, found in shown) + rest)


def _listed(places: Sequence[str]) -> str:
    named = ", ".join(places[:MAX_SHOWN_PROBLEMS])
    more = len(places) - MAX_SHOWN_PROBLEMS
    return f"{named} and {more} more row{'s' * (more > 1)}" if more > 0 else named


def id_column(records: Sequence[Record]) -> str | None:
    """Find a column of unique ids; without one, items are known by their content."""
    for column in ID_COLUMNS:
        values = [record.values.get(column) for record in records if record.problem is None]
        plain = all(isinstance(value, str | int) and str(value) and is_encodable(value) for value in values)
        if plain and len({str(value) for value in values}) == len(values):
            return column
    return None


def _fields(task: ClassificationTask, record: Record) -> dict[str, str]:
    fields = {}
    text_column = task.text_column_of(record.values)
    for name, column in ((TEXT_FIELD, text_column), *((name, name) for name in task.other_fields)):
        if column not in record.values:
            columns = ", ".join(map(repr, record.values))
            raise ValueError(
                f"there is no column {column!r}, only {columns}; set `data.text` or the template (a file without a "
                "header needs `columns`)"
            )
        value = record.values[column]
        if name == TEXT_FIELD and (not isinstance(value, str) or not value.strip()):
            shown = "empty" if isinstance(value, str) or value is None else f"a {type(value).__name__}"
            raise ValueError(f"the text in column {column!r} is {shown}, expected words; correct or remove the row")
        if not isinstance(value, str | int | float):
            raise ValueError(f"column {column!r} holds a {type(value).__name__}, expected text; correct the row")
        if not is_encodable(value):
            raise ValueError(f"column {column!r} holds half of a surrogate pair, which is no text; correct the row")
        fields[name] = str(value).strip()  # GLUE's sentences end in a blank
    return fields


def is_encodable(value: Any) -> bool:
    """Say whether a value can be written as UTF-8."""
    try:
        str(value).encode()
    except UnicodeEncodeError:
        return False
    return True


def _label(task: ClassificationTask, record: Record) -> Any:
    value = record.values.get(task.label_column)
    if value is None or value == "":
        columns = ", ".join(map(repr, record.values))
        what = "is empty" if task.label_column in record.values else f"is missing (there are {columns})"
        raise ValueError(
            f"the label in column {task.label_column!r} {what}, expected one of {', '.join(task.labels)}; "
            "correct the row or set `data.label`"
        )
    return value
