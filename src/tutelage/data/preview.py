"""A few rows as a person reads them, with the targets marked.

In: rows and the tokenizer that made them. Out: strings.
"""

from collections.abc import Sequence

import numpy as np

from tutelage.data.prompts import Tokenizer
from tutelage.types import StudentRow

TARGET_MARKS = ("\u27e6", "\u27e7")  # white square brackets: rare in any text


def sample_rows_text(rows: Sequence[StudentRow], tokenizer: Tokenizer, n: int = 3, seed: int = 0) -> list[str]:
    """Decode ``n`` random rows from their token ids, the supervised targets between marks.

    What is shown is what is trained on, end of turn included, not the text it was made from.

    Args:
        rows: All rows of a split.
        tokenizer: The model's own.
        n: Rows to show; all of them if there are fewer.
        seed: Which ones.
    """
    chosen = np.random.default_rng(seed).permutation(len(rows))[:n]
    left, right = TARGET_MARKS
    return [f"{_text(tokenizer, rows[i], False)}{left}{_text(tokenizer, rows[i], True)}{right}" for i in chosen]


def _text(tokenizer: Tokenizer, row: StudentRow, targets: bool) -> str:
    # the clean-up of blanks is for readers; it would hide what the model sees
    return tokenizer.decode(row.ids[row.target_mask == targets], clean_up_tokenization_spaces=False)
