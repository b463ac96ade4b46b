"""From a source to a task whose splits are cut, checked and counted.

In: a task and the recipe's ``data`` settings. Out: a ``PreparedTask``.

The official validation set is the test set; what selects (``validation``) and what adapts the
teacher (``adapt``) is cut from the training rows by seed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.data.counts import Counts, describe
from tutelage.data.parse import read_examples
from tutelage.data.prepared import PreparedTask, Task, read_prepared, write_prepared
from tutelage.data.questions import read_questions
from tutelage.data.reading import ReadingTask
from tutelage.data.records import Loaded
from tutelage.data.sources import OFFICIAL_TEST_NAMES, load_records
from tutelage.data.splits import by_digest, by_seed, cut
from tutelage.errors import DataError

__all__ = ["PreparedTask", "Task", "prepare_task", "read_prepared", "write_prepared"]

DEFAULT_TEST_SHARE = 0.2  # of a source without an official evaluation set, when `test_rows` is not given
MAX_DEFAULT_TEST_ROWS = 2000  # 95 % interval of about +-1.5 points at 90 % accuracy


@dataclass(frozen=True)
class Cuts:
    """How many rows go where; see :func:`prepare_task`."""

    limit: int | None
    adapt_rows: int
    validation_rows: int
    test_rows: int | None
    seed: int


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
    adapt_rows: int = 0,
    validation_rows: int = 0,
    test_rows: int | None = None,
    seed: int = 0,
    base_folder: Path = Path(),
    label_map: Mapping[Any, str] | None = None,
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
        adapt_rows: Rows for adapting the teacher.
        validation_rows: Rows for selection.
        test_rows: Test rows at most; None keeps the whole official set, or cuts 20 % (2,000 at
            the most) where there is none.
        seed: Decides validation, adapt and train rows. Test rows do not depend on it.
        base_folder: What relative paths are relative to.
        label_map: Raw label value to class name, see :func:`tutelage.data.labels.label_reader`; of a classification.

    Returns:
        The splits, and ``info``: source, revision, licence, hashes, counts in and out, what was
        dropped and why, and facts of the kind of task (class balance; passages and gold answers).

    Raises:
        DataError: If the source or a row is not valid (naming ``file:line``), or the cuts ask for
            more rows than there are.
    """
    loaded = load_records(source, subset=subset, revision=revision, base_folder=base_folder)
    train_name, test_name, test_loaded = _official_splits(loaded, source, split, validation, base_folder)
    counts = Counts(loaded, train_name)
    train = _read_split(task, loaded, train_name, label_map, counts)
    test: list[Any] | None = None
    if test_loaded is not None and test_name is not None:
        test = _read_split(task, test_loaded, test_name, label_map, counts, key_prefix="test:")
        counts.add_source(test_loaded, test_name)
        train = _without_overlap(train, test, counts)
    cuts = Cuts(limit, adapt_rows, validation_rows, test_rows, seed)
    splits = _cut_all(train, test, cuts, counts, where=f"tasks.{task.name}.data")
    info = describe(task, loaded, test_loaded, licence, seed, counts, splits)
    info["train_split"], info["test_split"] = train_name, test_name or "cut by digest"
    return PreparedTask(task, splits, info)


def _official_splits(
    loaded: Loaded, source: str, split: str | None, validation: str | None, base_folder: Path
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
    other = load_records(validation, base_folder=base_folder)
    if len(other.splits) > 1:
        raise DataError(f"`validation: {validation}` holds {', '.join(other.splits)}. Name one file with one split.")
    return train_name, next(iter(other.splits)), other


def _read_split(
    task: Task,
    loaded: Loaded,
    name: str,
    label_map: Mapping[Any, str] | None,
    counts: Counts,
    *,
    key_prefix: str = "",
) -> list[Any]:
    """Read one split's rows as the task has them, and count those that are left out."""
    if not isinstance(task, ReadingTask):
        return read_examples(task, loaded, name, label_map, key_prefix=key_prefix)
    read = read_questions(task, loaded, name, key_prefix=key_prefix)
    for reason, num_rows in read.left_out.items():
        counts.drop(reason, num_rows)
    if read.num_moved:
        counts.notes.append(
            f"{loaded.info.source}:{name}: {read.num_moved:,} answers were not at their answer_start; their first "
            "occurrence in the context was taken"
        )
    return read.questions


def _without_overlap(train: list[Any], test: list[Any], counts: Counts) -> list[Any]:
    """Drop train rows whose text or passage the official test set has too: they would be scored on what they learnt."""
    in_test = {example.cluster_key for example in test}
    kept = [example for example in train if example.cluster_key not in in_test]
    counts.drop("overlap_with_test", len(train) - len(kept))
    return kept


def _cut_all(
    train: list[Any], test: list[Any] | None, cuts: Cuts, counts: Counts, *, where: str
) -> dict[str, list[Any]]:
    """Cut test by digest (or cap the official one), then validation, adapt and train by seed."""
    if test is None:
        default = min(MAX_DEFAULT_TEST_ROWS, int(DEFAULT_TEST_SHARE * len(train)))
        test_rows = default if cuts.test_rows is None else cuts.test_rows
        _check_room(len(train), test_rows, cuts, where)
        test, train = cut(sorted(train, key=by_digest), test_rows)
    else:
        _check_room(len(train), 0, cuts, where)
        test, beyond = cut(sorted(test, key=by_digest), len(test) if cuts.test_rows is None else cuts.test_rows)
        counts.drop("test_rows", len(beyond))
    validation, rest = cut(sorted(train, key=by_seed(cuts.seed)), cuts.validation_rows)
    adapt, rest = cut(rest, cuts.adapt_rows)
    kept = rest[: cuts.limit]
    counts.drop("limit", len(rest) - len(kept))
    splits = {"train": kept, "adapt": adapt, "validation": validation, "test": test}
    wanted = {"train": 1, "adapt": cuts.adapt_rows, "validation": cuts.validation_rows, "test": 1}
    for name, num_rows in wanted.items():
        if num_rows and not splits[name]:
            raise DataError(
                f"{where}: no rows are left for {name}: too few distinct texts, or a limit of 0. Rows with equal text "
                "or passage stay together; give more data or ask for other numbers."
            )
    return splits


def _check_room(num_rows: int, test_rows: int, cuts: Cuts, where: str) -> None:
    asked = test_rows + cuts.validation_rows + cuts.adapt_rows
    if asked >= num_rows:
        raise DataError(
            f"{where} asks for {test_rows} test + {cuts.validation_rows} validation + {cuts.adapt_rows} adapt rows = "
            f"{asked}, but there are {num_rows} rows to cut from, and at least one must remain for training. Ask for "
            "fewer, or give more data."
        )
