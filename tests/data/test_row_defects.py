"""Rows with a known defect, put back: what is checked of every row must find each of them.

The checks run the package's own way from a question to a batch; a defect replaces one function on that way.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from squad_files import question, reading_task

from tutelage.data import Rows, reading_rows
from tutelage.data.collate import collate
from tutelage.data.prompts import plain_ids
from tutelage.errors import AlignmentError, DataError
from tutelage.train.guards import check_rows
from tutelage.types import StudentRow, row_key

Patch = pytest.MonkeyPatch
Check = Callable[[Any], None]
Defect = Callable[[Patch, Any], None]

CONTEXT = "A: no. Answer: Bee. Ann rules."
LONG_CONTEXT = "Ann rules. " + " ".join(f"word{number}" for number in range(60))
MAX_LENGTH = 200  # of bytes, more or less
# the package gives both functions the names of their modules
rows_module, collate_module = (sys.modules[function.__module__] for function in (reading_rows, collate))
join_row = rows_module.join_row


def rows_over(tokenizer: Any, context: str) -> Rows:
    rows = reading_rows(
        tokenizer,
        reading_task(),
        [question(context, "Ann")],
        max_length=MAX_LENGTH,
        end_of_turn_id=tokenizer.eos_token_id,
    )
    check_rows(rows.rows)  # what every training run begins with
    return rows


def check_targets(tokenizer: Any) -> None:
    """The answer and its end, nothing else."""
    (row,) = rows_over(tokenizer, CONTEXT).rows
    assert tokenizer.decode(row.ids[row.target_mask]) == " Ann<end>"
    assert tokenizer.decode(row.ids[~row.target_mask]) == f"Context: {CONTEXT}\nQuestion: Who?\nAnswer:"


def check_long_rows(tokenizer: Any) -> None:
    """Template, question and answer stay whole; the context gives way."""
    (row,) = rows_over(tokenizer, LONG_CONTEXT).rows
    text = tokenizer.decode(row.ids)
    assert len(row.ids) <= MAX_LENGTH
    assert text.startswith("Context: Ann rules. word0")
    assert text.endswith("\nQuestion: Who?\nAnswer: Ann<end>")


def check_batches(tokenizer: Any) -> None:
    """Every target is a label, no padding is one, and the grid is as wide as its longest row."""
    rows = [*rows_over(tokenizer, CONTEXT).rows, *rows_over(tokenizer, "Ann.").rows]
    batch = collate(rows, pad_id=tokenizer.pad_token_id)  # the end token, as in many tokenizers
    assert tokenizer.decode(batch.labels_N.tolist()) == " Ann<end> Ann<end>"
    assert batch.input_ids.shape[1] == max(len(row.ids) for row in rows)
    following_N = batch.input_ids.flatten()[batch.logit_index_N + 1]
    assert following_N.tolist() == batch.labels_N.tolist()


def remade(row: StudentRow, ids: np.ndarray, target_mask: np.ndarray) -> StudentRow:
    return replace(row, ids=ids.astype(np.int32), target_mask=target_mask, teacher_key=row_key(ids))


def after_joining(change: Callable[[StudentRow, int], StudentRow]) -> Callable[..., StudentRow]:
    """Make a row as ever, then change it, knowing the prompt's length."""

    def join(prompt_ids: np.ndarray, answer_ids: np.ndarray, **settings: Any) -> StudentRow:
        return change(join_row(prompt_ids, answer_ids, **settings), len(prompt_ids))

    return join


def labels_found_by_token_ids(patch: Patch, tokenizer: Any) -> None:
    """Look for the answer's ids in the row; as the answer was normalised, they are other ids."""
    wanted = plain_ids(tokenizer, "ann").tolist()

    def search(row: StudentRow, _: int) -> StudentRow:
        mask = np.zeros(len(row.ids), dtype=bool)
        for at in range(1, len(row.ids) - len(wanted) + 1):
            if row.ids[at : at + len(wanted)].tolist() == wanted:
                mask[at : at + len(wanted)] = True
        return replace(row, target_mask=mask)

    patch.setattr(rows_module, "join_row", after_joining(search))


def targets_cut_by_max_length(patch: Patch, tokenizer: Any) -> None:
    """Join everything, then keep the first ``max_length`` tokens."""
    patch.setattr(rows_module, "_part", lambda tokenizer, prompt, *args, **settings: prompt)
    cut = after_joining(lambda row, _: remade(row, row.ids[:MAX_LENGTH], row.target_mask[:MAX_LENGTH]))
    patch.setattr(rows_module, "join_row", cut)


def question_cut_from_the_right(patch: Patch, tokenizer: Any) -> None:
    """Shorten the filled template at its end, where the question is."""

    def shorten(tokenizer: Any, prompt: Any, *args: Any, room: int, **settings: Any) -> Any:
        return replace(prompt, context=prompt.context[: room - 40], after="")

    patch.setattr(rows_module, "_part", shorten)


def prompts_supervised(patch: Patch, tokenizer: Any) -> None:
    """Learn the prompt too."""

    def everything(row: StudentRow, _: int) -> StudentRow:
        return replace(row, target_mask=np.arange(len(row.ids)) > 0)

    patch.setattr(rows_module, "join_row", after_joining(everything))


def first_token_supervised(patch: Patch, tokenizer: Any) -> None:
    """Learn the whole row, its first token included, which nothing predicts."""
    patch.setattr(
        rows_module,
        "join_row",
        after_joining(lambda row, _: replace(row, target_mask=np.ones(len(row.ids), dtype=bool))),
    )


def end_masked_with_padding(patch: Patch, tokenizer: Any) -> None:
    """Leave out of the targets whatever equals the padding token: the end of turn goes with it."""

    def unpadded(row: StudentRow, _: int) -> StudentRow:
        return replace(row, target_mask=row.target_mask & (row.ids != tokenizer.pad_token_id))

    patch.setattr(rows_module, "join_row", after_joining(unpadded))


def answer_marker_doubled(patch: Patch, tokenizer: Any) -> None:
    """Write the template's last word again before the answer."""
    marker = plain_ids(tokenizer, " Answer:")
    patch.setattr(
        rows_module,
        "join_row",
        lambda prompt, answer, **settings: join_row(np.concatenate([prompt, marker]), answer, **settings),
    )


def prompt_split_at_the_first_marker(patch: Patch, tokenizer: Any) -> None:
    """Take all behind the first "A:" of the text for the answer."""

    def split(row: StudentRow, _: int) -> StudentRow:
        start = len(plain_ids(tokenizer, tokenizer.decode(row.ids).split("A:")[0] + "A:"))
        return replace(row, target_mask=np.arange(len(row.ids)) >= start)

    patch.setattr(rows_module, "join_row", after_joining(split))


def pads_supervised(patch: Patch, tokenizer: Any) -> None:
    """Fill rows up before the batch is made, and learn what fills them."""

    def fill(row: StudentRow, _: int) -> StudentRow:
        ids = np.concatenate([row.ids, np.full(MAX_LENGTH - len(row.ids), tokenizer.pad_token_id)])
        return remade(row, ids, np.concatenate([row.target_mask, np.ones(MAX_LENGTH - len(row.ids), dtype=bool)]))

    patch.setattr(rows_module, "join_row", after_joining(fill))


def mask_unshifted_by_one(patch: Patch, tokenizer: Any) -> None:
    """Read the logit at the target, which predicts the token behind it."""
    patch.setattr(collate_module, "logit_indices", np.flatnonzero)


CAUGHT: list[tuple[Defect, Check, type[Exception]]] = [
    (labels_found_by_token_ids, check_targets, DataError),
    (targets_cut_by_max_length, check_long_rows, DataError),
    (question_cut_from_the_right, check_long_rows, AssertionError),
    (prompts_supervised, check_targets, AssertionError),
    (first_token_supervised, check_batches, AlignmentError),
    (end_masked_with_padding, check_targets, AssertionError),
    (answer_marker_doubled, check_targets, AssertionError),
    (prompt_split_at_the_first_marker, check_targets, AssertionError),
    (pads_supervised, check_batches, AssertionError),
    (mask_unshifted_by_one, check_batches, AssertionError),
]


@pytest.mark.parametrize("check", [check_targets, check_long_rows, check_batches], ids=lambda check: check.__name__)
def test_what_must_hold_of_every_row_does(tokenizer, check):
    check(tokenizer)


@pytest.mark.parametrize(("defect", "check", "error"), CAUGHT, ids=lambda part: part.__name__)
def test_a_defect_of_the_rows_is_caught(tokenizer, monkeypatch, defect, check, error):
    defect(monkeypatch, tokenizer)
    with pytest.raises(error):
        check(tokenizer)
