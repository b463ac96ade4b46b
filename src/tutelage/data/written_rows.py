"""Token rows whose targets are what a teacher wrote, behind the very prompts of the gold rows.

In: filled templates, the teacher's texts, a tokenizer. Out: ``StudentRow``s; an answer that was cut has no end token.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tutelage.data.prompts import Tokenizer, batch_ids, fit_prompts, words_of
from tutelage.data.rows import Rows, join_row
from tutelage.data.task import Prompt
from tutelage.types import StudentRow

HALF_CHARACTER = "\ufffd"  # what decoding shows where the last token of a cut answer ends inside of a character


@dataclass(frozen=True)
class WrittenAnswer:
    """What a teacher wrote to one prompt, its end of turn left out; ``has_ended`` is False if the limit cut it."""

    text: str
    has_ended: bool

    @property
    def words(self) -> str:
        """The text to learn, without blanks around it."""
        return (self.text if self.has_ended else self.text.rstrip(HALF_CHARACTER)).strip()


def written_rows(
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    answers: Sequence[WrittenAnswer],
    *,
    item_keys: Sequence[str],
    lead: str,
    max_length: int,
    answer_room: int,
    max_answer_length: int | None = None,
    end_of_turn_id: int,
) -> Rows:
    """Make one row per prompt: prompt, answer and, where the answer has ended, the end of turn.

    A prompt is cut where the gold row's is, and only further where the answer needs more than ``answer_room``. Left out
    and counted, never cut: ``teacher_answer_empty`` and ``teacher_answer_too_long``.

    Args:
        tokenizer: The model's own. Prompt and answer are tokenised apart, as those of gold rows are.
        prompts: Filled templates.
        answers: One per prompt.
        item_keys: One per prompt.
        lead: The white space that a gold answer begins with.
        max_length: Tokens of a row at most.
        answer_room: Tokens that gold rows keep free behind a prompt.
        max_answer_length: Tokens of an answer at most, its end not counted; None: as many as fit.
        end_of_turn_id: The token that ends an answer; a target only where the teacher's answer has ended.

    Raises:
        DataError: If template and answer leave no room for a text.
    """
    left_out: Counter[str] = Counter()
    words = [answer.words for answer in answers]
    by_room: defaultdict[int, list[tuple[int, np.ndarray]]] = defaultdict(list)  # tokens of a prompt: place, answer ids
    for place, own in enumerate(batch_ids(tokenizer, [words_of(text, lead=lead) for text in words])):
        if not words[place]:
            left_out["teacher_answer_empty"] += 1
        elif max_answer_length is not None and len(own) > max_answer_length:
            left_out["teacher_answer_too_long"] += 1
        else:
            room = max_length - max(answer_room, len(own) + 1)
            by_room[room].append((place, np.asarray(own, dtype=np.int32)))
    rows: dict[int, StudentRow] = {}
    num_shortened = 0
    for room, members in by_room.items():
        keys = [item_keys[place] for place, _ in members]
        fitted = fit_prompts(tokenizer, [prompts[place] for place, _ in members], room=room, item_keys=keys)
        num_shortened += fitted.num_shortened
        for (place, own), item_key, prompt_ids in zip(members, keys, fitted.ids, strict=True):
            end = end_of_turn_id if answers[place].has_ended else None
            rows[place] = join_row(prompt_ids, own, item_key=item_key, end_of_turn_id=end)
    return Rows([rows[place] for place in sorted(rows)], num_shortened, dict(left_out))
