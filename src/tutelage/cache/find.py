"""Choose what a method can read from what a cache holds.

In: a signal's kind and settings. Out: the column to ask a reader for.
"""

from collections.abc import Sequence
from pathlib import Path

from tutelage.cache.column import Column
from tutelage.cache.layout import teacher_folder
from tutelage.cache.read import stored_columns
from tutelage.cache.topk import TOPK_DTYPES, TopKColumn
from tutelage.errors import CacheError, CapabilityError


def find_column(
    root: Path,
    teacher: str,
    *,
    kind: str,
    k: int | None = None,
    temperatures: Sequence[int | float] = (1.0,),
    dtype: str | None = None,
) -> Column:
    """Describe a signal as this teacher's cache can give it, without loading the teacher.

    Args:
        root: The cache's root folder.
        teacher: The teacher's fingerprint.
        kind: A key of ``COLUMNS``.
        k: For ``topk``: entries wanted; a larger stored k serves. By default the stored k.
        temperatures: For ``topk``: those that will be used.
        dtype: Stored dtype; by default whichever is there.

    Raises:
        CacheError: If the cache holds no such signal, or (but for ``topk``) several: draws of another seed or hidden
            states of another layer are another signal, and none of them is the obvious one.
        CapabilityError: If a temperature was not stored; those that were are named.
    """
    stored = [column for column in stored_columns(root, teacher) if column.kind == kind]
    if dtype is not None:
        stored = [column for column in stored if column.spec.get("dtype") == dtype]
    topk = [column for column in stored if isinstance(column, TopKColumn)]
    if kind == "topk" and topk:
        return _find_topk(topk, k, [float(temperature) for temperature in temperatures])
    if not stored:
        held = ", ".join(column.name for column in stored_columns(root, teacher)) or "nothing"
        raise CacheError(
            f"The teacher cache {teacher_folder(root, teacher)} holds {held}; expected a {kind} signal. List it under "
            "`signals` in the recipe and run the teach stage."
        )
    if len(stored) > 1:
        raise CacheError(
            f"The teacher cache {teacher_folder(root, teacher)} holds several {kind} signals: "
            f"{', '.join(column.name for column in stored)}. Describe the one that is meant by its own settings."
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
