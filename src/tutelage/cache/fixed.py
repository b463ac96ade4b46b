"""Columns whose positions all take the same number of bytes.

In: a dict of tensors over N positions. Out: ``uint8 [N, stride]`` records, and back.
"""

from abc import abstractmethod
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from tutelage.cache.column import Column, TensorDict, runs
from tutelage.errors import CapabilityError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


class FixedColumn(Column):
    """A column of little-endian records; those of any rows can be gathered and decoded in one go."""

    @property
    @abstractmethod
    def parts(self) -> dict[str, int]:
        """Bytes per position, by what they hold (ids, values, ...)."""

    @property
    def stride(self) -> int:
        """Bytes per position."""
        return sum(self.parts.values())

    @property
    @override
    def max_bytes(self) -> float:
        return self.stride

    @abstractmethod
    def encode(self, tensors: TensorDict) -> np.ndarray:
        """Turn tensors over N positions into ``uint8 [N, stride]``."""

    @abstractmethod
    def decode(self, records: np.ndarray) -> TensorDict:
        """Turn ``uint8 [N, stride]`` into tensors over N positions."""

    @override
    def encode_rows(self, tensors: TensorDict, counts: np.ndarray) -> list[bytes]:
        records = np.empty((counts.sum(), self.stride), dtype=np.uint8)
        assert all(len(tensor) == len(records) for tensor in tensors.values()), (len(records), self.name)
        for run in runs(len(records), max(tensor.shape[1] for tensor in tensors.values())):
            records[run] = self.encode({name: tensor[run] for name, tensor in tensors.items()})
        whole, sizes = records.reshape(-1).data, counts * self.stride  # a memoryview: slices cost less than an array's
        ends = np.cumsum(sizes).tolist()
        return [whole[end - size : end].tobytes() for end, size in zip(ends, sizes.tolist(), strict=True)]

    @override
    def decode_rows(self, blocks: Sequence[np.ndarray], counts: np.ndarray) -> TensorDict:
        return self.decode(self._records(blocks))

    @override
    def decode_places(self, blocks: Sequence[np.ndarray], counts: np.ndarray, places: np.ndarray) -> TensorDict:
        records = self._records(blocks)
        if not np.array_equal(places, np.arange(len(records))):  # whole rows are the common case: no copy
            records = records[places]
        return self.decode(records)

    @override
    def count_parts(self, blocks: Iterable[np.ndarray], counts: np.ndarray) -> dict[str, int]:
        return {name: size * int(counts.sum()) for name, size in self.parts.items()}

    @override
    def fits(self, num_bytes: np.ndarray, counts: np.ndarray) -> bool:
        return bool((num_bytes == counts * self.stride).all())

    def _records(self, blocks: Sequence[np.ndarray]) -> np.ndarray:
        if not blocks:
            return np.empty((0, self.stride), dtype=np.uint8)
        whole = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
        return whole.reshape(-1, self.stride)


def require_dtype(dtype: str, kind: str) -> None:
    """Refuse a dtype that has no codec.

    Raises:
        CapabilityError: If ``dtype`` is not a key of ``DTYPES``.
    """
    if dtype not in DTYPES:
        raise CapabilityError(f"{kind} cannot be stored as {dtype!r}. Expected one of {', '.join(DTYPES)}.")


def to_bytes(values_NX: Tensor, dtype: torch.dtype) -> np.ndarray:
    """Lay out a matrix as ``uint8 [N, bytes]``, little-endian, rounded to ``dtype``."""
    stored_NX = values_NX.detach().to("cpu", dtype).contiguous()
    return stored_NX.view(torch.uint8).numpy()


def from_bytes(records: np.ndarray, dtype: torch.dtype) -> Tensor:
    """Undo :func:`to_bytes`; the result owns its memory."""
    flat = torch.from_numpy(np.array(records, dtype=np.uint8, order="C").reshape(-1))
    return flat.view(dtype).reshape(records.shape[0], records.shape[1] // dtype.itemsize)
