"""The teacher's logits in tiles of positions: the head is applied once, and every column takes what it needs.

In: hidden states, the head. Out: ``LogitTile``s in float32; nothing of size [N, U] is ever alive.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tutelage.types import OutputHead

TILE_ELEMENTS = 2**24  # logits of a tile: 64 MiB, twice (the second for exponentials); larger tiles are not faster
VOCAB_BLOCK = 8192  # rows of a low-precision head upcast at a time
KEPT_HEAD_BYTES = 2**30  # a float32 copy of the head up to this size is kept: upcasting costs a fifth of a tile
CHUNK_ROWS = 16  # exponentials of so many positions at a time: 3 MiB at V = 49k, 16 % faster than whole tiles
TOP_BLOCK = 64  # ids per block of the two-stage top-k
TOP_SHARE = 4  # two stages pay while the blocks to search hold at most this part of the vocabulary


def head_logits(hidden_NE: Float[Tensor, "N E"], head: OutputHead) -> Float[Tensor, "N U"]:
    """Apply the head with a float32 product, whatever the dtype of its weight.

    A bfloat16 product returns logits with 8 bits on a CPU: a softmax error of 1.2 % at |z| = 10
    and 3.7 % at 32. The weight is upcast in blocks, so no float32 copy of it is alive.
    """
    if head.weight_VD.dtype == torch.float32:
        return head.logits(hidden_NE)
    num_ids = head.weight_VD.shape[0]
    logits_NU = torch.empty(hidden_NE.shape[0], num_ids, dtype=torch.float32, device=hidden_NE.device)
    for start in range(0, num_ids, VOCAB_BLOCK):
        block = slice(start, start + VOCAB_BLOCK)
        bias = None if head.bias_V is None else head.bias_V[block].float()
        part = OutputHead(head.weight_VD[block].float(), bias, head.scale, head.softcap)
        logits_NU[:, block] = part.logits(hidden_NE)
    return logits_NU


class LogitTile:
    """Logits of a few positions, float32 [n, U], and what several columns take from them.

    Sums are taken with each row's largest logit off; a NaN anywhere in a row makes everything of it NaN.
    """

    def __init__(self, logits_nU: Float[Tensor, "n U"], scratch_nU: Float[Tensor, "n U"]) -> None:
        self.logits_nU, self._scratch_nU = logits_nU, scratch_nU
        self._block_max = None
        if logits_nU.shape[1] % TOP_BLOCK == 0:
            self._block_max = logits_nU.unflatten(1, (-1, TOP_BLOCK)).amax(dim=2)
        self.max_n1 = (logits_nU if self._block_max is None else self._block_max).amax(dim=1, keepdim=True)
        self._log_sums: dict[float, Tensor] = {}

    def exps(self, temperature: float) -> Float[Tensor, "n U"]:
        """Return ``exp((z - max) / temperature)``; the memory is reused by the next call."""
        sums = [self._exp_rows(rows, temperature, out=self._scratch_nU[rows]) for rows in self._chunks()]
        self._log_sums[temperature] = torch.cat(sums).log()
        return self._scratch_nU

    def log_sum(self, temperature: float) -> Float[Tensor, " n"]:
        """Return ``log sum_v exp((z_v - max) / temperature)``."""
        if temperature not in self._log_sums:
            same = self._scratch_nU[: self._chunks()[0].stop]  # one chunk's memory for all: it stays in the cache
            sums = [self._exp_rows(rows, temperature, out=same[: rows.stop - rows.start]) for rows in self._chunks()]
            self._log_sums[temperature] = torch.cat(sums).log()
        return self._log_sums[temperature]

    def _chunks(self) -> list[slice]:
        count = len(self.logits_nU)
        size = CHUNK_ROWS if self.logits_nU.device.type == "cpu" else max(1, count)
        return [slice(start, min(start + size, count)) for start in range(0, max(1, count), size)]

    def _exp_rows(self, rows: slice, temperature: float, *, out: Tensor) -> Tensor:
        torch.sub(self.logits_nU[rows], self.max_n1[rows], out=out)
        if temperature != 1.0:
            out.mul_(1 / temperature)
        return out.exp_().sum(dim=1)

    def logprobs(self, ids_nK: Int[Tensor, "n K"], temperature: float = 1.0) -> Float[Tensor, "n K"]:
        """Return ``log p_T`` of some ids, over the whole vocabulary; a rounding above 0 is 0."""
        shifted_nK = self.logits_nU.gather(1, ids_nK) - self.max_n1
        return (shifted_nK / temperature - self.log_sum(temperature)[:, None]).clamp(max=0)

    def log_z(self, temperature: float) -> Float[Tensor, " n"]:
        """Return ``log sum_v p_v ** (1 / temperature)``."""
        return self.log_sum(temperature) - self.log_sum(1.0) / temperature

    def top(self, k: int) -> Int[Tensor, "n k"]:
        """Return the ids of the k largest logits, largest first; exact.

        In two stages where that pays: the k blocks with the largest maxima hold k largest entries, since a block
        outside of them would need k larger maxima in front of it.
        """
        num_ids = self.logits_nU.shape[1]
        if self._block_max is None or k * TOP_BLOCK * TOP_SHARE > num_ids:
            return self.logits_nU.topk(k, dim=1).indices
        blocks_nk = self._block_max.topk(k, dim=1, sorted=False).indices
        places = blocks_nk[:, :, None] * TOP_BLOCK + torch.arange(TOP_BLOCK, device=blocks_nk.device)
        ids_nC = places.flatten(1)
        return ids_nC.gather(1, self.logits_nU.gather(1, ids_nC).topk(k, dim=1).indices)


class TiledHead:
    """An output head that is applied tile by tile, with float32 results whatever its dtype."""

    def __init__(self, head: OutputHead) -> None:
        """Upcast the weight once where a float32 copy of it is small enough."""
        self.head = head
        weight_UE = head.weight_VD
        keeps = weight_UE.dtype == torch.float32 or 4 * weight_UE.numel() <= KEPT_HEAD_BYTES
        self.kept_UE = weight_UE.detach().float() if keeps else None
        self._buffers: tuple[Tensor, Tensor] | None = None

    def tiles(self, hidden_NE: Float[Tensor, "N E"]) -> Iterator[LogitTile]:
        """Yield the logits of a few positions at a time; a tile is valid until the next one is asked for."""
        num_ids = self.head.weight_VD.shape[0]
        size = max(1, TILE_ELEMENTS // num_ids)
        buffer, scratch = self._get_buffers(size, hidden_NE.device)
        for tile_nE in hidden_NE.split(size):
            logits_nU = buffer[: len(tile_nE)]
            self._multiply(tile_nE, logits_nU)
            yield LogitTile(self._finish(logits_nU), scratch[: len(tile_nE)])

    def _get_buffers(self, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Memory that is used again: fresh pages cost as much as the exponentials written to them."""
        if self._buffers is None or self._buffers[0].device != device:
            shape = (size, self.head.weight_VD.shape[0])
            self._buffers = (torch.empty(shape, device=device), torch.empty(shape, device=device))
        return self._buffers

    def _multiply(self, hidden_nE: Tensor, logits_nU: Tensor) -> None:
        weight_UE = self.head.weight_VD
        with exact_bf16_products(hidden_nE, weight_UE):
            if self.kept_UE is not None:
                torch.mm(hidden_nE.float(), self.kept_UE.T, out=logits_nU)
                return
            for start in range(0, len(weight_UE), VOCAB_BLOCK):
                block = slice(start, start + VOCAB_BLOCK)
                logits_nU[:, block] = hidden_nE.float() @ weight_UE[block].float().T

    def _finish(self, logits_nU: Tensor) -> Tensor:
        if self.head.bias_V is not None:
            logits_nU += self.head.bias_V.float()
        if self.head.scale != 1.0:
            logits_nU *= self.head.scale
        if self.head.softcap is not None:
            logits_nU.div_(self.head.softcap).tanh_().mul_(self.head.softcap)
        return logits_nU


@contextlib.contextmanager
def exact_bf16_products(left: Tensor, right: Tensor) -> Iterator[None]:
    """Run float32 products of values that *are* bfloat16 on the CPU's bfloat16 units, where it has them.

    Such inputs lose nothing, sums stay float32: the same logits to float32 rounding, a quarter faster with AVX-512
    and several times with AMX. Other inputs are multiplied in float32.
    """
    if left.device.type != "cpu" or left.dtype != torch.bfloat16 or right.dtype != torch.bfloat16:
        yield
        return
    settings: Any = torch.backends.mkldnn.matmul  # pyright: ignore[reportAttributeAccessIssue]
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        yield
    finally:
        settings.fp32_precision = before
