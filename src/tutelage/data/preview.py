"""A few rows as a person reads them, with the targets marked.

In: a prepared task and a tokenizer. Out: strings.
"""

import numpy as np

from tutelage.data.prepared import PreparedTask
from tutelage.data.prompts import Tokenizer
from tutelage.data.rows import classification_rows
from tutelage.errors import DataError
from tutelage.types import StudentRow

TARGET_MARKS = ("\u27e6", "\u27e7")  # white square brackets: rare in any text
NO_LIMIT = 2**31 - 1


def sample_rows_text(
    prepared: PreparedTask,
    tokenizer: Tokenizer,
    n: int = 3,
    seed: int = 0,
    *,
    max_length: int = NO_LIMIT,
    end_of_turn_id: int | None = None,
) -> list[str]:
    """Decode ``n`` random training rows from their token ids, the supervised targets between marks.

    What is shown is what is trained on, end of turn included, not the text it was made from.

    Args:
        prepared: The task with its rows.
        tokenizer: The model's own.
        n: Rows to show; all of them if there are fewer.
        seed: Which ones.
        max_length: As in training.
        end_of_turn_id: As in training; default the tokenizer's end-of-sequence token.

    Raises:
        DataError: If there is no end-of-turn token, or a row is not valid.
    """
    end = tokenizer.eos_token_id if end_of_turn_id is None else end_of_turn_id
    if end is None:
        raise DataError("The tokenizer has no end-of-sequence token. Name the token that ends an answer.")
    examples = prepared.splits["train"]
    chosen = np.random.default_rng(seed).permutation(len(examples))[:n]
    rows = classification_rows(
        tokenizer, prepared.task, [examples[i] for i in chosen], max_length=max_length, end_of_turn_id=end
    ).rows
    left, right = TARGET_MARKS
    return [f"{_text(tokenizer, row, False)}{left}{_text(tokenizer, row, True)}{right}" for row in rows]


def _text(tokenizer: Tokenizer, row: StudentRow, targets: bool) -> str:
    # the clean-up of blanks is for readers; it would hide what the model sees
    return tokenizer.decode(row.ids[row.target_mask == targets], clean_up_tokenization_spaces=False)
