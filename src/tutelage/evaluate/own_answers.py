"""Answers that a model writes itself in conversations: a student may know every next token and still say nothing.

In: a model and rows of conversations. Out: one ``OwnAnswer`` per row, from the tokens before its last answer.

Source:
    Arora et al. 2022, arXiv:2204.01171: what is measured on given beginnings hides what generation makes of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from tutelage.data.answers import f1
from tutelage.data.plan import reading_batches
from tutelage.errors import PreemptedError
from tutelage.models.chat import Stops, find_stops, turn_markers
from tutelage.models.generate import Decoding, generate_batch
from tutelage.models.head import plain_model
from tutelage.teacher.sequence_quality import leak_pattern
from tutelage.types import StudentRow

MAX_NEW_TOKENS = 128  # of an answer: cheap, and enough to see whether it says something and ends
SPARE_TOKENS = 16  # beyond the longest gold answer


@dataclass(frozen=True)
class OwnAnswer:
    """What a model wrote, greedily, in place of a conversation's last answer."""

    text: str
    gold: str
    has_ended: bool  # by an end of turn, within the tokens that it may have
    runs_on: bool  # a next turn begins inside of it
    num_tokens: int

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing but white space."""
        return not self.text.strip()

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall of the gold answer's words."""
        return f1(self.text, [self.gold])


def own_answers(
    model: nn.Module,
    tokenizer: Any,
    rows: Sequence[StudentRow],
    *,
    end_of_turn_id: int,
    chat: bool,
    token_budget: int,
    should_stop: Callable[[], bool] | None = None,
) -> dict[str, OwnAnswer]:
    """Let a model write the last answer of every row by itself, greedily.

    Args:
        model: A causal language model on its device, plain or with an adapter.
        tokenizer: The model's own.
        rows: Of conversations; the last run of targets is the gold answer.
        end_of_turn_id: The token that ends an answer in the rows.
        chat: Whether the rows are written with the tokenizer's chat template.
        token_budget: Padded tokens of a batch, answers at full length.
        should_stop: Asked before every batch.

    Returns:
        The answers by item key; rows without room for an answer in the model's positions have none.

    Raises:
        PreemptedError: If ``should_stop`` said so.
    """
    asked = [(row, *_last_answer(row)) for row in rows]
    golds = {row.item_key: _words(tokenizer, row.ids[start:end]) for row, start, end in asked}
    longest = max((end - start for _, start, end in asked), default=0)
    room = getattr(plain_model(model).config.get_text_config(), "max_position_embeddings", None)
    decoding = Decoding(
        _stops(tokenizer, model, end_of_turn_id, chat), max_new_tokens=min(MAX_NEW_TOKENS, longest + SPARE_TOKENS)
    )
    asked = [(row, at, end) for row, at, end in asked if room is None or at + decoding.max_new_tokens <= room]
    pattern = leak_pattern(turn_markers(tokenizer) if chat else ())
    found = {}
    lengths = [start + decoding.max_new_tokens for _, start, _ in asked]
    for group in reversed(reading_batches(lengths, token_budget=token_budget)):
        if should_stop is not None and should_stop():
            raise PreemptedError("Stopped while answers were generated. Run the same command again to go on.")
        members = [asked[place] for place in group]
        answers = generate_batch(model, tokenizer, [row.ids[:start] for row, start, _ in members], decoding=decoding)
        for (row, _, _), answer in zip(members, answers, strict=True):
            text = answer.text.strip()
            runs_on = pattern.search(text) is not None
            found[row.item_key] = OwnAnswer(
                text, golds[row.item_key], answer.finish == "stop", runs_on, len(answer.ids)
            )
    return found


def _last_answer(row: StudentRow) -> tuple[int, int]:
    """Return where the last run of targets begins and ends."""
    end = int(np.flatnonzero(row.target_mask)[-1]) + 1
    before = np.flatnonzero(~row.target_mask[:end])
    return int(before[-1]) + 1, end


def _words(tokenizer: Any, ids: np.ndarray) -> str:
    return str(tokenizer.decode(ids.tolist(), skip_special_tokens=True, clean_up_tokenization_spaces=False)).strip()


def _stops(tokenizer: Any, model: nn.Module, end_of_turn_id: int, chat: bool) -> Stops:
    found = find_stops(tokenizer, model, chat=chat)
    return Stops(tuple(sorted({*found.ids, end_of_turn_id})), found.strings)
