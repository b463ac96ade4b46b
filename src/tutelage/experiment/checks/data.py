"""The rows of every task: read, counted, cut, and such that the teacher can learn from them.

In: a ``Look``. Out: notes with what each label means and how many rows each class has in each split; refusals.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from tutelage.experiment.checks.findings import Finding, Note, guarded
from tutelage.experiment.checks.look import TEACHER, Look

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
        prepared, data = look.prepared(task), _task_data(look, task)
        if prepared is None or data is None:
            continue
        samples = [_sample(prepared.splits[split]) for split in ("train", "test")]
        yield from guarded(("tasks", task, "data"), partial(_use, data, samples))


def _use(data: Any, samples: Sequence[Sequence[Any]]) -> None:
    for sample in samples:
        data.usable_rows(sample)


def _task_data(look: Look, task: str) -> Any | None:
    from tutelage.experiment.task_data import TaskData

    prepared, tokenizer, config = look.prepared(task), look.teacher_tokenizer(), look.teacher_config()
    if prepared is None or tokenizer is None or config is None:
        return None
    end = look.end_of_turn(task, TEACHER, tokenizer, config)
    return None if end is None else TaskData(look.context, prepared, tokenizer, 0, end, look.recipe.tasks[task])


def _sample(rows: Sequence[Any]) -> list[Any]:
    step = max(1, len(rows) // SAMPLE_ROWS)
    return list(rows[::step][:SAMPLE_ROWS])
