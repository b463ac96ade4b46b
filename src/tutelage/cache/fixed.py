"""Columns whose positions all take the same number of bytes, before compression.

In: a dict of tensors over N positions. Out: ``uint8 [N, stride]`` records, and back.
"""

from abc import abstractmethod
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from tutelage.cache.column import Column, TensorDict, runs
from tutelage.cache.planes import LENGTH, PlaneReader, pack_planes
from tutelage.errors import CapabilityError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


class FixedColumn(Column):
    """A column of little-endian records; those of any rows can be gathered and decoded in one go.

    The records of a row lie end to end. A column with ``planes`` cuts its records into these pieces instead, joins the
    pieces of a row's positions to one plane per piece, and compresses each.
    """

    @property
    @abstractmethod
    def parts(self) -> dict[str, int]:
        """Bytes per position, by what they hold (ids, values, ...)."""

    @property
    def stride(self) -> int:
        """Bytes per position."""
        return sum(self.parts.values())

    @property
    def planes(self) -> dict[str, list[int]]:
        """Bytes of each piece of a record, by the part that they belong to; empty if rows are not compressed."""
        return {}

    @property
    @override
    def max_bytes(self) -> float:
        return self.stride + LENGTH.size * sum(map(len, self.planes.values()))

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
        if self.planes:
            return [self._compressed(part) for part in np.split(records, np.cumsum(counts)[:-1])]
        whole, sizes = records.reshape(-1).data, counts * self.stride  # a memoryview: slices cost less than an array's
        ends = np.cumsum(sizes).tolist()
        return [whole[end - size : end].tobytes() for end, size in zip(ends, sizes.tolist(), strict=True)]

    @override
    def decode_rows(self, blocks: Sequence[np.ndarray], counts: np.ndarray) -> TensorDict:
        return self.decode(self._records(blocks, counts))

    @override
    def decode_places(self, blocks: Sequence[np.ndarray], counts: np.ndarray, places: np.ndarray) -> TensorDict:
        records = self._records(blocks, counts)
        if not np.array_equal(places, np.arange(len(records))):  # whole rows are the common case: no copy
            records = records[places]
        return self.decode(records)

    @override
    def count_parts(self, blocks: Iterable[np.ndarray], counts: np.ndarray) -> dict[str, int]:
        if not self.planes:
            return {name: size * int(counts.sum()) for name, size in self.parts.items()}
        return self._decompressed(list(blocks), counts)[1]

    @override
    def fits(self, num_bytes: np.ndarray, counts: np.ndarray) -> bool:
        if not self.planes:
            return bool((num_bytes == counts * self.stride).all())
        num_planes = sum(width > 0 for widths in self.planes.values() for width in widths)
        low, high = np.minimum(counts, 1) * num_planes, counts * self.max_bytes
        return bool(((num_bytes >= low) & (num_bytes <= high)).all())

    def _compressed(self, records: np.ndarray) -> bytes:
        ends = np.cumsum([width for widths in self.planes.values() for width in widths])
        return pack_planes(piece.tobytes() for piece in np.split(records, ends[:-1], axis=1))

    def _decompressed(self, blocks: Sequence[np.ndarray], counts: np.ndarray) -> tuple[np.ndarray, dict[str, int]]:
        """Give the records of some blocks, and the stored bytes of each part."""
        pieces = [(name, width) for name, widths in self.planes.items() for width in widths]
        planes: list[list[bytes]] = [[] for _ in pieces]
        num_bytes = dict.fromkeys(self.planes, 0)
        for block, num_positions in zip(blocks, counts.tolist(), strict=True):
            reader = PlaneReader(block.tobytes())
            for (name, width), own in zip(pieces, planes, strict=True):
                before = reader.cursor
                own.append(reader.plane(width * num_positions))
                num_bytes[name] += reader.cursor - before
            reader.finish()
        joined = [
            np.frombuffer(b"".join(own), dtype=np.uint8).reshape(int(counts.sum()), width)
            for (_, width), own in zip(pieces, planes, strict=True)
        ]
        return np.concatenate(joined, axis=1), num_bytes

    def _records(self, blocks: Sequence[np.ndarray], counts: np.ndarray) -> np.ndarray:
        if not blocks:
            return np.empty((0, self.stride), dtype=np.uint8)
        if self.planes:
            return self._decompressed(blocks, counts)[0]
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
