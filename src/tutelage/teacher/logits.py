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

# Logits of a tile: 64 MiB, twice (the second for exponentials). Larger ones are not faster on a CPU; a GPU wants more.
TILE_ELEMENTS, CUDA_TILE_ELEMENTS = 2**24, 2**26
VOCAB_BLOCK = 8192  # rows of a low-precision head upcast at a time
KEPT_HEAD_BYTES = 2**30  # a float32 copy of the head up to this size is kept: upcasting costs a fifth of a tile
CHUNK_ROWS = 16  # on a CPU, softmax of so many positions where only its sum is wanted: 3 MiB at V = 49k
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
    if on_matrix_units(hidden_NE, head.weight_VD):
        torch.mm(hidden_NE, head.weight_VD.detach().T, out_dtype=torch.float32, out=logits_NU)
        return finish_float32(logits_NU, head)
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
        self._largest_n1 = self._find_largest()
        self.max_n1 = logits_nU.gather(1, self._largest_n1)
        self._log_sums: dict[float, Tensor] = {}
        self._chunk_rows = CHUNK_ROWS if logits_nU.device.type == "cpu" else len(logits_nU)

    def probs(self, temperature: float) -> Float[Tensor, "n U"]:
        """Return ``p_T``; the memory is reused by the next call."""
        self._log_sums[temperature] = self._softmax(temperature, self._scratch_nU)
        return self._scratch_nU

    def log_sum(self, temperature: float) -> Float[Tensor, " n"]:
        """Return ``log sum_v exp((z_v - max) / temperature)``."""
        if temperature not in self._log_sums:
            # one chunk's memory for all: it stays in the cache
            self._log_sums[temperature] = self._softmax(temperature, self._scratch_nU[: self._chunk_rows])
        return self._log_sums[temperature]

    def _softmax(self, temperature: float, out: Tensor) -> Float[Tensor, " n"]:
        """Write ``p_T`` into ``out``, again and again from its start where it has fewer rows; return the log-sums.

        ``log sum exp((z - max) / T)`` is minus the logarithm of the largest probability. A softmax is one fused pass,
        twice as fast as a difference and exponentials, but on a CPU its own sum adds one after the other in float32,
        1e-5 off over 49k ids; ``sum_v p_v``, added in pairs, says by how much.
        """
        size = max(1, self._chunk_rows if len(out) < len(self.logits_nU) or temperature != 1.0 else len(out))
        cooled = torch.empty_like(self.logits_nU[:size]) if temperature != 1.0 else None
        log_sums = [self.max_n1[:0, 0]]
        for start in range(0, len(self.logits_nU), size):
            z_cU = self.logits_nU[start : start + size]
            if cooled is not None:
                z_cU = torch.mul(z_cU, 1 / temperature, out=cooled[: len(z_cU)])
            first = start if len(out) == len(self.logits_nU) else 0
            probs_cU = torch.softmax(z_cU, dim=1, out=out[first : first + len(z_cU)])
            largest_c = probs_cU.gather(1, self._largest_n1[start : start + size])[:, 0]
            log_sums.append((probs_cU.sum(dim=1) / largest_c).log())
        return torch.cat(log_sums)

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
        places_nk = self._read_blocks(blocks_nk).topk(k, dim=1).indices
        return blocks_nk.gather(1, places_nk // TOP_BLOCK) * TOP_BLOCK + places_nk % TOP_BLOCK

    def _find_largest(self) -> Int[Tensor, "n 1"]:
        if self._block_max is None:
            return self.logits_nU.argmax(dim=1, keepdim=True)
        block_n1 = self._block_max.argmax(dim=1, keepdim=True)
        return block_n1 * TOP_BLOCK + self._read_blocks(block_n1).argmax(dim=1, keepdim=True)

    def _read_blocks(self, blocks_nB: Int[Tensor, "n B"]) -> Float[Tensor, "n C"]:
        """Copy whole blocks of a row's logits next to each other: faster than one by one."""
        num_rows, num_ids = self.logits_nU.shape
        first_n1 = torch.arange(num_rows, device=blocks_nB.device)[:, None] * (num_ids // TOP_BLOCK)
        chosen = self.logits_nU.view(-1, TOP_BLOCK).index_select(0, (first_n1 + blocks_nB).flatten())
        return chosen.view(num_rows, blocks_nB.shape[1] * TOP_BLOCK)


class TiledHead:
    """An output head that is applied tile by tile, with float32 results whatever its dtype."""

    def __init__(self, head: OutputHead) -> None:
        """Upcast the weight once where a float32 copy of it is small enough."""
        self.head = head
        weight_UE = head.weight_VD
        is_small = 4 * weight_UE.numel() <= KEPT_HEAD_BYTES and not on_matrix_units(weight_UE, weight_UE)
        keeps = weight_UE.dtype == torch.float32 or is_small
        self.kept_UE = weight_UE.detach().float() if keeps else None
        self._buffers: tuple[Tensor, Tensor] | None = None

    def tiles(self, hidden_NE: Float[Tensor, "N E"]) -> Iterator[LogitTile]:
        """Yield the logits of a few positions at a time; a tile is valid until the next one is asked for."""
        num_ids = self.head.weight_VD.shape[0]
        size = max(1, (CUDA_TILE_ELEMENTS if hidden_NE.is_cuda else TILE_ELEMENTS) // num_ids)
        buffer, scratch = self._get_buffers(size, hidden_NE.device)
        for tile_nE in hidden_NE.split(size):
            logits_nU = buffer[: len(tile_nE)]
            self._multiply(tile_nE, logits_nU)
            yield LogitTile(finish_float32(logits_nU, self.head), scratch[: len(tile_nE)])

    def _get_buffers(self, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Memory that is used again: fresh pages cost as much as the exponentials written to them."""
        if self._buffers is None or self._buffers[0].device != device:
            shape = (size, self.head.weight_VD.shape[0])
            self._buffers = (torch.empty(shape, device=device), torch.empty(shape, device=device))
        return self._buffers

    def _multiply(self, hidden_nE: Tensor, logits_nU: Tensor) -> None:
        weight_UE = self.head.weight_VD
        if on_matrix_units(hidden_nE, weight_UE):
            torch.mm(hidden_nE, weight_UE.detach().T, out_dtype=torch.float32, out=logits_nU)
            return
        with exact_bf16_products(hidden_nE, weight_UE):
            if self.kept_UE is not None:
                torch.mm(hidden_nE.float(), self.kept_UE.T, out=logits_nU)
                return
            for start in range(0, len(weight_UE), VOCAB_BLOCK):
                block = slice(start, start + VOCAB_BLOCK)
                logits_nU[:, block] = hidden_nE.float() @ weight_UE[block].float().T


def finish_float32(logits_nU: Float[Tensor, "n U"], head: OutputHead) -> Float[Tensor, "n U"]:
    """Add the bias, scale and cap, in place."""
    if head.bias_V is not None:
        logits_nU += head.bias_V.float()
    if head.scale != 1.0:
        logits_nU *= head.scale
    if head.softcap is not None:
        logits_nU.div_(head.softcap).tanh_().mul_(head.softcap)
    return logits_nU


def on_matrix_units(hidden: Tensor, weight: Tensor) -> bool:
    """Tell whether a GPU multiplies these in 16 bits, and adds and returns float32: ten times faster, digits kept.

    An H100, 1,024 positions, V = 128,256: 0.9 ms against 10.4 ms, largest error 5e-5 against 2e-5 (docs/gpu.md).
    """
    return hidden.is_cuda and hidden.dtype == weight.dtype and hidden.dtype in (torch.bfloat16, torch.float16)


@contextlib.contextmanager
def exact_bf16_products(left: Tensor, right: Tensor) -> Iterator[None]:
    """Let oneDNN run float32 products of values that *are* bfloat16, on a CPU's bfloat16 units where it can.

    Such inputs lose nothing, sums and results stay float32. With AMX it takes the matrix units, several times faster.
    With AVX-512 it has no kernel from bfloat16 to float32 for this call and takes its own float32 one, a third faster
    than MKL's; a product with bfloat16 results is another 1.8 times faster, and has 8 bits. Other inputs are
    multiplied in float32.
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
