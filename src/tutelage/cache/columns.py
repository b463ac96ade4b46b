"""Every column the cache knows, by kind.

In: a spec out of a shard's manifest. Out: the column that reads it.
"""

from typing import Any

from tutelage.cache.class_scores import ClassScoresColumn
from tutelage.cache.column import Column
from tutelage.cache.final_hidden import FinalHiddenColumn
from tutelage.cache.hidden import HiddenColumn, PooledColumn
from tutelage.cache.sampled import SampledColumn
from tutelage.cache.sequences import SequencesColumn
from tutelage.cache.topk import TopKColumn
from tutelage.errors import CacheError

COLUMNS: dict[str, type[Column]] = {
    "final_hidden": FinalHiddenColumn,
    "topk": TopKColumn,
    "sampled": SampledColumn,
    "class_scores": ClassScoresColumn,
    "hidden": HiddenColumn,
    "pooled": PooledColumn,
    "sequences": SequencesColumn,
}


def column_from_spec(spec: dict[str, Any]) -> Column:
    """Rebuild a column from ``Column.spec``.

    Raises:
        CacheError: If the kind is unknown, or its settings are not those of this version.
    """
    settings = {name: tuple(value) if isinstance(value, list) else value for name, value in spec.items()}
    kind = settings.pop("kind", None)
    if kind not in COLUMNS:
        raise CacheError(
            f"The cache holds a signal of kind {kind!r}; this version reads {', '.join(COLUMNS)}. "
            "Use the version that wrote it, or another cache folder."
        )
    try:
        return COLUMNS[kind](**settings)
    except TypeError as error:
        raise CacheError(f"The settings of a stored {kind} signal are not understood: {error}.") from error
