"""Every column the cache knows, by kind.

In: a spec out of a shard's manifest. Out: the column that reads it.
"""

from typing import Any

from tutelage.cache.class_scores import ClassScoresColumn
from tutelage.cache.column import Column
from tutelage.cache.final_hidden import FinalHiddenColumn
from tutelage.cache.hidden import HiddenColumn, PooledColumn
from tutelage.cache.planes import LAYOUT
from tutelage.cache.sampled import SampledColumn
from tutelage.cache.sequences import SequencesColumn
from tutelage.cache.topk import TopKColumn
from tutelage.errors import CacheError, CapabilityError

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
        CacheError: If the kind or the layout is unknown, or its settings are not those of this version.
    """
    settings = {name: tuple(value) if isinstance(value, list) else value for name, value in spec.items()}
    kind = settings.pop("kind", None)
    if kind not in COLUMNS:
        raise CacheError(
            f"The cache holds a signal of kind {kind!r}; this version reads {', '.join(COLUMNS)}. "
            "Use the version that wrote it, or another cache folder."
        )
    layout = settings.pop("layout", 1)
    in_planes = kind == "sampled" or (kind == "topk" and str(settings.get("dtype", "")).startswith("q"))
    expected = LAYOUT if in_planes else 1
    if layout != expected:
        raise CacheError(
            f"The cache holds a {kind} signal in layout {layout}; this version reads layout {expected}. "
            "`tutelage cache verify --repair RECIPE` deletes it and teaches what the recipe needs again; what another "
            "version is to read must be moved to another cache folder first."
        )
    try:
        return COLUMNS[kind](**settings)
    except (TypeError, CapabilityError) as error:
        raise CacheError(f"The settings of a stored {kind} signal are not understood: {error}.") from error
