"""A tokenizer's chat template: prompts written with it, what ends an answer, what opens the next turn.

In: a tokenizer, words or messages. Out: token ids; stop ids and strings; the template's turn markers.
Templates are rendered by :mod:`tutelage.models.template`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn
from transformers import PreTrainedTokenizerBase

from tutelage.align import encode_with_offsets
from tutelage.errors import DataError, ModelError
from tutelage.models.head import plain_model
from tutelage.models.template import Message, Turns, render, render_text
from tutelage.store import value_digest

QUESTION, ANSWER, NEXT_QUESTION = "tutelage-question", "tutelage-answer", "tutelage-next-question"


@dataclass(frozen=True)
class Stops:
    """What ends an answer: token ids, and strings where a template marks turns with plain words."""

    ids: tuple[int, ...]
    strings: tuple[str, ...] = ()


def chat_ids(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str | Sequence[Message],
    *,
    tools: Sequence[Any] | None = None,
    date: str | None = None,
) -> np.ndarray:
    """Write a prompt with the chat template, up to where the assistant begins to answer; int32.

    Args:
        tokenizer: One with a chat template.
        prompt: Messages, or words that become one user turn. A control token's name in them stays words.
        tools: The functions that the assistant may call.
        date: The day that a template writes which asks for it; None: today.

    Raises:
        ModelError: If the tokenizer has no chat template.
        DataError: If the template refuses the messages, or nothing comes out.
    """
    if not tokenizer.chat_template:
        raise ModelError("A chat prompt was asked for, but the tokenizer has no chat template. Use `template: raw`.")
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(each) for each in prompt]
    (made,) = render(tokenizer, [Turns(messages, asks=True)], tools=tools, date=date)
    ids = encode_with_offsets(tokenizer, made.text, made.control).ids
    if not ids:
        raise DataError("The chat template makes an empty prompt of these messages. Give it some words.")
    return np.asarray(ids, dtype=np.int32)


class ChatTurns:
    """A tokenizer that reads every text as a user's turn of the chat template.

    It stands in wherever texts are tokenised, so that a text which is too long is shortened inside of its turn.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, date: str | None = None) -> None:
        self.tokenizer, self.date = tokenizer, date

    def __call__(self, text: str | Sequence[str], **_: Any) -> dict[str, Any]:
        """Tokenise one text or several, like a transformers tokenizer."""
        if isinstance(text, str):
            return {"input_ids": chat_ids(self.tokenizer, text, date=self.date).tolist()}
        return {"input_ids": [chat_ids(self.tokenizer, each, date=self.date).tolist() for each in text]}


def template_digest(tokenizer: PreTrainedTokenizerBase | None) -> str:
    """Name a chat template by 8 hex digits; ``raw`` where there is none."""
    template = None if tokenizer is None else tokenizer.chat_template
    return value_digest(template, length=8) if template else "raw"


def find_stops(tokenizer: PreTrainedTokenizerBase, model: nn.Module, *, chat: bool) -> Stops:
    """Collect what ends an answer of this model.

    The ids are the end tokens of the generation config, the model's config and the tokenizer and, with ``chat``, the
    token that the template is seen to write after an answer. A template that writes none of them there ends its
    turns with plain words: those that open the next turn become a stop string.

    Raises:
        ModelError: If nothing ends an answer.
    """
    inner = plain_model(model)
    generation = getattr(inner, "generation_config", None)
    configs = (generation, inner.config.get_text_config(), tokenizer)
    ids = {each for config in configs for each in _listed(getattr(config, "eos_token_id", None))}
    strings: tuple[str, ...] = ()
    between = turn_texts(tokenizer)[1] if chat else None
    if between is not None:
        written = _plain_ids(tokenizer, between)
        ids |= set(_special(tokenizer, written)[:1])
        if not ids & set(written) and between.strip():
            strings = (between.rstrip(),)
    if not ids and not strings:
        raise ModelError(
            "Nothing ends an answer of this model: no end token in its configs and none in its chat template. Set "
            "`eos_token` in the tokenizer's folder, or `stop` strings in the recipe."
        )
    return Stops(tuple(sorted(ids)), strings)


def turn_markers(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """List what the chat template writes to open a turn, such as ``<|im_start|>user``; longest first.

    Found by rendering three turns: the text between two turns, without the end of the turn before and without white
    space around it.
    """
    if not tokenizer.chat_template:
        return ()
    opened = (_without_end(tokenizer, text) for text in turn_texts(tokenizer) if text is not None)
    return tuple(sorted({marker for marker in opened if marker}, key=lambda marker: (-len(marker), marker)))


def turn_texts(tokenizer: PreTrainedTokenizerBase) -> tuple[str | None, str | None]:
    """Return what the template writes between question and answer, and between answer and next question."""
    words = (QUESTION, ANSWER, NEXT_QUESTION)
    turns = [{"role": role, "content": word} for role, word in zip(("user", "assistant", "user"), words, strict=True)]
    try:
        text = render_text(tokenizer, turns)
    except DataError:
        return None, None
    _, found_question, rest = text.partition(QUESTION)
    to_answer, found_answer, rest = rest.partition(ANSWER)
    to_next, found_next, _ = rest.partition(NEXT_QUESTION)
    if not (found_question and found_answer and found_next):
        return None, None
    return to_answer, to_next


def _without_end(tokenizer: PreTrainedTokenizerBase, between: str) -> str:
    """Cut the end of the turn before off: its end token, when more than that follows."""
    marker = between.strip()
    for special in _special(tokenizer, _plain_ids(tokenizer, marker))[:1]:
        token = str(tokenizer.convert_ids_to_tokens(special))
        rest = marker.removeprefix(token).strip()
        marker = rest or marker
    return marker


def _special(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[int]:
    reader: Any = tokenizer  # its methods reach the type checker through __getattr__
    special = (set(reader.all_special_ids) | set(reader.get_added_vocab().values())) - {reader.unk_token_id}
    return [each for each in ids if each in special]


def _plain_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])  # pyright: ignore[reportArgumentType]


def _listed(value: int | Iterable[int] | None) -> list[int]:
    if value is None:
        return []
    return [value] if isinstance(value, int) else [int(each) for each in value]
