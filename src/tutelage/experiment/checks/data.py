"""The rows of every task: read, counted, cut, and such that the teacher can learn from them.

In: a ``Look``. Out: notes with what each label means and how many rows each class has in each split; refusals.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from tutelage.experiment.checks.findings import Finding, Note, guarded
from tutelage.experiment.checks.look import Look

SAMPLE_ROWS = 256  # enough to see a share of 5 %; all of them may take minutes


def rows_can_be_cut(look: Look) -> Iterator[Finding]:
    """Read every task's rows and cut them; what is wrong with them is in ``look.failures``."""
    from tutelage.data import data_lines

    for task in look.recipe.tasks:
        prepared = look.prepared(task)
        for line in data_lines(prepared.info) if prepared is not None else ():
            yield Note(("tasks", task, "data"), f"{task}: {line}")


def rows_can_be_learnt(look: Look) -> Iterator[Finding]:
    """Turn a sample of every task's rows into tokens, as the stages will, and refuse where too many are left out."""
    for task in look.recipe.tasks:
        prepared, data = look.prepared(task), look.task_data(task)
        if prepared is None or data is None:
            continue
        samples = [rows_to_try(prepared.splits[split]) for split in ("train", "test")]
        yield from guarded(("tasks", task, "data"), partial(_use, data, samples))


def _use(data: Any, samples: Sequence[Sequence[Any]]) -> None:
    for sample in samples:
        data.usable_rows(sample)


def rows_to_try(rows: Sequence[Any]) -> list[Any]:
    """Return some rows from all over a split."""
    step = max(1, len(rows) // SAMPLE_ROWS)
    return list(rows[::step][:SAMPLE_ROWS])
