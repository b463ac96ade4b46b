"""From a source to a task whose splits are cut, checked and counted.

In: a task and the recipe's ``data`` settings. Out: a ``PreparedTask``.

The official validation set is the test set; what selects (``validation``) and what adapts the
teacher (``adapt``) is cut from the training rows by seed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.data.counts import Counts, class_notes, class_problems, describe, left_out_problems
from tutelage.data.parse import ID_COLUMNS, read_examples
from tutelage.data.prepared import PreparedTask, Task, read_prepared, write_prepared
from tutelage.data.problems import DataProblemsError, Problem
from tutelage.data.questions import ANSWERS_COLUMN, read_questions
from tutelage.data.reading import ReadingTask
from tutelage.data.records import DEFAULT_RULES, Loaded, RowRules
from tutelage.data.sources import OFFICIAL_TEST_NAMES, load_records
from tutelage.data.splits import by_digest, by_seed, class_cut, is_representative, share_of
from tutelage.data.task import ClassificationTask
from tutelage.errors import DataError

__all__ = ["PreparedTask", "Task", "prepare_task", "read_prepared", "write_prepared"]

DEFAULT_TEST_SHARE = 0.2  # of a source without an official evaluation set, when `test_rows` is not given
DEFAULT_VALIDATION_SHARE, DEFAULT_ADAPT_SHARE = 0.1, 0.35  # where the recipe gives no number
MAX_DEFAULT_TEST_ROWS = 2000  # 95 % interval of about +-1.5 points at 90 % accuracy
MAX_DEFAULT_VALIDATION_ROWS = 500
MAX_DEFAULT_ADAPT_ROWS = 2000


@dataclass(frozen=True)
class Cuts:
    """How many rows go where; see :func:`prepare_task`. None: a share of the rows, and not more than ``most``."""

    limit: int | None
    adapt_rows: int | None
    validation_rows: int | None
    test_rows: int | None
    seed: int
    most_validation: int = MAX_DEFAULT_VALIDATION_ROWS
    most_test: int | None = None  # None: a whole official set, `MAX_DEFAULT_TEST_ROWS` of a cut one

    def numbers(self, num_rows: int, *, official: bool) -> dict[str, int]:
        """Return the rows to cut from so many for test, validation and adapt."""
        test = 0 if official else self.test_rows
        most = MAX_DEFAULT_TEST_ROWS if self.most_test is None else self.most_test
        wanted = (
            ("test", test, DEFAULT_TEST_SHARE, most),
            ("validation", self.validation_rows, DEFAULT_VALIDATION_SHARE, self.most_validation),
            ("adapt", self.adapt_rows, DEFAULT_ADAPT_SHARE, MAX_DEFAULT_ADAPT_ROWS),
        )
        return {
            name: share_of(num_rows, share, most=most) if number is None else number
            for name, number, share, most in wanted
        }


def prepare_task(
    task: Task,
    *,
    source: str,
    subset: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    licence: str | None = None,
    validation: str | None = None,
    limit: int | None = None,
    adapt_rows: int | None = 0,
    validation_rows: int | None = 0,
    test_rows: int | None = None,
    most_validation: int = MAX_DEFAULT_VALIDATION_ROWS,
    most_test: int | None = None,
    seed: int = 0,
    base_folder: Path = Path(),
    label_map: Mapping[Any, str] | None = None,
    rules: RowRules = DEFAULT_RULES,
) -> PreparedTask:
    """Read a source and cut it into train, adapt, validation and test.

    Args:
        task: Template, and what a kind of task has beside it.
        source: See :func:`tutelage.data.load_records`.
        subset: The hub's configuration name.
        split: The split with the training rows; ``train``, or the only one there is.
        revision: The hub commit or tag.
        licence: The data's licence, where the source does not say it itself.
        validation: The official evaluation set: a split's name, or another source. It becomes
            ``test``. Default: the split called validation, dev, valid, val or test, if any;
            otherwise test rows are cut by digest, whatever the seed.
        limit: Train rows at most, after the other cuts.
        adapt_rows: Rows for adapting the teacher; None: a share of the rows.
        validation_rows: Rows for selection; None: a share of the rows.
        test_rows: Test rows at most; None keeps the whole official set, or cuts 20 % (2,000 at
            the most) where there is none.
        most_validation: Validation rows at most where no number is given.
        most_test: Test rows at most where no number is given, of an official set too.
        seed: Decides validation, adapt and train rows. Test rows do not depend on it.
        base_folder: What relative paths are relative to.
        label_map: Raw label value to class name, see :class:`tutelage.data.labels.LabelReader`; of a classification.
        rules: How files are read, and what becomes of rows that are not valid.

    Returns:
        The splits, and ``info``: source, revision, licence, hashes, counts in and out, what was
        dropped and why, and facts of the kind of task (rows per class; passages and gold answers).

    Raises:
        DataError: If the source or a row is not valid (naming ``file:line``), or the cuts ask for
            more rows than there are.
        DataProblemsError: If several such things are wrong, or one setting has to change.
    """
    where = f"tasks.{task.name}.data"
    loaded = load_records(source, subset=subset, revision=revision, base_folder=base_folder, rules=rules)
    train_name, test_name, test_loaded = _official_splits(loaded, source, split, validation, base_folder, rules)
    counts = Counts(loaded, train_name)
    read = _Reader(task, label_map, counts, skip_bad=rules.skip_bad)
    train = read.split(loaded, train_name)
    test: list[Any] | None = None
    if test_loaded is not None and test_name is not None:
        test = read.split(test_loaded, test_name, key_prefix="test:")
        counts.add_source(test_loaded, test_name)
        train = _without_overlap(train, test, counts)
    problems = [*left_out_problems(counts.dropped, sum(counts.rows_read.values()), allowed=rules.max_left_out)]
    cuts = Cuts(limit, adapt_rows, validation_rows, test_rows, seed, most_validation, most_test)
    splits = _cut_or_refuse(train, test, cuts, counts, problems, where=where)
    if isinstance(task, ClassificationTask):
        if rules.every_class:
            problems += class_problems(task, splits, read.hint())
        counts.notes += class_notes(task, splits)
    if problems:
        raise DataProblemsError(problems)
    info = describe(task, loaded, test_loaded, licence, seed, counts, splits)
    info["train_split"], info["test_split"] = train_name, test_name or "cut by digest"
    return PreparedTask(task, splits, info)


def _official_splits(
    loaded: Loaded,
    source: str,
    split: str | None,
    validation: str | None,
    base_folder: Path,
    rules: RowRules,
) -> tuple[str, str | None, Loaded | None]:
    names = list(loaded.splits)
    train_name = split or ("train" if "train" in names or len(names) > 1 else names[0])
    if train_name not in names:
        raise DataError(
            f"{source} has no split {train_name!r}. It has: {', '.join(names)}. Expected one called train, or only one."
        )
    if validation is None:
        found = next((name for name in OFFICIAL_TEST_NAMES if name in names and name != train_name), None)
        return train_name, found, loaded if found else None
    if validation == train_name:
        raise DataError(f"`validation` is {validation!r}, the training split itself. Name another split or file.")
    if validation in names:
        return train_name, validation, loaded
    path = base_folder / Path(validation).expanduser()
    if not path.exists() and not path.suffix and "/" not in validation:
        raise DataError(f"`validation: {validation}` is neither a split of {source} ({', '.join(names)}) nor a file.")
    other = load_records(validation, base_folder=base_folder, rules=rules)
    if len(other.splits) > 1:
        raise DataError(f"`validation: {validation}` holds {', '.join(other.splits)}. Name one file with one split.")
    return train_name, next(iter(other.splits)), other


class _Reader:
    """Reads splits as the task has them, and counts what is left out."""

    def __init__(self, task: Task, label_map: Mapping[Any, str] | None, counts: Counts, *, skip_bad: bool) -> None:
        self.task, self.label_map, self.counts, self.skip_bad = task, label_map, counts, skip_bad
        self.hints: list[str] = []

    def split(self, loaded: Loaded, name: str, *, key_prefix: str = "") -> list[Any]:
        """Return a split's examples or questions."""
        options: dict[str, Any] = {"key_prefix": key_prefix, "skip_bad": self.skip_bad}
        if isinstance(self.task, ReadingTask):
            return self._questions(loaded, name, options)
        read = read_examples(self.task, loaded, name, self.label_map, **options)
        self.counts.mapping.update(dict.fromkeys(read.labels.mapping()))
        self._count(read.left_out, read.notes)
        hint = read.labels.shifted()
        self.hints += [hint] if hint else []
        columns = next((each.values for each in loaded.splits[name] if each.problem is None), {})
        read_columns = (self.task.text_column_of(columns), self.task.label_column, *self.task.other_fields)
        self.counts.add_columns(loaded, name, (*read_columns, *ID_COLUMNS))
        return read.examples

    def hint(self) -> str:
        """Return why a class may seem to be missing."""
        return next(iter(self.hints), "")

    def _questions(self, loaded: Loaded, name: str, options: Mapping[str, Any]) -> list[Any]:
        assert isinstance(self.task, ReadingTask)
        read = read_questions(self.task, loaded, name, **options)
        self._count(read.left_out, read.notes)
        self.counts.add_columns(loaded, name, (*self.task.columns, ANSWERS_COLUMN, *ID_COLUMNS))
        if read.num_moved:
            self.counts.notes.append(
                f"{loaded.info.source}:{name}: {read.num_moved:,} answers were not at their answer_start; their first "
                "occurrence in the context was taken"
            )
        return read.questions

    def _count(self, left_out: Mapping[str, int], notes: Sequence[str]) -> None:
        for reason, num_rows in left_out.items():
            self.counts.drop(reason, num_rows)
        self.counts.notes += notes


def _without_overlap(train: list[Any], test: list[Any], counts: Counts) -> list[Any]:
    """Drop train rows whose text or passage the official test set has too: they would be scored on what they learnt."""
    in_test = {example.cluster_key for example in test}
    kept = [example for example in train if example.cluster_key not in in_test]
    counts.drop("overlap_with_test", len(train) - len(kept))
    return kept


def _cut_or_refuse(
    train: list[Any], test: list[Any] | None, cuts: Cuts, counts: Counts, problems: list[Problem], *, where: str
) -> dict[str, list[Any]]:
    """Cut all splits; what is wrong with that is raised together with the problems found before."""
    try:
        return _cut_all(train, test, cuts, counts, where=where)
    except DataError as error:
        if not problems:
            raise
        raise DataProblemsError([*problems, ((), str(error))]) from error


def _cut_all(
    train: list[Any], test: list[Any] | None, cuts: Cuts, counts: Counts, *, where: str
) -> dict[str, list[Any]]:
    """Cut test by digest (or cap the official one), then validation, adapt and train by seed."""
    numbers = cuts.numbers(len(train), official=test is not None)
    _check_room(len(train), numbers, cuts, where)
    by_class = {}
    if test is None:
        test, train, by_class["test"] = class_cut(sorted(train, key=by_digest), numbers["test"])
    else:
        most = next(number for number in (cuts.test_rows, cuts.most_test, len(test)) if number is not None)
        test, beyond, by_class["test"] = class_cut(sorted(test, key=by_digest), min(most, len(test)))
        counts.drop("test_rows", len(beyond))
    ordered = sorted(train, key=by_seed(cuts.seed))
    validation, rest, by_class["validation"] = class_cut(ordered, numbers["validation"])
    adapt, rest, by_class["adapt"] = class_cut(rest, numbers["adapt"])
    kept = rest[: cuts.limit]
    if not is_representative(kept, rest):
        kept, _, by_class["train"] = class_cut(rest, len(kept))
    counts.drop("limit", len(rest) - len(kept))
    splits = {"train": kept, "adapt": adapt, "validation": validation, "test": test}
    for name, num_rows in {"train": 1, **numbers, "test": 1}.items():
        if num_rows and not splits[name]:
            every = [*train, *test]
            raise DataError(
                f"{where}: no rows are left for {name}: too few distinct texts ({len(every):,} rows with "
                f"{len({each.cluster_key for each in every}):,} of them), or a limit of 0. Rows with equal text "
                f"or passage stay together; give more data or ask for other numbers."
            )
    if any(by_class.values()):
        names = ", ".join(name for name, was_cut in by_class.items() if was_cut)
        counts.notes.append(f"cut class by class, since chance would misrepresent a class: {names}")
    counts.notes += _default_notes(cuts, numbers)
    return splits


def _check_room(num_rows: int, numbers: Mapping[str, int], cuts: Cuts, where: str) -> None:
    """Refuse cuts that leave no row for training, and name values that fit."""
    asked = sum(numbers.values())
    if asked < num_rows:
        return
    keys = {"test": "test_rows", "validation": "validation_rows", "adapt": "teacher.adapt.rows"}
    shares = {"test": DEFAULT_TEST_SHARE, "validation": DEFAULT_VALIDATION_SHARE, "adapt": DEFAULT_ADAPT_SHARE}
    fitting = ", ".join(
        f"{keys[name]}: {min(number, max(1, int(shares[name] * num_rows)))}"
        for name, number in numbers.items()
        if number
    )
    raise DataError(
        f"{where} asks for {numbers['test']} test + {numbers['validation']} validation + {numbers['adapt']} adapt rows "
        f"= {asked}, but there are {num_rows} rows to cut from, and at least one must remain for training. Values that "
        f"fit: {fitting}. Or give more data."
    )


def _default_notes(cuts: Cuts, numbers: Mapping[str, int]) -> list[str]:
    """Say where a default was lowered to fit a small set of rows."""
    lowered = []
    if cuts.validation_rows is None and numbers["validation"] < cuts.most_validation:
        lowered.append(f"validation_rows is {numbers['validation']}, a tenth")
    if cuts.adapt_rows is None and numbers["adapt"] < MAX_DEFAULT_ADAPT_ROWS:
        lowered.append(f"teacher.adapt.rows is {numbers['adapt']}, about a third")
    return [f"few rows, so {' and '.join(lowered)} of them (write the numbers to choose others)"] if lowered else []
