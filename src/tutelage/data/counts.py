"""Where every row went, and what a run records about its data.

In: sources, splits and drops by reason. Out: the ``info`` of a ``PreparedTask``.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tutelage.data.examples import Example, Keyed
from tutelage.data.prepared import Task
from tutelage.data.reading import Question, ReadingTask
from tutelage.data.records import Loaded
from tutelage.data.sources import SAMPLE_PREFIX
from tutelage.data.task import ClassificationTask


class Counts:
    """Rows read, and rows dropped by reason; in the end every row read is accounted for."""

    def __init__(self, loaded: Loaded, train_name: str) -> None:
        self.rows_read: dict[str, int] = {}
        self.dropped: Counter[str] = Counter()
        self.notes: list[str] = []
        self.add_source(loaded, train_name)

    def add_source(self, loaded: Loaded, name: str) -> None:
        """Add a split that is used."""
        key = f"{loaded.info.source}:{name}"
        self.rows_read[key] = loaded.rows_read[name]
        self.dropped.update(loaded.dropped.get(name, {}))

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
        "seed": seed,
        "rows_read": counts.rows_read,
        "dropped": dict(sorted(counts.dropped.items())),
        "rows": {name: len(rows) for name, rows in splits.items()},
        **(_reading_facts(splits) if isinstance(task, ReadingTask) else _classification_facts(task, splits)),
    }


def _reading_facts(splits: Mapping[str, Sequence[Question]]) -> dict[str, Any]:
    """Count passages (or what else belongs together) and gold answers per question."""
    return {
        "clusters": {name: len({each.cluster_key for each in rows}) for name, rows in splits.items()},
        "gold_answers": {name: sum(len(each.golds) for each in rows) for name, rows in splits.items()},
    }


def _classification_facts(task: ClassificationTask, splits: Mapping[str, Sequence[Example]]) -> dict[str, Any]:
    return {
        "class_balance": {name: _balance(task, rows) for name, rows in splits.items()},
        "conflicting_texts": _conflicting_texts(splits),
    }


def _balance(task: ClassificationTask, rows: Sequence[Example]) -> dict[str, int]:
    found = Counter(example.gold for example in rows)
    return {label: found[index] for index, label in enumerate(task.labels)}


def _conflicting_texts(splits: Mapping[str, Sequence[Example]]) -> int:
    """Count texts that occur with more than one label: noise that no model can learn."""
    golds: dict[str, set[int]] = {}
    for rows in splits.values():
        for example in rows:
            golds.setdefault(example.cluster_key, set()).add(example.gold)
    return sum(len(values) > 1 for values in golds.values())
