"""Walk over N positions in chunks whose ``[M, V]`` tiles stay small, and reuse the tiles' memory.

In: sizes, output heads, hidden states. Out: chunk bounds, buffers, tiles of logits.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from torch import Tensor

from tutelage.types import OutputHead

# Large enough for the matrix products to run at full speed, small enough not to matter beside a model.
# Fresh 50 MB tiles cost more in page faults than the exp over them (33 ms against 15 ms): hence the buffers.
TILE_BYTES = 48 * 2**20


def chunk_bounds(num_positions: int, *, vocab_size: int, chunk: int | None) -> list[tuple[int, int]]:
    """Cut positions into near-equal chunks.

    Args:
        num_positions: N.
        vocab_size: Columns of a tile.
        chunk: Most positions per chunk; None chooses it so that a float32 tile takes ``TILE_BYTES``.

    Returns:
        Start and stop of each chunk, in order; empty for N = 0.

    Raises:
        ValueError: If ``chunk`` is below 1.
    """
    if chunk is None:
        chunk = max(1, TILE_BYTES // (4 * vocab_size))
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


def head_tile(hidden_MD: Tensor, head: OutputHead, *, out_MV: Tensor, buffers: TileBuffers) -> None:
    """Write the head's logits into a tile: the same products as ``OutputHead.logits``, in the weight's dtype.

    Args:
        hidden_MD: Hidden states of one chunk, any float dtype.
        head: Detached. Its weight may be narrower than the tile; then the product is rounded to the weight's dtype
            first, as ``torch.nn.functional.linear`` does.
        out_MV: float32 or float64; overwritten.
        buffers: Where the narrow product lives.
    """
    weight_VD = head.weight_VD
    narrow = weight_VD.dtype != out_MV.dtype
    product_MV = buffers.take("product", out_MV.shape, weight_VD.dtype) if narrow else out_MV
    hidden_MD = hidden_MD.to(weight_VD.dtype)
    if head.bias_V is None:
        torch.mm(hidden_MD, weight_VD.t(), out=product_MV)
    else:
        torch.addmm(head.bias_V, hidden_MD, weight_VD.t(), out=product_MV)
    if narrow:
        out_MV.copy_(product_MV)
    if head.softcap is not None:
        out_MV.mul_(head.scale / head.softcap).tanh_().mul_(head.softcap)
    elif head.scale != 1.0:
        out_MV.mul_(head.scale)


def chain_through_head(grad_MV: Tensor, logits_MV: Tensor, head: OutputHead) -> None:
    """Turn a gradient with respect to logits, in place, into one with respect to ``h @ weight.T + bias``.

    ``d softcap * tanh(scale * x / softcap) / dx = scale * (1 - (logits / softcap)**2)``. The logits are overwritten.
    """
    if head.softcap is not None:
        grad_MV.mul_(logits_MV.mul_(1.0 / head.softcap).square_().neg_().add_(1.0))
    if head.scale != 1.0:
        grad_MV.mul_(head.scale)
