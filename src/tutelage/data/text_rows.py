"""Token rows of documents and conversations.

In: items and a tokenizer; of a conversation its token ids and where the assistant speaks. Out: ``StudentRow``s.

A document's row learns every token after the first, its end included; a long one becomes several rows, of which each
but the first begins with the last token of the one before, so that every token is learnt exactly once. Of a
conversation only what the assistant says is learnt, end of turn included; a long one loses whole turns at its end.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tutelage.data.prompts import Tokenizer, batch_ids, opening_ids, plain_ids, words_of
from tutelage.data.rows import Rows
from tutelage.data.task import Prompt
from tutelage.data.texts import ASSISTANT, SYSTEM, TextItem, Turn
from tutelage.types import StudentRow, row_key

WINDOW_MARK = "#"  # between an item's key and the number of a later window; digests hold none
NO_TARGET, TOO_LONG = "no_target", "turn_too_long"  # why an item becomes no row


@dataclass(frozen=True)
class TurnTokens:
    """A conversation as a model reads it: ids, and the tokens ``[start, end)`` that each assistant turn teaches."""

    ids: np.ndarray  # int32 [T]
    spans: tuple[tuple[int, int], ...]


def item_key_of(row_key_: str) -> str:
    """Return the key of the item that a row is a part of."""
    return row_key_.partition(WINDOW_MARK)[0]


def document_rows(tokenizer: Tokenizer, items: Sequence[TextItem], *, max_length: int, end_of_text_id: int) -> Rows:
    """Make one row per document, or several windows of a long one; ``num_shortened`` is 0: nothing is lost.

    A document of one token has nothing to learn and is left out and counted.

    Args:
        tokenizer: The model's own.
        items: Documents.
        max_length: Tokens of a row at most, at least 2.
        end_of_text_id: The token that ends a document; a target like any other.
    """
    opening = opening_ids(tokenizer)
    rows: list[StudentRow] = []
    left_out: Counter[str] = Counter()
    num_split = 0
    for item, own in zip(items, batch_ids(tokenizer, [words_of(item.turns[0].content) for item in items]), strict=True):
        ids = np.concatenate([opening, own, [end_of_text_id]]).astype(np.int32)
        if len(own) == 0 or len(ids) < 2:
            left_out[NO_TARGET] += 1
            continue
        starts = range(0, len(ids) - 1, max_length - 1)
        num_split += len(starts) > 1
        rows += [_window(item.item_key, number, ids[at : at + max_length]) for number, at in enumerate(starts)]
    return Rows(rows, 0, dict(left_out), num_split=num_split)


def _window(item_key: str, number: int, ids: np.ndarray) -> StudentRow:
    mask = np.ones(len(ids), dtype=bool)
    mask[0] = False
    name = f"{item_key}{WINDOW_MARK}{number}" if number else item_key
    return StudentRow(item_key=name, ids=ids, target_mask=mask, teacher_key=row_key(ids))


def conversation_rows(
    items: Sequence[TextItem], tokens: Sequence[TurnTokens], *, max_length: int, left_out: Counter[str] | None = None
) -> Rows:
    """Make one row per conversation; it ends with the last assistant turn that fits, and what follows is of no use.

    Left out and counted, never cut inside a turn: ``turn_too_long``, where not even the first assistant turn fits, and
    ``no_target``. ``num_shortened`` counts conversations that lost an assistant turn.

    Args:
        items: Conversations.
        tokens: One per item.
        max_length: Tokens of a row at most.
        left_out: Counts of items that were left out before.
    """
    reasons = Counter(left_out or {})
    rows, num_shortened = [], 0
    for item, each in zip(items, tokens, strict=True):
        spans = [(start, end) for start, end in each.spans if end > max(start, 1)]
        fitting = [(start, end) for start, end in spans if end <= max_length]
        if not fitting:
            reasons[TOO_LONG if spans else NO_TARGET] += 1
            continue
        num_shortened += len(fitting) < len(spans)
        ids = each.ids[: fitting[-1][1]].astype(np.int32)
        mask = np.zeros(len(ids), dtype=bool)
        for start, end in fitting:
            mask[start:end] = True
        mask[0] = False  # no logit predicts it
        rows.append(StudentRow(item_key=item.item_key, ids=ids, target_mask=mask, teacher_key=row_key(ids)))
    return Rows(rows, num_shortened, dict(reasons))


def plain_turns(tokenizer: Tokenizer, turns: Sequence[Turn], *, end_of_turn_id: int) -> TurnTokens:
    """Write a conversation for a model that has no chat template.

    ``{system}`` and a blank line, ``User: {words}`` and a line's end, ``Assistant:``, a blank, the answer and the end
    of turn; a further turn begins on a new line. Each piece is tokenised apart, so the targets need no search.

    Args:
        tokenizer: The model's own.
        turns: In order.
        end_of_turn_id: The token that ends an answer; a target like the answer itself.
    """
    pieces, spans = [opening_ids(tokenizer)], []
    length, lead = len(pieces[0]), ""
    for turn in turns:
        if turn.role != ASSISTANT:
            opener, closer = ("", "\n\n") if turn.role == SYSTEM else ("User: ", "\n")
            pieces.append(plain_ids(tokenizer, Prompt(lead + opener, turn.content, closer)))
            length, lead = length + len(pieces[-1]), ""
            continue
        header = plain_ids(tokenizer, f"{lead}Assistant:")
        answer = np.append(plain_ids(tokenizer, words_of(turn.content, lead=" ")), end_of_turn_id)
        pieces += [header, answer]
        start = length + len(header)
        length = start + len(answer)
        if turn.content.strip() and turn.is_learnt:
            spans.append((start, length))
        lead = "\n"
    return TurnTokens(np.concatenate(pieces).astype(np.int32), tuple(spans))
