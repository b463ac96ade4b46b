"""Every mistake that files, configurations and tokenizers can show, found before anything expensive starts.

In: a recipe's context. Out: ``Problem``s, each at the key to change, and ``Note``s that ``plan`` and ``run`` print.
"""

from tutelage.experiment.checks.findings import Check, Finding, Note, Refusal, guarded
from tutelage.experiment.checks.look import Look
from tutelage.experiment.checks.preflight import CHECKS, Preflight, inspect_recipe, require_sound

__all__ = [
    "CHECKS",
    "Check",
    "Finding",
    "Look",
    "Note",
    "Preflight",
    "Refusal",
    "guarded",
    "inspect_recipe",
    "require_sound",
]
