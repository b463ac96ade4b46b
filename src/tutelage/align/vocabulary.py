"""Prove that two tokenizers are of one family, and that rows use only tokens which both read alike.

In: two tokenizers (anything with ``get_vocab``), token ids. Out: ``VocabularyDifference``, or an ``AlignmentError``
that counts what differs and names the first place.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from tutelage.errors import AlignmentError

NUM_NAMED = 3  # tokens and rows that a message names


@runtime_checkable
class Vocabulary(Protocol):
    """What this module needs of a tokenizer; its ``added_tokens_decoder`` too, where it has one."""

    def get_vocab(self) -> Mapping[str, int]:
        """Map every token to its id."""
        ...


@dataclass(frozen=True)
class VocabularyDifference:
    """How the vocabularies of two tokenizers of one family differ, by id."""

    num_shared: int  # ids that stand for the same token in both
    only_first: Mapping[int, str]
    only_second: Mapping[int, str]
    renamed: Mapping[int, tuple[str, str]]  # reserved ids that the two call by other names

    @property
    def foreign_to_first(self) -> dict[int, str]:
        """The second's tokens that the first does not have, or calls by another name."""
        return dict(
            sorted({**self.only_second, **{number: names[1] for number, names in self.renamed.items()}}.items())
        )

    @property
    def foreign_to_second(self) -> dict[int, str]:
        """The first's tokens that the second does not have, or calls by another name."""
        return dict(sorted({**self.only_first, **{number: names[0] for number, names in self.renamed.items()}}.items()))


def num_token_ids(tokenizer: Vocabulary) -> int:
    """Return how many ids a model needs that knows every token of a tokenizer."""
    return max(tokenizer.get_vocab().values()) + 1


def compare_vocabularies(first: Vocabulary, second: Vocabulary, *, names: tuple[str, str]) -> VocabularyDifference:
    """Compare two tokenizers id by id; added tokens may differ, and either may have more tokens than the other.

    Whether rows may be read with both is decided by the ids that the rows use.

    Args:
        first: A tokenizer.
        second: Another one.
        names: What messages call the two, such as "student S1" and "the teacher".

    Raises:
        AlignmentError: If an id stands for two tokens which neither of them has added to its family's vocabulary.
    """
    own, other = _by_id(first), _by_id(second)
    shared_ids = own.keys() & other.keys()
    differing = {number: (own[number], other[number]) for number in shared_ids if own[number] != other[number]}
    added = _added_ids(first) | _added_ids(second)
    if len(differing) == len(shared_ids) or any(number not in added for number in differing):
        raise _of_another_family(own, other, differing, names)
    return VocabularyDifference(
        num_shared=len(shared_ids) - len(differing),
        only_first={number: own[number] for number in sorted(own.keys() - shared_ids)},
        only_second={number: other[number] for number in sorted(other.keys() - shared_ids)},
        renamed=dict(sorted(differing.items())),
    )


def _by_id(tokenizer: Vocabulary) -> dict[int, str]:
    return {number: token for token, number in tokenizer.get_vocab().items()}


def _added_ids(tokenizer: Any) -> set[int]:
    return {int(number) for number in getattr(tokenizer, "added_tokens_decoder", {})}


def _of_another_family(
    own: Mapping[int, str],
    other: Mapping[int, str],
    differing: Mapping[int, tuple[str, str]],
    names: tuple[str, str],
) -> AlignmentError:
    first = min(differing or own.keys() | other.keys())
    return AlignmentError(
        f"The tokenizers of {names[0]} ({len(own):,} tokens) and of {names[1]} ({len(other):,} tokens) are of two "
        f"families: of {len(own.keys() & other.keys()):,} ids that both have, {len(differing):,} stand for another "
        f"token; the first is id {first}: {own.get(first)!r} and {other.get(first)!r}. Expected equal tokens but for "
        "added ones: choose a student and a teacher of one family."
    )


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
            f"{vocab_size - 1}: the model has no embedding for others. Make the row with this model's own tokenizer, "
            "without tokens that were added to it after training."
        )


@dataclass(frozen=True)
class Reader:
    """A model that reads rows which a tokenizer wrote, perhaps that of another model.

    Attributes:
        name: What messages call the model.
        num_ids: How many ids have an embedding.
        foreign: The writer's tokens that this model's own tokenizer lacks, or uses for something else.
        remedy: What to do about rows that use them, for messages.
    """

    name: str
    num_ids: int
    foreign: Mapping[int, str]
    remedy: str = "Remove these tokens from the data, or use another model."

    def check(self, rows: Iterable[tuple[str, np.ndarray]], writer: Vocabulary) -> None:
        """Refuse rows with ids that this model cannot read.

        Args:
            rows: What a row is called, and its ids.
            writer: The tokenizer that wrote them; it names the tokens.

        Raises:
            AlignmentError: Counts the rows, and names the first of them and their tokens.
        """
        foreign = np.fromiter(self.foreign, dtype=np.int64, count=len(self.foreign))
        rows_of: dict[int, list[str]] = {}
        bad_rows = []
        for where, ids in rows:
            if not ids.size or (not foreign.size and int(ids.min()) >= 0 and int(ids.max()) < self.num_ids):
                continue
            unknown = np.unique(ids[(ids < 0) | (ids >= self.num_ids) | np.isin(ids, foreign)])
            bad_rows += [where] * bool(unknown.size)
            for number in unknown.tolist():
                rows_of.setdefault(number, []).append(where)
        if not rows_of:
            return
        tokens = _by_id(writer)
        shown = ", ".join(
            f"{tokens[number]!r} (id {number}, {_rows(len(own))})" if number in tokens else f"id {number}"
            for number, own in list(rows_of.items())[:NUM_NAMED]
        )
        more = f" and {len(rows_of) - NUM_NAMED:,} more" if len(rows_of) > NUM_NAMED else ""
        raise AlignmentError(
            f"{_rows(len(bad_rows))} ({', '.join(bad_rows[:NUM_NAMED])}{', ...' * (len(bad_rows) > NUM_NAMED)}) with "
            f"tokens that {self.name} does not have: {shown}{more}. {self.remedy}"
        )


def _rows(count: int) -> str:
    return f"{count:,} row{'s' * (count != 1)}"
