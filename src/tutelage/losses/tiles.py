"""Walk over N positions in chunks whose ``[M, V]`` tiles stay small, and reuse the tiles' memory.

In: sizes, output heads, hidden states. Out: chunk bounds, buffers, tiles of products, blocks of logits.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from torch import Tensor

from tutelage.types import OutputHead

# Of one chunk's product, in the weight's dtype: large enough for the products to run at full speed (a row of 128k
# ids costs a third more in a tile of 96 rows than in one of 256: hence at least so many), small enough not to matter
# beside a model. Fresh 50 MB tiles cost more in page faults than the exp over them (33 ms against 15 ms): hence the
# buffers. A GPU wants a thousand rows, and every tile costs launches: at 24 MiB it took five times as long.
TILE_BYTES, CUDA_TILE_BYTES = 24 * 2**20, 2**28
LEAST_ROWS = 256
# Of the rows that are compared at once, in float32. On a CPU a dozen passes over a block stay in a core's cache; over
# whole tiles each costs two to four times as much. Elsewhere every pass is a launch, and larger blocks need fewer.
CPU_BLOCK_BYTES, BLOCK_BYTES, CUDA_BLOCK_BYTES = 2**20, 2**25, 2**28


def tile_bytes(device: torch.device) -> int:
    """Give the memory that one tile may take."""
    return CUDA_TILE_BYTES if device.type == "cuda" else TILE_BYTES


def chunk_bounds(
    num_positions: int, *, row_bytes: int, chunk: int | None, most_bytes: int = TILE_BYTES
) -> list[tuple[int, int]]:
    """Cut positions into near-equal chunks.

    Args:
        num_positions: N.
        row_bytes: Of one row of a tile.
        chunk: Most positions per chunk; None chooses it so that a tile takes ``most_bytes``, or ``LEAST_ROWS`` rows.
        most_bytes: See ``tile_bytes``.

    Returns:
        Start and stop of each chunk, in order; empty for N = 0.

    Raises:
        ValueError: If ``chunk`` is below 1.
    """
    if chunk is None:
        chunk = max(LEAST_ROWS, most_bytes // row_bytes)
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; expected at least 1 position per chunk")
    # Equal sizes: a last chunk of one row would read the whole head for a single position.
    num_chunks = -(-num_positions // chunk)
    edges = [i * num_positions // num_chunks for i in range(num_chunks + 1)] if num_chunks else []
    return list(pairwise(edges))


@dataclass
class TileBuffers:
    """Tiles by name, allocated at first use for the largest chunk."""

    num_rows: int
    device: torch.device
    _tiles: dict[tuple[str, int, torch.dtype], Tensor] = field(default_factory=dict)

    def take(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Give a tile with undefined content; a later call with the same name gives the same memory."""
        num_rows, num_columns = shape
        key = (name, num_columns, dtype)
        if key not in self._tiles:
            self._tiles[key] = torch.empty(self.num_rows, num_columns, dtype=dtype, device=self.device)
        return self._tiles[key][:num_rows]


def head_in_dtype(head: OutputHead, dtype: torch.dtype | None, *, detach: bool = False) -> OutputHead:
    """Give the head with weight and bias in a dtype (None: as it is), connected to the graph unless detached."""
    tensors = []
    for tensor in (head.weight_VD, head.bias_V):
        tensor = tensor.detach() if tensor is not None and detach else tensor
        tensors.append(tensor.to(dtype) if tensor is not None and dtype is not None else tensor)
    return replace(head, weight_VD=tensors[0], bias_V=tensors[1])


def block_rows(row_bytes: int, device: torch.device) -> int:
    """Give how many rows, at least one, are compared at once."""
    most_bytes = {"cpu": CPU_BLOCK_BYTES, "cuda": CUDA_BLOCK_BYTES}.get(device.type, BLOCK_BYTES)
    return max(1, most_bytes // row_bytes)


def multiply_head(hidden_MD: Tensor, head: OutputHead, *, out_MV: Tensor) -> Tensor:
    """Write ``h @ weight.T + bias`` of a chunk into a tile, rounded to the weight's dtype, and return the tile.

    The same products as ``OutputHead.logits``. ``head`` is detached, ``out_MV`` has its weight's dtype.
    """
    weight_VD = head.weight_VD
    hidden_MD = hidden_MD.to(weight_VD.dtype)
    if head.bias_V is None:
        return torch.mm(hidden_MD, weight_VD.t(), out=out_MV)
    return torch.addmm(head.bias_V, hidden_MD, weight_VD.t(), out=out_MV)


def finish_logits(product_mV: Tensor, head: OutputHead, *, out_mV: Tensor) -> Tensor:
    """Write the logits that belong to a few rows of a product into a float32 or float64 block, and return it."""
    out_mV.copy_(product_mV)
    if head.softcap is not None:
        out_mV.mul_(head.scale / head.softcap).tanh_().mul_(head.softcap)
    elif head.scale != 1.0:
        out_mV.mul_(head.scale)
    return out_mV


def chain_through_head(grad_MV: Tensor, logits_MV: Tensor, head: OutputHead) -> None:
    """Turn a gradient with respect to logits, in place, into one with respect to ``h @ weight.T + bias``.

    ``d softcap * tanh(scale * x / softcap) / dx = scale * (1 - (logits / softcap)**2)``. The logits are overwritten.
    """
    if head.softcap is not None:
        grad_MV.mul_(logits_MV.mul_(1.0 / head.softcap).square_().neg_().add_(1.0))
    if head.scale != 1.0:
        grad_MV.mul_(head.scale)
