"""Where every row went, and what a run records and prints about its data.

In: sources, splits and drops by reason. Out: the ``info`` of a ``PreparedTask``; lines for the terminal.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tutelage.data.examples import Example, Keyed
from tutelage.data.prepared import Task
from tutelage.data.problems import Problem
from tutelage.data.reading import Question, ReadingTask
from tutelage.data.records import CLUSTER_COLUMN, Loaded
from tutelage.data.sources import SAMPLE_PREFIX
from tutelage.data.splits import class_counts
from tutelage.data.task import ClassificationTask

# Why rows are missing although nothing is wrong with them: numbers that the recipe asks for, a sample's own rule.
CHOSEN_REASONS = ("limit", "test_rows", "not_used", "weak_rating", "marked_not_to_learn")
MAX_SHARE_OF_ONE_CLASS = 0.9  # of the test rows; beyond it a model that always answers that class looks good
FEW_ROWS = 10  # of a class in training
LEFT_OUT_KEY, CLASSES_KEY = ("max_left_out",), ("allow_empty_classes",)


class Counts:
    """Rows read, and rows dropped by reason; in the end every row read is accounted for."""

    def __init__(self, loaded: Loaded, train_name: str) -> None:
        self.rows_read: dict[str, int] = {}
        self.dropped: Counter[str] = Counter()
        self.notes: list[str] = []
        self.mapping: dict[str, None] = {}  # what every raw label stands for, in order
        self.columns_not_read: dict[str, None] = {}
        self.add_source(loaded, train_name)

    def add_source(self, loaded: Loaded, name: str) -> None:
        """Add a split that is used."""
        key = f"{loaded.info.source}:{name}"
        self.rows_read[key] = loaded.rows_read[name]
        self.dropped.update(loaded.dropped.get(name, {}))

    def add_columns(self, loaded: Loaded, name: str, read: Iterable[str]) -> None:
        """Note the columns of a split that nothing reads."""
        found = next((record.values for record in loaded.splits[name] if record.problem is None), {})
        unread = [column for column in found if column not in {*read, CLUSTER_COLUMN}]
        self.columns_not_read.update(dict.fromkeys(unread))

    def drop(self, reason: str, num_rows: int) -> None:
        """Count rows that are left out."""
        if num_rows:
            self.dropped[reason] += num_rows

    def check(self, splits: Mapping[str, Sequence[Keyed]]) -> None:
        """Refuse to go on when a row was lost or doubled: an error of ours, not of the user's."""
        rows_in, kept, dropped = sum(self.rows_read.values()), sum(map(len, splits.values())), self.dropped.total()
        assert rows_in == kept + dropped, f"{rows_in} rows were read, {kept} kept and {dropped} dropped"
        keys = [example.item_key for rows in splits.values() for example in rows]
        assert len(set(keys)) == len(keys), "an item is in two places"


def left_out_problems(dropped: Mapping[str, int], num_rows: int, *, allowed: float) -> Iterator[Problem]:
    """Yield a problem where more rows are left out than the recipe allows, whatever the reasons."""
    reasons = {name: count for name, count in dropped.items() if count and name not in CHOSEN_REASONS}
    left_out = sum(reasons.values())
    if left_out > allowed * num_rows:
        shown = ", ".join(f"{count:,} {name}" for name, count in sorted(reasons.items(), key=lambda each: -each[1]))
        share = left_out / num_rows
        yield (
            LEFT_OUT_KEY,
            f"{left_out:,} of {num_rows:,} rows are left out ({share:.0%}: {shown}), allowed are {allowed:.0%}. "
            f"Correct the rows, or allow it with `max_left_out: {min(1.0, share + 0.005):.2f}`",
        )


def class_problems(task: ClassificationTask, splits: Mapping[str, Sequence[Example]], hint: str) -> Iterator[Problem]:
    """Yield a problem for every split in which a class never occurs, if it is trained on or scored."""
    for split, what in (("train", "to learn from"), ("test", "to be tested on")):
        counts = class_counts(task.labels, splits[split])
        missing = [label for label, count in counts.items() if not count]
        if missing:
            few = len(splits[split]) < 2 * len(task.labels)
            more = f"; {split} has {len(splits[split]):,} rows only" if few else ""
            yield (
                ("labels",) if hint and split == "train" else CLASSES_KEY,
                f"{_listed(missing)} no row {what}{more}. Give rows of every class, take the class out of "
                f"`verbalisers`, or write `allow_empty_classes: true`{f'; {hint}' if hint else ''}",
            )


def class_notes(task: ClassificationTask, splits: Mapping[str, Sequence[Example]]) -> Iterator[str]:
    """Yield what is odd about the classes, and yet no mistake."""
    train, test = (class_counts(task.labels, splits[split]) for split in ("train", "test"))
    for split in ("validation", "adapt"):
        counts = class_counts(task.labels, splits[split])
        missing = [label for label, count in counts.items() if not count]
        if splits[split] and missing:
            yield f"{_listed(missing)} no {split} row"
    for label, count in train.items():
        if 0 < count < FEW_ROWS:
            yield f"class {label!r} has {count} training rows only"
    top = max(test, key=lambda label: test[label])
    if test[top] > MAX_SHARE_OF_ONE_CLASS * len(splits["test"]):
        share = test[top] / len(splits["test"])
        yield (
            f"{share:.0%} of the test rows are {top!r}: a model that always answers it is right as often; "
            "look at macro_f1 (`evaluate.select_by`)"
        )


def _listed(labels: Sequence[str]) -> str:
    shown = ", ".join(map(repr, labels[:5])) + (f" and {len(labels) - 5} more" if len(labels) > 5 else "")
    return f"class{'es' if len(labels) > 1 else ''} {shown} {'have' if len(labels) > 1 else 'has'}"


def describe(
    task: Task,
    loaded: Loaded,
    test_loaded: Loaded | None,
    licence: str | None,
    seed: int,
    counts: Counts,
    splits: Mapping[str, Sequence[Any]],
) -> dict[str, Any]:
    """Return what a run records about its data, once every row read is accounted for."""
    counts.check(splits)
    files, notes = dict(loaded.info.files), list(loaded.info.notes)
    if test_loaded is not None and test_loaded is not loaded:
        files |= {f"{test_loaded.info.source}:{name}": digest for name, digest in test_loaded.info.files.items()}
        notes += test_loaded.info.notes
    used = {key.rpartition(":")[2] for key in counts.rows_read}
    return {
        "source": loaded.info.source,
        "sample": loaded.info.source.startswith(SAMPLE_PREFIX),
        "revision": loaded.info.revision,
        "licence": licence or loaded.info.licence,
        "files": files,
        "notes": notes + counts.notes,
        "unused_splits": sorted(set(loaded.splits) - used),
        "columns_not_read": list(counts.columns_not_read),
        "seed": seed,
        "rows_read": counts.rows_read,
        "dropped": dict(sorted(counts.dropped.items())),
        "rows": {name: len(rows) for name, rows in splits.items()},
        **(_reading_facts(splits) if isinstance(task, ReadingTask) else _classification_facts(task, splits, counts)),
    }


def _reading_facts(splits: Mapping[str, Sequence[Question]]) -> dict[str, Any]:
    """Count passages (or what else belongs together) and gold answers per question."""
    return {
        "clusters": {name: len({each.cluster_key for each in rows}) for name, rows in splits.items()},
        "gold_answers": {name: sum(len(each.golds) for each in rows) for name, rows in splits.items()},
    }


def _classification_facts(
    task: ClassificationTask, splits: Mapping[str, Sequence[Example]], counts: Counts
) -> dict[str, Any]:
    return {
        "classes": {name: class_counts(task.labels, rows) for name, rows in splits.items()},
        "labels": list(counts.mapping),
        "conflicting_texts": _conflicting_texts(splits),
    }


def _conflicting_texts(splits: Mapping[str, Sequence[Example]]) -> int:
    """Count texts that occur with more than one label: noise that no model can learn."""
    golds: dict[str, set[int]] = {}
    for rows in splits.values():
        for example in rows:
            golds.setdefault(example.cluster_key, set()).add(example.gold)
    return sum(len(values) > 1 for values in golds.values())


def data_lines(info: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a user should see of a task's rows before anything is trained on them."""
    rows = ", ".join(f"{count:,} {split}" for split, count in info["rows"].items() if count)
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in info["dropped"].items() if count)
    yield f"{rows} rows" + (f"; left out: {dropped}" if dropped else "")
    if info.get("labels"):
        yield f"label: {'; '.join(info['labels'])}"
    for split, counts in (info.get("classes") or {}).items():
        if any(counts.values()):
            yield f"classes, {split}: " + ", ".join(f"{label} {count:,}" for label, count in counts.items())
    if info.get("columns_not_read"):
        yield f"columns not read: {', '.join(info['columns_not_read'])}"
    yield from info["notes"]
