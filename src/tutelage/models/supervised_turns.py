"""Which tokens of a conversation the assistant wrote, under the tokenizer's own chat template.

In: messages. Out: token ids and the assistant's spans, each with its end of turn; never found by searching for words.

A template with ``{% generation %}`` marks the spans itself. Any other is rendered up to every answer, with its
generation prompt: the tokens of that beginning have to be the beginning of the whole conversation's tokens, as they are
when the model is asked. Where they are not, nothing is guessed.
"""

import re
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from tutelage.align import Encoded, encode_with_offsets
from tutelage.errors import AlignmentError, DataError, ModelError
from tutelage.models.template import Message, Turns, render

GENERATION_BLOCK = re.compile(r"\{%-?\s*generation\s*-?%\}")
ASSISTANT = "assistant"
Span = tuple[int, int]


def marks_turns(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether the chat template itself says which tokens the assistant writes, and the tokenizer can tell."""
    template = tokenizer.chat_template
    has_marks = isinstance(template, str) and GENERATION_BLOCK.search(template) is not None
    return has_marks and bool(tokenizer.is_fast)


def supervised_turns(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    *,
    end_of_turn_id: int,
    learnt: Sequence[bool] | None = None,
    tools: Sequence[Any] | None = None,
    date: str | None = None,
) -> tuple[list[int], list[Span]]:
    """Tokenise a conversation and find what the assistant says in it.

    Args:
        tokenizer: One with a chat template.
        messages: In order, with at least one of the assistant; answers without words are no targets.
        end_of_turn_id: The token that the template writes after an answer. One that writes none there gets it behind
            the last answer, so that a model learns to stop.
        learnt: Of each message whether an answer in it is a target; None: every one.
        tools: Functions that the template shows to the model.
        date: The day that a template writes which asks for it; None: today.

    Returns:
        The ids, and a span ``[start, end)`` per answer that is a target, its end of turn included.

    Raises:
        ModelError: If there is no chat template, its own marks cover nothing, or it takes too much time.
        AlignmentError: If the answers' tokens cannot be proven; says what to do.
        DataError: If the template refuses the messages.
    """
    if not tokenizer.chat_template:
        raise ModelError("The tokenizer has no chat template. Set the task's `template: plain`, or `auto`.")
    said = [i for i, turn in enumerate(messages) if turn["role"] == ASSISTANT and turn["content"].strip()]
    wanted = [i for i in said if learnt is None or learnt[i]]
    shown = {"tools": tools, "date": date}
    if marks_turns(tokenizer):
        return _marked(tokenizer, messages, said, wanted, end_of_turn_id, shown)
    return _derived(tokenizer, messages, wanted, end_of_turn_id, shown)


def _marked(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    said: list[int],
    wanted: list[int],
    end_of_turn_id: int,
    shown: dict[str, Any],
) -> tuple[list[int], list[Span]]:
    (made,) = render(tokenizer, [Turns(messages, marks=True)], **shown)
    found = encode_with_offsets(tokenizer, made.text, made.control)
    marked = [span for span in made.marked if span[0] < span[1]]
    if said and not marked:
        raise ModelError(
            "The chat template's own generation marks cover none of the assistant's words. Remove them from the "
            "template, so that the turns are found by rendering it, or set the task's `template: plain`."
        )
    every = [i for i, turn in enumerate(messages) if turn["role"] == ASSISTANT]
    places = said if len(marked) == len(said) else every
    if len(marked) != len(places):
        raise AlignmentError(
            f"The conversation has {len(said)} answers, but {len(marked)} marked by the chat template. Correct its "
            "{% generation %} marks, or set the task's `template: plain`."
        )
    spans = [_marked_span(found, start, end, end_of_turn_id) for start, end in marked]
    ids, spans = _ended(found.ids, spans, end_of_turn_id)
    return ids, [span for place, span in zip(places, spans, strict=True) if place in wanted]


def _marked_span(found: Encoded, start: int, end: int, end_of_turn_id: int) -> Span:
    """Return the tokens of marked characters, up to the first end of turn.

    Some templates leave that token outside of the marks: a model that never learns it never stops.
    """
    inside = [at for at, (a, b) in enumerate(found.offsets) if a < end and b > start]
    if not inside:
        return 0, 0
    first, last = inside[0], inside[-1] + 1
    ends = [at for at in range(first, min(last + 1, len(found.ids))) if found.ids[at] == end_of_turn_id]
    return first, ends[0] + 1 if ends else last


def _derived(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    wanted: list[int],
    end_of_turn_id: int,
    shown: dict[str, Any],
) -> tuple[list[int], list[Span]]:
    if wanted[:1] == [0]:
        raise DataError("The assistant speaks first, and the template cannot be rendered up to there. Add a question.")
    asked = [Turns(messages)]
    for number in wanted:
        asked += [Turns(messages[:number], asks=True), Turns(messages[: number + 1])]
    made = render(tokenizer, asked, **shown)
    whole, *parts = [encode_with_offsets(tokenizer, each.text, each.control).ids for each in made]
    spans: list[Span] = []
    for number, before, answered in zip(wanted, parts[::2], parts[1::2], strict=True):
        end = _end_of(answered, len(before), end_of_turn_id)
        if end <= len(before) or whole[: len(before)] != before or whole[:end] != answered[:end]:
            raise AlignmentError(_unproven(tokenizer, number, whole, before, answered[:end]))
        spans.append((len(before), end))
    return _ended(whole, spans, end_of_turn_id)


def _end_of(ids: list[int], start: int, end_of_turn_id: int) -> int:
    """Return the place behind the last end of turn at or behind ``start``; without one, that behind the last token."""
    places = [place for place in range(start, len(ids)) if ids[place] == end_of_turn_id]
    return places[-1] + 1 if places else len(ids)


def _ended(ids: list[int], spans: list[Span], end_of_turn_id: int) -> tuple[list[int], list[Span]]:
    """Write the end of turn behind the last answer where the template has none, as where it ends turns with words."""
    if not spans or end_of_turn_id in ids[slice(*spans[-1])]:
        return ids, spans
    start, end = spans[-1]
    return [*ids[:end], end_of_turn_id], [*spans[:-1], (start, end + 1)]


def _unproven(
    tokenizer: PreTrainedTokenizerBase, number: int, whole: list[int], asked: list[int], answered: list[int]
) -> str:
    wrong = asked if whole[: len(asked)] != asked else answered
    place = next((i for i, (a, b) in enumerate(zip(wrong, whole, strict=False)) if a != b), min(len(wrong), len(whole)))
    reader: Any = tokenizer  # its methods reach the type checker through __getattr__
    return (
        f"The chat template does not write a conversation's beginning as it writes the whole: rendered up to turn "
        f"{number}, token {place} is {reader.decode(wrong[place : place + 1])!r} and in the whole conversation "
        f"{reader.decode(whole[place : place + 1])!r}, so the assistant's tokens cannot be told. Give the template "
        "{% generation %} marks around the assistant's words, keep one answer per conversation, or set the task's "
        "`template: plain`."
    )
