"""A few rows as a person reads them, with the targets marked.

In: rows and the tokenizer that made them. Out: strings.
"""

from collections.abc import Iterator, Sequence

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
    return ["".join(_runs(tokenizer, rows[i])) for i in chosen]


def _runs(tokenizer: Tokenizer, row: StudentRow) -> Iterator[str]:
    """Decode a row run by run: a conversation has targets in several places."""
    edges = np.flatnonzero(np.diff(row.target_mask)) + 1
    left, right = TARGET_MARKS
    for start, ids in zip([0, *edges.tolist()], np.split(row.ids, edges), strict=True):
        # the clean-up of blanks is for readers; it would hide what the model sees
        text = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        yield f"{left}{text}{right}" if row.target_mask[start] else text
