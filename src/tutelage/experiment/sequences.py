"""The teacher's own answers to a task's training prompts: a part of the stage ``teach``.

In: the recipe's signal ``sequences``, a loaded teacher with its task. Out: shards in the cache, and figures for
``teach.json``; a set that is not fit to learn from stops the stage.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

from tutelage.experiment.stage import Context

SPLIT = "train"  # students learn from these rows; no other split needs answers
ADAPTED_TO_RAW = (
    "the teacher was adapted to the task's bare template, but its answers are asked for as turns of a chat, which may "
    "undo what it learnt; set `template: raw` on the signal `sequences`"
)


def sequence_facts(
    context: Context, lesson: Any, fingerprint: str, *, should_stop: Callable[[], bool] | None = None
) -> dict[str, Any]:
    """Generate what the recipe's signal ``sequences`` asks for, unless it is stored, and judge it.

    Args:
        context: The run.
        lesson: The loaded teacher with its tokenizer, task and splits.
        fingerprint: Of the teacher.
        should_stop: Asked before every shard.

    Returns:
        ``{"sequences": ..}`` with the column's spec, the digest, the figures and, where ``allow_bad`` let it pass, what
        is wrong; nothing when the recipe has no such signal.

    Raises:
        DataError: If the answers are not fit to learn from and the recipe does not allow it.
    """
    signal = next((each for each in context.recipe.signals if each.kind == "sequences"), None)
    if signal is None:
        return {}
    from tutelage.build import sequence_decoding
    from tutelage.models.chat import turn_markers
    from tutelage.teacher.sequence_quality import measure_quality, require_quality, template_openers
    from tutelage.teacher.sequences import generate_sequences, read_sequences, sequences_column, uses_chat

    data, task, examples = lesson.data, lesson.data.prepared.task, lesson.splits[SPLIT]
    chat = uses_chat(data.tokenizer, signal.template)
    if chat and context.is_adapted:
        context.show(f"  warning: {ADAPTED_TO_RAW}")
    decoding = sequence_decoding(signal, data.tokenizer, lesson.model, chat=chat)
    column = sequences_column(lesson.model, decoding, tokenizer=data.tokenizer if chat else None)
    prompts, num_shortened = task_prompts(data, examples, chat=chat, room=data.max_length - signal.max_new_tokens)
    report = generate_sequences(
        lesson.model,
        data.tokenizer,
        prompts,
        column=column,
        root=context.folders.cache,
        fingerprint=fingerprint,
        token_budget=context.recipe.evaluate.token_budget,
        progress=context.progress("sequences"),
        provenance=lesson.provenance(context) | {"chat_template": data.tokenizer.chat_template if chat else None},
        should_stop=should_stop,
    )
    quality = measure_quality(
        read_sequences(context.folders.cache, fingerprint, column, prompts),
        markers=(*(turn_markers(data.tokenizer) if chat else ()), *template_openers(task.template)),
        **data.kind.sequence_golds(task, examples),
    )
    context.show(
        f"sequences: {report.computed:,} prompts answered, {report.reused:,} reused, "
        f"{report.tokens_per_second:,.0f} tokens/s; {num_shortened:,} texts shortened"
    )
    context.show(f"  {quality.summary}")
    allowed = require_quality(quality, allow_bad=signal.allow_bad)
    for problem in allowed:
        context.show(f"  allowed by the recipe: {problem}")
    facts = {"column": column.spec, "digest": report.digest, "num_shortened": num_shortened, "allowed": list(allowed)}
    return {"sequences": facts | {"quality": asdict(replace(quality, examples=()))}}


def task_prompts(data: Any, examples: Sequence[Any], *, chat: bool, room: int) -> tuple[list[Any], int]:
    """Return the prompts' rows in the order of the examples, and how many texts were shortened to fit.

    Raises:
        DataError: If the templates alone leave no room for a text.
    """
    from tutelage.data.prompts import fit_prompts
    from tutelage.models.chat import ChatTurns
    from tutelage.teacher.sequences import row_of_prompt

    fitted = fit_prompts(
        ChatTurns(data.tokenizer, date=data.date) if chat else data.tokenizer,
        [data.prepared.task.filled(example) for example in examples],
        room=room,
        item_keys=[example.item_key for example in examples],
    )
    return [row_of_prompt(ids) for ids in fitted.ids], fitted.num_shortened
