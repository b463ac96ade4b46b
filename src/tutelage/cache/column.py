"""What one stored signal looks like.

In: a dict of tensors over N positions. Out: one block of bytes per row, and back.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from tutelage.types import TeacherRow

TensorDict = dict[str, Tensor]
RUN_ENTRIES = 2**17  # checked and encoded at a time: half a MiB as float32, which stays in a core's own cache


class Column(ABC):
    """One signal of one teacher: its name, its bytes and the way between tensors and bytes.

    A row's positions are encoded together, as one block; nothing of another row is needed to decode it.
    """

    kind: ClassVar[str]

    @property
    @abstractmethod
    def name(self) -> str:
        """The folder's name: unique among the columns of one teacher."""

    @property
    @abstractmethod
    def spec(self) -> dict[str, Any]:
        """JSON that :func:`tutelage.cache.columns.column_from_spec` turns back into this column."""

    @property
    @abstractmethod
    def max_bytes(self) -> float:
        """Bytes per position at the most, row index left out: what a forecast counts with."""

    def positions_of(self, row: TeacherRow) -> np.ndarray:
        """Choose which positions of a row this column stores: by default the wanted ones."""
        return row.positions

    @abstractmethod
    def first_problem(self, tensors: TensorDict) -> tuple[int, str] | None:
        """Find the first position that must not be stored: its index and what is wrong with it."""

    @abstractmethod
    def encode_rows(self, tensors: TensorDict, counts: np.ndarray) -> list[bytes]:
        """Encode rows of ``counts`` positions each, laid end to end in ``tensors``: one block per row."""

    @abstractmethod
    def decode_rows(self, blocks: Sequence[np.ndarray], counts: np.ndarray) -> TensorDict:
        """Undo :meth:`encode_rows`; blocks are ``uint8 [bytes]``, their own tensors come out."""

    @abstractmethod
    def count_parts(self, blocks: Iterable[np.ndarray], counts: np.ndarray) -> dict[str, int]:
        """Split the bytes of some blocks by what they hold (ids, values, ...); blocks are read only where needed."""

    def fits(self, num_bytes: np.ndarray, counts: np.ndarray) -> bool:
        """Say whether blocks of ``num_bytes`` [R] can hold ``counts`` [R] positions."""
        return bool((num_bytes >= 0).all())

    def decode_places(self, blocks: Sequence[np.ndarray], counts: np.ndarray, places: np.ndarray) -> TensorDict:
        """Decode only some positions: ``places`` [M] indexes the rows' positions laid end to end."""
        tensors = self.decode_rows(blocks, counts)
        if np.array_equal(places, np.arange(counts.sum())):
            return tensors
        return {name: tensor[places] for name, tensor in tensors.items()}

    def serves(self, wanted: "Column") -> bool:
        """Say whether a request for ``wanted`` can be answered from this column."""
        return self == wanted

    def narrow(self, tensors: TensorDict, wanted: "Column") -> TensorDict:
        """Cut what this column holds down to what ``wanted`` asks for."""
        return tensors


def first_true(wrong_N: Tensor, reason: str) -> tuple[int, str] | None:
    """Return the first marked position with ``reason``, or None when none is marked."""
    return (int(wrong_N.int().argmax()), reason) if bool(wrong_N.any()) else None


def runs(num_positions: int, width: int) -> Iterator[slice]:
    """Cut N positions of ``width`` entries into runs that a core works on in its own cache."""
    size = max(1, RUN_ENTRIES // max(1, width))
    for start in range(0, num_positions, size):
        yield slice(start, start + size)


def first_problem_in_runs(
    arrays: Sequence[np.ndarray], find: Callable[..., tuple[int, str] | None]
) -> tuple[int, str] | None:
    """Ask ``find`` about each run of positions: the first problem, its index counted over all.

    Args:
        arrays: Over the same N positions, the first one at least as wide as the others.
        find: Takes a run of each array.
    """
    for run in runs(*arrays[0].shape):
        problem = find(*(array[run] for array in arrays))
        if problem is not None:
            return run.start + problem[0], problem[1]
    return None


def first_named(checks: Mapping[str, Any]) -> tuple[int, str] | None:
    """Return the first position that a check marks, bool [N], of the first check that marks any; its name is why."""
    return next(((int(wrong_N.argmax()), reason) for reason, wrong_N in checks.items() if wrong_N.any()), None)


def holds_repeat(ids_NK: np.ndarray, vocab_size: int) -> np.ndarray:
    """Mark the rows with an id that occurs twice, bool [N]; the ids are in [0, ``vocab_size``).

    Rows are sorted in the narrowest integers that hold an id: with 16 bits four times as many fit into a register.
    """
    ordered_NK = ids_NK.astype(np.min_scalar_type(vocab_size - 1))
    ordered_NK.sort(axis=1)
    return (ordered_NK[:, 1:] == ordered_NK[:, :-1]).any(axis=1)


def to_arrays(tensors: TensorDict, *names: str) -> list[np.ndarray]:
    """Look at some tensors as numpy arrays on the CPU."""
    return [tensors[name].detach().cpu().numpy() for name in names]
