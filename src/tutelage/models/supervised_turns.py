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

from tutelage.errors import AlignmentError, DataError, ModelError
from tutelage.models.chat import TEMPLATE_ERRORS, Message
from tutelage.models.source import one_line

GENERATION_BLOCK = re.compile(r"\{%-?\s*generation\s*-?%\}")
ASSISTANT = "assistant"
Span = tuple[int, int]


def marks_turns(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether the chat template itself says which tokens the assistant writes, and the tokenizer can tell."""
    template = tokenizer.chat_template
    has_marks = isinstance(template, str) and GENERATION_BLOCK.search(template) is not None
    return has_marks and bool(tokenizer.is_fast)


def supervised_turns(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, end_of_turn_id: int
) -> tuple[list[int], list[Span]]:
    """Tokenise a conversation and find what the assistant says in it.

    Args:
        tokenizer: One with a chat template.
        messages: In order, with at least one of the assistant; answers without words are no targets.
        end_of_turn_id: The token that the template writes after an answer. One that writes none there gets it behind
            the last answer, so that a model learns to stop.

    Returns:
        The ids, and a span ``[start, end)`` per answer, its end of turn included.

    Raises:
        ModelError: If there is no chat template, or its own marks cover nothing.
        AlignmentError: If the answers' tokens cannot be proven; says what to do.
        DataError: If the template refuses the messages.
    """
    if not tokenizer.chat_template:
        raise ModelError("The tokenizer has no chat template. Set the task's `template: plain`, or `auto`.")
    turns = [dict(message) for message in messages]
    answers = [i for i, turn in enumerate(turns) if turn["role"] == ASSISTANT and turn["content"].strip()]
    if marks_turns(tokenizer):
        return _marked(tokenizer, turns, answers, end_of_turn_id)
    return _derived(tokenizer, turns, answers, end_of_turn_id)


def _marked(
    tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]], answers: list[int], end_of_turn_id: int
) -> tuple[list[int], list[Span]]:
    made: Any = _apply(tokenizer, turns, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    ids, mask = list(made["input_ids"]), list(made["assistant_masks"])
    if answers and not any(mask):
        raise ModelError(
            "The chat template's own generation marks cover none of the assistant's words. Remove them from the "
            "template, so that the turns are found by rendering it, or set the task's `template: plain`."
        )
    edges = [i for i in range(len(ids) + 1) if (i < len(ids) and mask[i]) != (i > 0 and bool(mask[i - 1]))]
    spans = [_marked_span(ids, start, end, end_of_turn_id) for start, end in zip(edges[::2], edges[1::2], strict=True)]
    if len(spans) not in (len(answers), sum(turn["role"] == ASSISTANT for turn in turns)):
        raise AlignmentError(
            f"The conversation has {len(answers)} answers, but {len(spans)} marked by the chat template. Correct its "
            "{% generation %} marks, end answers with a word, or set the task's `template: plain`."
        )
    return _ended(ids, spans, end_of_turn_id)


def _marked_span(ids: list[int], start: int, end: int, end_of_turn_id: int) -> Span:
    """Let a marked span end with its first end of turn.

    Some templates leave that token outside of the marks: a model that never learns it never stops. And transformers
    5.23 marks everything that follows when the last marked character belongs to no token, such as a trimmed blank.
    """
    found = [place for place in range(start, min(end + 1, len(ids))) if ids[place] == end_of_turn_id]
    return start, found[0] + 1 if found else end


def _derived(
    tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]], answers: list[int], end_of_turn_id: int
) -> tuple[list[int], list[Span]]:
    if answers[:1] == [0]:
        raise DataError("The assistant speaks first, and the template cannot be rendered up to there. Add a question.")
    texts = [str(_apply(tokenizer, turns, tokenize=False))]
    for number in answers:
        texts.append(str(_apply(tokenizer, turns[:number], tokenize=False, add_generation_prompt=True)))
        texts.append(str(_apply(tokenizer, turns[: number + 1], tokenize=False)))
    whole, *parts = _encode(tokenizer, texts)
    spans: list[Span] = []
    for number, asked, answered in zip(answers, parts[::2], parts[1::2], strict=True):
        end = _end_of(answered, len(asked), end_of_turn_id)
        if end <= len(asked) or whole[: len(asked)] != asked or whole[:end] != answered[:end]:
            raise AlignmentError(_unproven(tokenizer, number, whole, asked, answered[:end]))
        spans.append((len(asked), end))
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


def _apply(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]], **options: Any) -> Any:
    try:
        return tokenizer.apply_chat_template(turns, **options)
    except TEMPLATE_ERRORS as error:
        roles = [turn["role"] for turn in turns]
        raise DataError(
            f"The chat template refuses turns of the roles {roles}: {one_line(error)}. Expected what this model was "
            "trained on, mostly user and assistant in turn."
        ) from error


def _encode(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    reader: Any = tokenizer
    return reader(texts, add_special_tokens=False, verbose=False)["input_ids"]
