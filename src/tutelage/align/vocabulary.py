"""Prove that student and teacher read one vocabulary.

In: two tokenizers (anything with ``get_vocab``), token ids. Out: nothing when they agree, else an
``AlignmentError`` with the first disagreement.
"""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np

from tutelage.errors import AlignmentError


@runtime_checkable
class Vocabulary(Protocol):
    """What this module needs of a tokenizer."""

    def get_vocab(self) -> Mapping[str, int]:
        """Map every token to its id."""
        ...


def check_same_tokenizer(student_tokenizer: Vocabulary, teacher_tokenizer: Vocabulary) -> None:
    """Refuse two tokenizers whose token-to-id maps differ.

    The sizes of the two output heads may differ by padding, as ``models.probe`` proves of every
    model; the tokens may not.

    Args:
        student_tokenizer: The student's tokenizer.
        teacher_tokenizer: The teacher's tokenizer.

    Raises:
        AlignmentError: Names the differing token with the smallest id, and both its ids.
    """
    student_ids, teacher_ids = student_tokenizer.get_vocab(), teacher_tokenizer.get_vocab()
    if student_ids == teacher_ids:
        return
    differing = {token for token, _ in student_ids.items() ^ teacher_ids.items()}
    first = min(differing, key=lambda token: (_smallest_id(token, student_ids, teacher_ids), token))
    student_id, teacher_id = student_ids.get(first, "none"), teacher_ids.get(first, "none")
    raise AlignmentError(
        f"student and teacher tokenizers differ in {len(differing)} of {max(len(student_ids), len(teacher_ids))} "
        f"tokens; the first is {first!r}: student id {student_id}, teacher id {teacher_id}; "
        "expected equal token-to-id maps: choose a student and a teacher of one family"
    )


def _smallest_id(token: str, *id_maps: Mapping[str, int]) -> int:
    return min(id_map[token] for id_map in id_maps if token in id_map)


def check_ids(ids: np.ndarray, vocab_size: int, where: str) -> None:
    """Refuse token ids outside ``[0, vocab_size)``.

    Args:
        ids: Token ids, any integer dtype, any shape.
        vocab_size: Number of ids the model knows.
        where: What the ids are, for the message ("row 17 of train.jsonl").

    Raises:
        AlignmentError: Names the first foreign id and its index.
    """
    flat = np.asarray(ids).reshape(-1)
    foreign = np.flatnonzero((flat < 0) | (flat >= vocab_size))
    if foreign.size:
        raise AlignmentError(
            f"{where}: token id {int(flat[foreign[0]])} at index {int(foreign[0])}; expected ids from 0 to "
            f"{vocab_size - 1}: the row was made with another tokenizer, make it again with this model's own"
        )
