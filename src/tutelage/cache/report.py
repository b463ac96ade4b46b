"""Figures of a cache: bytes per position by part, and the mass that a top-k column covers.

In: stored shards. Out: plain numbers, and the refusal of a column that covers too little.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tutelage.cache.column import Column
from tutelage.cache.layout import column_folder
from tutelage.cache.read import CacheReader
from tutelage.cache.shard import Shard, scan_shards
from tutelage.cache.topk import TopKColumn
from tutelage.errors import CacheError, CapabilityError
from tutelage.store import folder_bytes

MIN_COVERED_MASS = 0.5  # DESIGN 4: below it the methods compare tail buckets, not teachers
MAX_POSITIONS = 65_536  # enough for the mean of a share to +-0.002; keeps the check under a second


def bytes_per_position(root: Path, teacher: str, column: Column) -> dict[str, float]:
    """Split a column's size on disk: its parts, then ``metadata`` (coverage, index, manifests).

    Returns:
        Bytes per stored position; empty when nothing is stored.
    """
    shards, _ = scan_shards(column_folder(root, teacher, column))
    num_positions = sum(int(shard.index["num_positions"].sum()) for shard in shards)
    if not num_positions:
        return {}
    total = sum(folder_bytes(shard.folder) for shard in shards)
    parts: dict[str, float] = {}
    for shard in shards:
        blocks = (shard.read_row(number)[1] for number in range(len(shard.index)))
        for name, size in column.count_parts(blocks, shard.index["num_positions"].astype(np.int64)).items():
            parts[name] = parts.get(name, 0.0) + size / num_positions
    return {**parts, "metadata": total / num_positions - sum(parts.values())}


def covered_mass(root: Path, teacher: str, column: TopKColumn) -> dict[float, float]:
    """Average, for each temperature, the teacher's probability that the kept entries hold.

    ``mean_n sum_k exp(log p_k / T - log_z_T)``, over at most 65,536 stored positions spread over
    the shards; 1 when k equals the vocabulary.

    Raises:
        CacheError: If nothing is stored, or a row that is read is damaged.
    """
    reader = CacheReader(root, teacher, column)
    if not reader.shards:
        raise CacheError(f"The teacher cache {reader.folder} is empty. Run the teach stage first.")
    share = -(-MAX_POSITIONS // len(reader.shards))
    parts = [shard_masses(shard, column, num_positions=share) for shard in reader.shards]
    means = torch.cat(parts, dim=1).mean(dim=1).tolist()
    return {float(temperature): mean for temperature, mean in zip(column.temperatures, means, strict=True)}


def shard_masses(shard: Shard, column: TopKColumn, *, num_positions: int) -> Tensor:
    """Return the covered mass [temperatures, n] of the shard's first rows, ``num_positions`` or a few more."""
    ends = np.cumsum(shard.index["num_positions"], dtype=np.int64)
    num_rows = min(int(np.searchsorted(ends, num_positions)) + 1, len(ends))
    blocks = [shard.read_row(number)[1] for number in range(num_rows)]
    counts = shard.index["num_positions"][:num_rows].astype(np.int64)
    tensors = shard.column.narrow(shard.column.decode_rows(blocks, counts), column)
    logprobs_NK = tensors["logprobs_NK"].double()
    masses = [
        (logprobs_NK / temperature - log_z_N.double()[:, None]).exp().sum(dim=1)
        for temperature, log_z_N in column.log_z(tensors["log_z_NT"]).items()
    ]
    return torch.stack(masses)


def require_covered_mass(root: Path, teacher: str, column: TopKColumn) -> dict[float, float]:
    """Return :func:`covered_mass`, or refuse to train on a column that covers less than half.

    Raises:
        CapabilityError: If the mean mass at a temperature of ``column`` is below 50 %.
        CacheError: If nothing is stored, or a row that is read is damaged.
    """
    masses = covered_mass(root, teacher, column)
    low = {temperature: mass for temperature, mass in masses.items() if mass < MIN_COVERED_MASS}
    if low:
        shares = ", ".join(f"{mass:.1%} at T = {temperature:g}" for temperature, mass in low.items())
        raise CapabilityError(
            f"The top-{column.k} signal covers {shares} of the teacher's probability; at least {MIN_COVERED_MASS:.0%} "
            "is expected, or the tail bucket decides. Use the signal `final_hidden` (exact at every temperature), a "
            "larger `k`, or a lower temperature."
        )
    return masses
