"""Every model's tokenizer and chat template can write a task's rows, and what it makes of odd words is said.

In: a ``Look``. Out: refusals where a template refuses rows, has no place for parts of them or never ends; notes on
control tokens in words, on unknown tokens that are learnt, and on the day that a template writes.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tutelage.errors import TutelageError
from tutelage.experiment.checks.findings import Finding, Note, Refusal, guarded
from tutelage.experiment.checks.look import TEACHER, Look

MAX_ROWS = 300  # of a task, looked at by each tokenizer: a few seconds


def texts_can_be_written(look: Look) -> Iterator[Finding]:
    """Write some rows of every task with every tokenizer."""
    for task, section in look.recipe.tasks.items():
        prepared = look.prepared(task)
        if prepared is None:
            continue
        for who, tokenizer, config in _readers(look):
            yield from _words(task, prepared, tokenizer)
            if section.kind != "classification":
                yield from _rows(look, task, who, prepared, tokenizer, config)


def _readers(look: Look) -> Iterator[tuple[str, Any, Any]]:
    """Yield every tokenizer that is read, with the model's configuration."""
    own = [name for name, student in look.recipe.students.items() if student.model is not None]
    found = [(TEACHER, look.teacher_tokenizer(), look.teacher_config())]
    found += [(f"student {name}", look.student_tokenizer(name), look.student_config(name)) for name in own]
    for who, tokenizer, config in found:
        if tokenizer is not None and config is not None:
            yield who, tokenizer, config


def _words(task: str, prepared: Any, tokenizer: Any) -> Iterator[Finding]:
    """Count the rows in whose words a control token's name stands."""
    from tutelage.align import control_tokens

    controls, names, num_rows = control_tokens(tokenizer), Counter[str](), 0
    for items in prepared.splits.values():
        for item in items:
            texts = [turn.content for turn in item.turns] if hasattr(item, "turns") else item.fields.values()
            found = {match.group() for text in texts for match in controls.pattern.finditer(text)}
            names.update(found)
            num_rows += bool(found)
    if num_rows:
        shown = ", ".join(repr(name) for name, _ in names.most_common(3))
        yield Note(
            ("tasks", task, "data"),
            f"{num_rows:,} rows hold names of control tokens ({shown}); they are tokenised as text, not as the tokens",
        )


def _rows(look: Look, task: str, who: str, prepared: Any, tokenizer: Any, config: Any) -> Iterator[Finding]:
    from tutelage.data.counts import left_out_problems
    from tutelage.experiment.task_data import TaskData
    from tutelage.models.template import writes_date

    section = look.recipe.tasks[task]
    where = ("tasks", task, "template")
    num_items = sum(map(len, prepared.splits.values()))
    sample = [item for items in prepared.splits.values() for item in items[: _share(len(items), num_items)]]
    end = look.end_of_turn(task, who, tokenizer, config)
    if end is None:
        return
    data = TaskData(look.context, prepared, tokenizer, 0, end, section)
    unfit = list(guarded(where, lambda: data.kind.check(data)))
    if unfit:
        own_name = ".".join(where)
        yield from (replace(each, message=each.message.removeprefix(own_name).lstrip(": ")) for each in unfit)
        return
    try:
        made = data.kind.rows(data, sample, for_training=True)
    except TutelageError as error:
        if who != TEACHER:  # the teacher's rows have a check of their own
            yield Refusal(where, f"{who}: {error}")
        return
    if section.kind == "text":
        if who != TEACHER:
            for key, message in left_out_problems(made.left_out, len(sample), allowed=section.data.max_left_out):
                yield Refusal(
                    ("tasks", task, "data", *key), f"{who}, of {len(sample):,} rows that were tried: {message}"
                )
        if writes_date(tokenizer) and section.template != "plain":
            yield Note(where, f"the chat template writes the date: {data.date or 'today, recorded by `prepare`'}")
        elif section.date is not None:
            yield Note(("tasks", task, "date"), "has no effect: the chat template does not ask for the date")
    unknown = tokenizer.unk_token_id
    num_unknown = 0 if unknown is None else sum(unknown in row.ids[row.target_mask] for row in made.rows)
    if num_unknown:
        yield Note(
            where,
            f"{num_unknown:,} of {len(made.rows):,} rows teach the unknown token {tokenizer.unk_token!r}: "
            "this tokenizer lacks some of their characters or words",
        )


def _share(num_items: int, num_all: int) -> int:
    """Return how many of a split's items are tried."""
    return num_items if num_all <= MAX_ROWS else -(-num_items * MAX_ROWS // num_all)
