"""What one stored signal looks like: the columns whose positions have a fixed number of bytes.

In: a dict of tensors over N positions. Out: ``uint8 [N, stride]`` records, and back.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from tutelage.errors import CapabilityError
from tutelage.store import value_digest

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
TensorDict = dict[str, Tensor]


class Column(ABC):
    """One signal of one teacher: its name, its bytes and the way between tensors and bytes.

    Every record is little-endian and ``stride`` bytes long, so that the records of any rows can
    be gathered and decoded in one go.
    """

    kind: ClassVar[str]

    @property
    @abstractmethod
    def name(self) -> str:
        """The folder's name: unique among the columns of one teacher."""

    @property
    @abstractmethod
    def parts(self) -> dict[str, int]:
        """Bytes per position, by what they hold (ids, values, ...)."""

    @property
    @abstractmethod
    def spec(self) -> dict[str, Any]:
        """JSON that :func:`tutelage.cache.columns.column_from_spec` turns back into this column."""

    @property
    def stride(self) -> int:
        """Bytes per position."""
        return sum(self.parts.values())

    def positions_of(self, positions: np.ndarray) -> np.ndarray:
        """Choose, of a row's wanted positions, those that this column stores."""
        return positions

    @abstractmethod
    def first_problem(self, tensors: TensorDict) -> tuple[int, str] | None:
        """Find the first position that must not be stored: its index and what is wrong with it."""

    @abstractmethod
    def encode(self, tensors: TensorDict) -> np.ndarray:
        """Turn tensors over N positions into ``uint8 [N, stride]``."""

    @abstractmethod
    def decode(self, records: np.ndarray) -> TensorDict:
        """Turn ``uint8 [N, stride]`` into tensors over N positions."""

    def serves(self, wanted: "Column") -> bool:
        """Say whether a request for ``wanted`` can be answered from this column."""
        return self == wanted

    def narrow(self, tensors: TensorDict, wanted: "Column") -> TensorDict:
        """Cut what this column holds down to what ``wanted`` asks for."""
        return tensors


@dataclass(frozen=True)
class FinalHiddenColumn(Column):
    """The teacher's last hidden state; with the copy of its head this is every logit, exactly.

    ``dtype`` is the teacher's compute dtype when the round trip is to be exact.
    """

    width: int  # E
    dtype: str = "bf16"

    kind: ClassVar[str] = "final_hidden"

    def __post_init__(self) -> None:
        require_dtype(self.dtype, self.kind)

    @property
    @override
    def name(self) -> str:
        return f"final_hidden-e{self.width}-{self.dtype}"

    @property
    @override
    def parts(self) -> dict[str, int]:
        return {"values": self.width * DTYPES[self.dtype].itemsize}

    @property
    @override
    def spec(self) -> dict[str, Any]:
        return {"kind": self.kind, "width": self.width, "dtype": self.dtype}

    @override
    def first_problem(self, tensors: TensorDict) -> tuple[int, str] | None:
        stored_NE = tensors["hidden_NE"].to(DTYPES[self.dtype])
        return first_true(~stored_NE.isfinite().all(dim=1), f"a hidden value is not finite in {self.dtype}")

    @override
    def encode(self, tensors: TensorDict) -> np.ndarray:
        return to_bytes(tensors["hidden_NE"], DTYPES[self.dtype])

    @override
    def decode(self, records: np.ndarray) -> TensorDict:
        return {"hidden_NE": from_bytes(records, DTYPES[self.dtype])}


@dataclass(frozen=True)
class ClassScoresColumn(Column):
    """The log-probability of each label's one-token verbaliser at a row's first wanted position.

    The log-softmax runs over the whole vocabulary, so the scores of a row need not sum to 1.
    """

    class_token_ids: tuple[int, ...]

    kind: ClassVar[str] = "class_scores"

    def __post_init__(self) -> None:
        object.__setattr__(self, "class_token_ids", tuple(int(token) for token in self.class_token_ids))
        if len(set(self.class_token_ids)) != len(self.class_token_ids) or len(self.class_token_ids) < 2:
            raise CapabilityError(
                f"class_scores was given the verbaliser ids {list(self.class_token_ids)}. Expected at least two, all "
                "different; change the verbalisers of the task."
            )

    @property
    @override
    def name(self) -> str:
        digest = value_digest(list(self.class_token_ids), length=8)
        return f"class_scores-c{len(self.class_token_ids)}-{digest}"

    @property
    @override
    def parts(self) -> dict[str, int]:
        return {"values": 4 * len(self.class_token_ids)}

    @property
    @override
    def spec(self) -> dict[str, Any]:
        return {"kind": self.kind, "class_token_ids": list(self.class_token_ids)}

    @override
    def positions_of(self, positions: np.ndarray) -> np.ndarray:
        return positions[:1]

    @override
    def first_problem(self, tensors: TensorDict) -> tuple[int, str] | None:
        scores_NC = tensors["scores_NC"]
        wrong_N = ~(scores_NC.isfinite() & (scores_NC <= 0)).all(dim=1)
        return first_true(wrong_N, "a class score is not a finite log-probability")

    @override
    def encode(self, tensors: TensorDict) -> np.ndarray:
        return to_bytes(tensors["scores_NC"], torch.float32)

    @override
    def decode(self, records: np.ndarray) -> TensorDict:
        return {"scores_NC": from_bytes(records, torch.float32)}


def require_dtype(dtype: str, kind: str) -> None:
    """Refuse a dtype that has no codec.

    Raises:
        CapabilityError: If ``dtype`` is not a key of ``DTYPES``.
    """
    if dtype not in DTYPES:
        raise CapabilityError(f"{kind} cannot be stored as {dtype!r}. Expected one of {', '.join(DTYPES)}.")


def first_true(wrong_N: Tensor, reason: str) -> tuple[int, str] | None:
    """Return the first marked position with ``reason``, or None when none is marked."""
    return (int(wrong_N.to(torch.uint8).argmax()), reason) if bool(wrong_N.any()) else None


def to_bytes(values_NX: Tensor, dtype: torch.dtype) -> np.ndarray:
    """Lay out a matrix as ``uint8 [N, bytes]``, little-endian, rounded to ``dtype``."""
    stored_NX = values_NX.detach().to("cpu", dtype).contiguous()
    return stored_NX.view(torch.uint8).numpy()


def from_bytes(records: np.ndarray, dtype: torch.dtype) -> Tensor:
    """Undo :func:`to_bytes`; the result owns its memory."""
    flat = torch.from_numpy(np.array(records, dtype=np.uint8, order="C").reshape(-1))
    return flat.view(dtype).reshape(records.shape[0], records.shape[1] // dtype.itemsize)
