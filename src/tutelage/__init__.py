"""Distil a large language model into a small one, and prove that it worked.

The public names are in ``__all__`` (docs/python.md). Each is imported at its first use, so that ``import tutelage``
takes milliseconds and torch is loaded only by what needs it.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tutelage import losses
    from tutelage.api.caches import Cache, open_cache, teach_rows
    from tutelage.api.recipes import plan, run
    from tutelage.api.results import Results, results
    from tutelage.api.training import make_row, train_rows
    from tutelage.errors import TutelageError
    from tutelage.losses.kd import kd_loss, topk_record
    from tutelage.plugins import register_loss
    from tutelage.types import LossSum

_HOMES = {
    "Cache": "tutelage.api.caches",
    "LossSum": "tutelage.types",
    "Results": "tutelage.api.results",
    "TutelageError": "tutelage.errors",
    "kd_loss": "tutelage.losses.kd",
    "make_row": "tutelage.api.training",
    "open_cache": "tutelage.api.caches",
    "plan": "tutelage.api.recipes",
    "register_loss": "tutelage.plugins",
    "results": "tutelage.api.results",
    "run": "tutelage.api.recipes",
    "teach_rows": "tutelage.api.caches",
    "topk_record": "tutelage.losses.kd",
    "train_rows": "tutelage.api.training",
}
_MODULES = ("losses",)

__all__ = [
    "Cache",
    "LossSum",
    "Results",
    "TutelageError",
    "__version__",
    "kd_loss",
    "losses",
    "make_row",
    "open_cache",
    "plan",
    "register_loss",
    "results",
    "run",
    "teach_rows",
    "topk_record",
    "train_rows",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}", name=name)
    found = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = found  # the next use does not come here
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
