"""What one stored signal looks like.

In: a dict of tensors over N positions. Out: one block of bytes per row, and back.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from tutelage.types import TeacherRow

TensorDict = dict[str, Tensor]


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


def sorted_rows(ids_NK: Tensor) -> Tensor:
    """Sort each row, ascending, on the CPU; for rows of 50 ids numpy is 15 times faster at it than torch."""
    return torch.from_numpy(np.sort(ids_NK.detach().cpu().numpy(), axis=1))
