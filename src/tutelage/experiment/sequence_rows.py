"""The rows of the method ``sequence``: an exact share of the items learns what the teacher wrote, the others gold.

In: a task's training rows, the teacher's stored answers, the share. Out: one row per item, and their counts.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tutelage.cache.sequences import Answer
from tutelage.data import WrittenAnswer
from tutelage.errors import DataError
from tutelage.experiment.sequences import SPLIT, task_prompts
from tutelage.experiment.task_data import TaskData
from tutelage.experiment.teach import Taught, sequences_column_of
from tutelage.teacher.sequences import read_sequences
from tutelage.types import StudentRow

RAW = "raw"  # the column's template where prompts are not turns of a chat
MIN_LABEL_SHARE = 0.5  # of taught rows in the words of a label; fewer in a classification bring a warning


@dataclass(frozen=True)
class SequenceRows:
    """One row per item, in the order of the items, and what the rows hold."""

    rows: list[StudentRow]
    num_gold: int  # items that learn the gold answer
    num_taught: int  # items that learn what the teacher wrote
    num_cut: int  # of those: answers cut at the limit, which have no end to learn
    num_gold_worded: int  # of those: targets that are, token for token, the gold answer of some item
    num_left_out: int  # items without a usable answer of the teacher

    @property
    def counts(self) -> dict[str, int]:
        """What ``run.json`` keeps."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "rows"}


def sequence_rows(
    data: TaskData,
    taught: Taught,
    gold_rows: Sequence[StudentRow],
    *,
    share: float,
    seed: int,
    permuted: bool = False,
    what: str,
) -> SequenceRows:
    """Make the rows of one run, and show how they came about.

    Args:
        data: The task as the student reads it.
        taught: What the teach stage stored.
        gold_rows: The training rows with gold answers, as the baseline learns them.
        share: Of the items, those that learn the teacher's answer; in (0, 1].
        seed: Decides which items these are, and which sample where the teacher wrote several.
        permuted: Give every such item the answer that another one should have had: the control.
        what: Names the rows in what is shown.

    Raises:
        DataError: If no item would learn from the teacher, or nothing can be permuted.
        CacheError: If the answers are not in the cache.
    """
    examples = data.prepared.splits[SPLIT]
    answers = choose_samples(
        {example.item_key: samples for example, samples in zip(examples, stored_answers(data, taught), strict=True)},
        seed=seed,
    )
    made = mixed_rows(data, gold_rows, answers, share=share, seed=seed, permuted=permuted, what=what)
    data.context.show(
        f"  {what}: {made.num_taught:,} items learn the teacher's answer ({made.num_cut:,} of them cut, without an "
        f"end), {made.num_gold:,} the gold one, {made.num_left_out:,} left out"
    )
    if (warning := wording_warning(data, made)) is not None:
        data.context.show(f"  warning: {warning}")
    return made


def stored_answers(data: TaskData, taught: Taught) -> list[list[Answer]]:
    """Read what the teacher wrote to the training prompts: per example its samples.

    The prompts are made again as in the teach stage: one tokenizer and template write them for all.

    Raises:
        CacheError: If a prompt has no stored answers, or they are damaged.
    """
    column = sequences_column_of(taught.facts)
    assert column is not None, "a recipe with a method that reads sequences has the signal"
    room = data.max_length - column.max_new_tokens
    prompts, _ = task_prompts(data, data.prepared.splits[SPLIT], chat=column.template != RAW, room=room)
    return read_sequences(data.context.folders.cache, taught.facts["fingerprint"], column, prompts)


def choose_samples(samples: Mapping[str, Sequence[Answer]], *, seed: int) -> dict[str, WrittenAnswer]:
    """Choose one answer per item, by its key and the seed alone: not by how long or how good it is."""
    chosen = {}
    for item_key, answers in samples.items():
        answer = answers[draw(item_key, seed=seed, purpose="sample") % len(answers)]
        chosen[item_key] = WrittenAnswer(answer.text, has_ended=answer.finish == "stop")
    return chosen


def choose_items(item_keys: Sequence[str], *, share: float, seed: int) -> list[str]:
    """Choose ``round(share * n)`` of n items, in an order that only their keys and the seed decide.

    Neither labels nor lengths are looked at. Under one seed a smaller share is a part of a larger one.
    """
    order = sorted(item_keys, key=lambda item_key: (draw(item_key, seed=seed, purpose="share"), item_key))
    return order[: round(share * len(order))]


def draw(item_key: str, *, seed: int, purpose: str) -> int:
    """Return 64 bits that are a pure function of item, seed and purpose."""
    digest = hashlib.blake2b(item_key.encode(), digest_size=8, key=f"{purpose}/{seed}".encode())
    return int.from_bytes(digest.digest(), "little")


def mixed_rows(
    data: TaskData,
    gold_rows: Sequence[StudentRow],
    answers: Mapping[str, WrittenAnswer],
    *,
    share: float,
    seed: int,
    permuted: bool = False,
    what: str = "",
) -> SequenceRows:
    """Mix gold rows and rows with the teacher's answers: one row per item that has both.

    An item whose answer is empty or too long is left out under every share, so that shares differ in targets, not in
    items.

    Raises:
        DataError: If no item would learn from the teacher, or nothing can be permuted.
    """
    gold = {row.item_key: row for row in gold_rows}
    written = taught_rows(data, {item_key: answers[item_key] for item_key in gold}, what=what)
    items = [item_key for item_key in gold if item_key in written]
    chosen = choose_items(items, share=share, seed=seed)
    if not chosen:
        raise DataError(
            f"lambda {share:g} of {len(items):,} items with a usable answer of the teacher ({len(gold) - len(items):,} "
            "without one) is no item at all. Raise `lambda`, give more rows, or look at what the teacher wrote."
        )
    used = {item_key: answers[item_key] for item_key in chosen}
    if permuted:
        used = rotated(used)
        written = taught_rows(data, used)
    targets = {item_key: written[item_key] for item_key in chosen}
    gold_targets = {target_ids(row) for row in gold_rows}
    return SequenceRows(
        rows=[targets.get(item_key, gold[item_key]) for item_key in items],
        num_gold=len(items) - len(chosen),
        num_taught=len(chosen),
        num_cut=sum(not answer.has_ended for answer in used.values()),
        num_gold_worded=sum(target_ids(row) in gold_targets for row in targets.values()),
        num_left_out=len(gold) - len(items),
    )


def taught_rows(data: TaskData, answers: Mapping[str, WrittenAnswer], *, what: str = "") -> dict[str, StudentRow]:
    """Return the rows of the items whose answer is usable, by item."""
    examples = [example for example in data.prepared.splits[SPLIT] if example.item_key in answers]
    rows = data.written_rows(examples, [answers[example.item_key] for example in examples], what=what)
    return {row.item_key: row for row in rows}


def rotated(answers: Mapping[str, WrittenAnswer]) -> dict[str, WrittenAnswer]:
    """Give every item the answer of the next one: the same answers, so the same lengths, at other prompts.

    Raises:
        DataError: If no item would get another text than its own.
    """
    given = [*answers.values()]
    moved = [*given[1:], *given[:1]]
    if all(own.words == other.words for own, other in zip(given, moved, strict=True)):
        raise DataError(
            f"The permuted control needs at least two items with different answers of the teacher, found "
            f"{len(given):,} items with {len({each.words for each in given})} answer. Give more rows, or leave the "
            "control out."
        )
    return dict(zip(answers, moved, strict=True))


def target_ids(row: StudentRow) -> tuple[int, ...]:
    """Return the tokens that a row supervises."""
    return tuple(row.ids[row.target_mask].tolist())


def wording_warning(data: TaskData, made: SequenceRows) -> str | None:
    """Say so where the rows teach other words than those by which a classification is scored."""
    labels = data.kind.sequence_golds(data.prepared.task, ())["labels"]
    if labels is None or made.num_gold_worded >= MIN_LABEL_SHARE * made.num_taught:
        return None
    return (
        f"{made.num_gold_worded:,} of {made.num_taught:,} answers of the teacher are worded like a label "
        f"({', '.join(labels)}), and a student is scored by these words. Ask for them in the template, set `template: "
        "raw` on the signal, or make what the teacher writes the verbalisers."
    )
