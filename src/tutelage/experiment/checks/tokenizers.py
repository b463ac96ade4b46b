"""One tokenizer writes every row, and every model can read them.

In: a ``Look``. Out: refusals of models of another family and of rows with tokens that a model lacks; notes on what
differs between the tokenizers, templates and ends of turn.
"""

import re
from collections.abc import Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tutelage.config import grid_points, signals_read, with_point
from tutelage.errors import TutelageError
from tutelage.experiment.checks.data import rows_to_try
from tutelage.experiment.checks.findings import Finding, Key, Note, Refusal, guarded, refusals
from tutelage.experiment.checks.look import Look
from tutelage.experiment.writer import RowWriter, reader_of

if TYPE_CHECKING:
    from tutelage.align import Reader

NUM_NAMED = 3  # tokens that a note names


def tokenizers_agree(look: Look) -> Iterator[Finding]:
    """Compare every model's tokenizer with the one that writes the rows, and the rows with what each model can read."""
    writer = look.writer()
    if writer is None:
        return
    others = [name for name, section in look.recipe.students.items() if section.model is not None]
    logits = {}
    for student in (None, *others):
        reader = yield from _reader(look, writer, student)
        if reader is not None:
            yield from _rows(look, writer, reader)
            logits[student] = min(reader.num_ids, writer.num_ids)
    yield from _draws(look, logits)


def _draws(look: Look, logits: Mapping[str | None, int]) -> Iterator[Finding]:
    """Refuse draws of a teacher for a student without a logit for each of its tokens: padding plays no part in it."""
    readers = [name for name, method in look.recipe.methods.items() if _reads_draws(method)]
    short = [student for student, number in logits.items() if number != logits.get(None, number)]
    for student in short if readers else ():
        few = "the teacher" if logits[None] < logits[student] else f"student {student}"
        yield Refusal(
            ("methods", readers[0]),
            f"reads `sampled`, which needs one number of tokens in teacher and student; found {logits[None]:,} in the "
            f"teacher and {logits[student]:,} in student {student}. Set `resize_embeddings: true` for {few}, or read "
            "final_hidden or topk.",
        )


def _reads_draws(method: Any) -> bool:
    points = [with_point(method, point) for point in grid_points(method)]
    return any("sampled" in signals_read(each).values() for each in points)


def _reader(look: Look, writer: RowWriter, student: str | None) -> "Generator[Finding, None, Reader | None]":
    key: Key = ("teacher", "model") if student is None else ("students", student, "model")
    own, config = look.tokenizer_of(student), look.config_of(student)
    if own is None or config is None:
        return None
    num_ids = _num_ids(look, student, own, config)
    try:
        reader = reader_of(look.context, writer, student, num_ids=num_ids, tokenizer=own)
    except TutelageError as error:
        yield from refusals(key, error)
        return None
    yield from (Note(key, line) for line in _differences(look, writer, student, own, config, num_ids))
    return reader


def _rows(look: Look, writer: RowWriter, reader: "Reader") -> Iterator[Finding]:
    """Write rows, where any token at all could be unreadable: a sample, and every row whose words name such a token."""
    unreadable = {token for token, number in writer.tokenizer.get_vocab().items() if number >= reader.num_ids}
    names = unreadable | set(reader.foreign.values())
    if not names:
        return
    pattern = re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))))
    for task in look.recipe.tasks:
        data = look.task_data(task)
        if data is None:
            continue
        items = [item for split in data.prepared.splits.values() for item in split]
        tried = {id(item): item for item in (*rows_to_try(items), *(each for each in items if _names(each, pattern)))}
        try:
            rows = data.kind.rows(data, [*tried.values()], for_training=True).rows
        except TutelageError:
            continue  # said where rows are written
        yield from guarded(("tasks", task, "data"), lambda rows=rows, data=data: data.require_readable(rows, reader))


def _names(item: Any, pattern: re.Pattern[str]) -> bool:
    texts = [turn.content for turn in item.turns] if hasattr(item, "turns") else item.fields.values()
    return any(pattern.search(text) for text in texts)


def _num_ids(look: Look, student: str | None, own: Any, config: Any) -> int:
    """Return how many ids a model has embeddings for once it is loaded."""
    from tutelage.align import num_token_ids

    section = look.recipe.teacher if student is None else look.recipe.students[student]
    found = int(config.get_text_config().vocab_size)
    return max(found, num_token_ids(own)) if section.resize_embeddings else found


def _differences(
    look: Look, writer: RowWriter, student: str | None, own: Any, config: Any, num_ids: int
) -> Iterator[str]:
    """Say in what a model's tokenizer is not the one that writes the rows."""
    from tutelage.align import compare_vocabularies
    from tutelage.models.load import end_of_turn_id

    who, own_ids = "the teacher" if student is None else f"student {student}", own.get_vocab()
    beyond = {number: token for token, number in sorted(own_ids.items(), key=lambda each: each[1]) if number >= num_ids}
    if beyond:
        yield (
            f"{who}: {len(beyond):,} of {len(own_ids):,} tokens have no embedding ({_listed(beyond)}); rows that use "
            "them are refused"
        )
    names = (who, writer.name)
    found = compare_vocabularies(own, writer.tokenizer, names=names)
    parts = [
        f"{len(tokens):,} {what} ({_listed(tokens)})"
        for what, tokens in (
            (f"only {who} has", found.only_first),
            (f"only {writer.name} has", found.only_second),
            ("have other names", {number: " / ".join(pair) for number, pair in found.renamed.items()}),
        )
        if tokens
    ]
    if parts:
        yield f"tokenizers of {who} and {writer.name}: {found.num_shared:,} tokens are shared, {', '.join(parts)}"
    ends = (
        own.convert_ids_to_tokens(end_of_turn_id(own, config)),
        writer.tokenizer.convert_ids_to_tokens(writer.end_of_turn_id),
    )
    has_other_template = own.chat_template != writer.tokenizer.chat_template
    if has_other_template or ends[0] != ends[1]:
        template = "no chat template" if not own.chat_template else "another chat template"
        traits = [template] if has_other_template else []
        traits += [f"the end of turn {ends[0]!r} in place of {ends[1]!r}"] if ends[0] != ends[1] else []
        source = writer.name if look.recipe.chat_template in ("teacher", *look.recipe.students) else "the given file"
        kept = "" if student is None else ", and the saved student carries both"
        yield (
            f"{who} has {' and '.join(traits)}: every row is written with the template and end of turn of {source} "
            f"(`chat_template: {look.recipe.chat_template}`){kept}"
        )


def _listed(tokens: Mapping[int, str]) -> str:
    shown = [repr(token) for token in list(tokens.values())[:NUM_NAMED]]
    return ", ".join(shown) + (", ..." if len(tokens) > NUM_NAMED else "")
