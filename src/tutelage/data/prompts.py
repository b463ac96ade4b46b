"""Prompts as token ids, shortened where the text is and nowhere else.

In: filled templates and a tokenizer. Out: id arrays that leave room for the longest answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tutelage.align import encode_texts
from tutelage.data.task import ClassificationTask, Prompt
from tutelage.errors import DataError

Tokenizer = Any  # transformers.PreTrainedTokenizerBase; not imported here, so that data/ stays light


@dataclass(frozen=True)
class FittedPrompts:
    """Prompt ids (int32, one array per prompt) and how many lost the end of their text."""

    ids: list[np.ndarray]
    num_shortened: int


def plain_ids(tokenizer: Tokenizer, text: Prompt | str) -> np.ndarray:
    """Tokenise without adding special tokens; int32. See :func:`batch_ids`."""
    return np.asarray(batch_ids(tokenizer, [text])[0], dtype=np.int32)


def opening_ids(tokenizer: Tokenizer) -> np.ndarray:
    """Return what the tokenizer puts before every text, such as a begin-of-text token; int32.

    What it puts behind (an end-of-text token) is left out: an answer follows.
    """
    plain = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    full = list(tokenizer("a")["input_ids"])
    starts = (at for at in range(len(full) - len(plain) + 1) if full[at : at + len(plain)] == plain)
    return np.asarray(full[: next(starts, 0)], dtype=np.int32)


def verbaliser_ids(tokenizer: Tokenizer, task: ClassificationTask) -> list[np.ndarray]:
    """Tokenise each class's words apart from any prompt, in the order of the labels."""
    return [plain_ids(tokenizer, words) for words in task.verbalisers]


def check_verbalisers(tokenizer: Tokenizer, task: ClassificationTask) -> None:
    """Refuse words that this tokenizer cannot tell apart.

    Raises:
        DataError: If a class's words have no tokens, contain the unknown token, or their ids equal
            or begin another class's ids.
    """
    where = f"tasks.{task.name}.verbalisers"
    ids = [tuple(each.tolist()) for each in verbaliser_ids(tokenizer, task)]
    for label, words, own in zip(task.labels, task.verbalisers, ids, strict=True):
        if not own:
            raise DataError(f"{where}.{label} {words!r} has no tokens. Choose words that this tokenizer knows.")
        if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in own:
            raise DataError(
                f"{where}.{label} {words!r} is unknown to this tokenizer (ids {list(own)}). Choose other words."
            )
    for first, own in enumerate(ids):
        for second, other in enumerate(ids):
            if first != second and other[: len(own)] == own:
                how = "has the same token ids as" if own == other else "has token ids that begin those of"
                raise DataError(
                    f"{where}.{task.labels[first]} {task.verbalisers[first]!r} {how} {task.labels[second]} "
                    f"{task.verbalisers[second]!r}: {list(own)} and {list(other)}. Choose words that differ from "
                    "their first token on."
                )


def answer_room(tokenizer: Tokenizer, task: ClassificationTask) -> int:
    """Return the tokens to keep free behind a prompt: the longest answer and the end of turn.

    The same for every item and for training and evaluation, so that how much of a text is read
    never depends on its gold answer.
    """
    return max(len(ids) for ids in verbaliser_ids(tokenizer, task)) + 1


def fit_prompts(
    tokenizer: Tokenizer, prompts: Sequence[Prompt], *, room: int, item_keys: Sequence[str]
) -> FittedPrompts:
    """Tokenise prompts; where one exceeds ``room`` tokens, cut the end of its text.

    Template and question stay whole. The cut falls between words where there is white space near enough.

    Raises:
        DataError: If nothing of a text would remain, naming the item.
    """
    opening = opening_ids(tokenizer)
    room -= len(opening)
    encoded = batch_ids(tokenizer, prompts)
    num_shortened = 0
    fitted = []
    for prompt, ids, item_key in zip(prompts, encoded, item_keys, strict=True):
        if len(ids) > room:
            ids = plain_ids(tokenizer, shortened(tokenizer, prompt, room, item_key))
            num_shortened += 1
        fitted.append(np.concatenate([opening, np.asarray(ids, dtype=np.int32)]))
    return FittedPrompts(fitted, num_shortened)


def batch_ids(tokenizer: Tokenizer, texts: Sequence[Prompt | str]) -> list[list[int]]:
    """Tokenise several texts without special tokens around them.

    A ``str`` is what a recipe or a tokenizer wrote and may hold control tokens. Of a ``Prompt`` only the template may:
    the values of a row are words, whatever they spell (:func:`words_of` makes a prompt of words alone).

    Raises:
        DataError: If this tokenizer cannot tokenise a control token's name as text.
    """
    whole = [str(text) for text in texts]
    return encode_texts(
        tokenizer,
        whole,
        [text.written if isinstance(text, Prompt) else [(0, len(own))] for text, own in zip(texts, whole, strict=True)],
    )


def words_of(text: str, *, lead: str = "") -> Prompt:
    """Return somebody's words as a prompt without a template, perhaps behind white space."""
    return Prompt(lead, text, "")


def shortened(tokenizer: Tokenizer, prompt: Prompt, room: int, item_key: str) -> Prompt:
    """Return a prompt with the longest beginning of its text that fits into ``room`` tokens, by bisection.

    Raises:
        DataError: If nothing of the text would remain, naming the item.
    """

    def fits(num_chars: int) -> bool:
        return len(plain_ids(tokenizer, prompt.with_context(prompt.context[:num_chars]))) <= room

    low, high = 0, len(prompt.context)  # high does not fit; low fits, or nothing does
    if fits(high):
        return prompt
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    text = _at_word_border(prompt.context, low)
    if not fits(len(text)):  # fewer characters can be more tokens; the bisection's own cut does fit
        text = prompt.context[:low]
    if not text.strip() or not fits(len(text)):
        raise DataError(
            f"{item_key}: the template alone leaves no room for the text in {room} tokens. Raise `max_length` or "
            "shorten the template."
        )
    return prompt.with_context(text)


def is_word_border(num_kept: int, num_chars: int) -> bool:
    """Return whether a cut that keeps ``num_kept`` of ``num_chars`` characters spares a word.

    What takes more than half of them is no word but text without blanks, and is cut between characters.
    """
    return 2 * num_kept >= num_chars


def _at_word_border(context: str, num_chars: int) -> str:
    """Cut at most ``num_chars`` characters, back to the last white space if there is any near enough."""
    head = context[:num_chars]
    inside_word = not (context[num_chars : num_chars + 1].isspace() or head[-1:].isspace())
    if num_chars < len(context) and inside_word:
        words = head.rsplit(None, 1)
        if len(words) == 2 and is_word_border(len(words[0]), num_chars):
            head = words[0]
    return head.rstrip()
