"""Choose what a method can read from what a cache holds.

In: a signal's kind and settings. Out: the column to ask a reader for.
"""

from collections.abc import Sequence
from pathlib import Path

from tutelage.cache.column import Column
from tutelage.cache.layout import teacher_folder
from tutelage.cache.read import stored_columns
from tutelage.cache.sampled import SampledColumn
from tutelage.cache.topk import TOPK_DTYPES, TopKColumn
from tutelage.errors import CacheError, CapabilityError


def find_column(
    root: Path,
    teacher: str,
    *,
    kind: str,
    k: int | None = None,
    num_draws: int | None = None,
    layer: int | None = None,
    temperatures: Sequence[int | float] = (1.0,),
    dtype: str | None = None,
    class_token_ids: Sequence[int] | None = None,
) -> Column:
    """Describe a signal as this teacher's cache can give it, without loading the teacher.

    Args:
        root: The cache's root folder.
        teacher: The teacher's fingerprint.
        kind: A key of ``COLUMNS``.
        k: For ``topk``: entries wanted; a larger stored k serves. By default the stored k.
        num_draws: For ``sampled``: draws per position; by default the most that are stored.
        layer: For ``hidden`` and ``pooled``: the layer's number.
        temperatures: For ``topk``: those that will be used. For ``sampled``: the one of the draws.
        dtype: Stored dtype; by default whichever is there.
        class_token_ids: For ``class_scores``: the verbalisers' ids in label order.

    Raises:
        CacheError: If the cache holds no such signal.
        CapabilityError: If a temperature was not stored; those that were are named.
    """
    stored = [column for column in stored_columns(root, teacher) if column.kind == kind]
    if dtype is not None:
        stored = [column for column in stored if column.spec.get("dtype") == dtype]
    if layer is not None:
        stored = [column for column in stored if column.spec.get("layer") == layer]
    if class_token_ids is not None:
        stored = [column for column in stored if column.spec.get("class_token_ids") == list(class_token_ids)]
    topk = [column for column in stored if isinstance(column, TopKColumn)]
    if kind == "topk" and topk:
        return _find_topk(topk, k, [float(temperature) for temperature in temperatures])
    sampled = [column for column in stored if isinstance(column, SampledColumn)]
    if kind == "sampled" and sampled:
        return _find_sampled(sampled, num_draws, [float(temperature) for temperature in temperatures])
    if not stored:
        held = ", ".join(column.name for column in stored_columns(root, teacher)) or "nothing"
        raise CacheError(
            f"The teacher cache {teacher_folder(root, teacher)} holds {held}; expected a {kind} signal. List it under "
            "`signals` in the recipe and run the teach stage."
        )
    return stored[0]


def _find_topk(stored: list[TopKColumn], k: int | None, temperatures: list[float]) -> TopKColumn:
    enough = [column for column in stored if k is None or column.k >= k]
    if not enough:
        held = sorted({column.k for column in stored})
        raise CacheError(f"The cache holds top-k with k = {held}; expected at least {k}. Lower `k` or teach again.")
    needed = set(temperatures) - {1.0}
    fitting = [column for column in enough if needed <= set(column.stored_temperatures)]
    if not fitting:
        held = sorted({1.0, *(temperature for column in enough for temperature in column.stored_temperatures)})
        raise CapabilityError(
            f"The top-k cache has no log_z for T in {sorted(needed)}; stored temperatures: {held}. Add them to "
            "`temperatures` of the topk signal and run the teach stage, or use `final_hidden`."
        )
    best = min(fitting, key=lambda column: (TOPK_DTYPES.index(column.dtype), column.k, column.name))
    return TopKColumn(k or best.k, tuple(temperatures), best.vocab_size, best.dtype)


def _find_sampled(stored: list[SampledColumn], num_draws: int | None, temperatures: list[float]) -> SampledColumn:
    if len(set(temperatures)) != 1:
        raise CapabilityError(
            f"A sampled signal serves one temperature, but {temperatures} were asked for. Ask for one column per "
            "temperature."
        )
    at_temperature = [column for column in stored if column.temperature == temperatures[0]]
    if not at_temperature:
        held = sorted({column.temperature for column in stored})
        raise CapabilityError(
            f"The sampled cache has no draws at T = {temperatures[0]:g}; stored temperatures: {held}. Draws cannot be "
            "moved to another temperature: add a sampled signal with that one and run the teach stage, or use "
            "`final_hidden`."
        )
    fitting = [column for column in at_temperature if num_draws is None or column.num_draws == num_draws]
    if not fitting:
        held = sorted({column.num_draws for column in at_temperature})
        raise CacheError(
            f"The cache holds sampled signals with {held} draws; expected {num_draws}. Change `num_draws` or teach "
            "again."
        )
    return max(fitting, key=lambda column: (column.num_draws, column.head_k, column.logprob_bits, column.name))
