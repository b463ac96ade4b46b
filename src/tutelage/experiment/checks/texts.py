"""The tokenizer and chat template that write a task's rows can do so, and what they make of odd words is said.

In: a ``Look``. Out: refusals where a template refuses rows, has no place for parts of them or never ends; notes on
control tokens in words, on unknown tokens that are learnt, and on the day that a template writes.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tutelage.errors import TutelageError
from tutelage.experiment.checks.findings import Finding, Note, guarded
from tutelage.experiment.checks.look import Look

MAX_ROWS = 300  # of a task: a few seconds


def texts_can_be_written(look: Look) -> Iterator[Finding]:
    """Write some rows of every task with the tokenizer that writes them all."""
    for task, section in look.recipe.tasks.items():
        data = look.task_data(task)
        if data is None:
            continue
        yield from _words(task, data.prepared, data.tokenizer)
        if section.kind != "classification":
            yield from _rows(look, task, data)


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


def _rows(look: Look, task: str, data: Any) -> Iterator[Finding]:
    from tutelage.models.template import writes_date

    section, prepared, tokenizer = look.recipe.tasks[task], data.prepared, data.tokenizer
    where = ("tasks", task, "template")
    num_items = sum(map(len, prepared.splits.values()))
    sample = [item for items in prepared.splits.values() for item in items[: _share(len(items), num_items)]]
    unfit = list(guarded(where, lambda: data.kind.check(data)))
    if unfit:
        own_name = ".".join(where)
        yield from (replace(each, message=each.message.removeprefix(own_name).lstrip(": ")) for each in unfit)
        return
    try:
        made = data.kind.rows(data, sample, for_training=True)
    except TutelageError:
        return  # said where rows are made
    if section.kind == "text":
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
