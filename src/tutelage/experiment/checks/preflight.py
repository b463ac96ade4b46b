"""All checks over one recipe, and the one error that lists what they found.

In: a context. Out: ``Preflight``; ``require_sound`` raises it as a ``RecipeError``.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from tutelage.config import RecipeError
from tutelage.config.problems import Problem
from tutelage.experiment.checks.data import rows_can_be_cut, rows_can_be_learnt
from tutelage.experiment.checks.findings import Check, Finding, Note, Refusal
from tutelage.experiment.checks.layers import layers_exist
from tutelage.experiment.checks.look import Look
from tutelage.experiment.checks.models import layers_can_be_cut, layers_can_be_read, quantised_models_can_be_read
from tutelage.experiment.checks.names import run_names_differ
from tutelage.experiment.checks.texts import texts_can_be_written
from tutelage.experiment.checks.tokenizers import tokenizers_agree
from tutelage.experiment.checks.training import (
    adapters_fit,
    devices_exist,
    rows_fit_positions,
    schedules_can_be_built,
    trackers_are_installed,
)
from tutelage.experiment.checks.vocabulary import verbalisers_continue_prompts
from tutelage.experiment.checks.workspace import workspace_is_usable
from tutelage.experiment.stage import Context


def models_are_readable(look: Look) -> Iterator[Finding]:
    """Read the configuration and the tokenizer of every model; what cannot be read is in ``look.failures``."""
    look.teacher_config()
    look.teacher_tokenizer()
    for student in look.recipe.students:
        look.student_config(student)
        look.student_tokenizer(student)
    yield from ()


# A check is one line here. Each sees every arm; none runs a model.
CHECKS: tuple[Check, ...] = (
    workspace_is_usable,
    run_names_differ,
    models_are_readable,
    tokenizers_agree,
    rows_can_be_cut,
    rows_can_be_learnt,
    texts_can_be_written,
    layers_exist,
    quantised_models_can_be_read,
    layers_can_be_cut,
    layers_can_be_read,
    verbalisers_continue_prompts,
    devices_exist,
    schedules_can_be_built,
    trackers_are_installed,
    adapters_fit,
    rows_fit_positions,
)


@dataclass(frozen=True)
class Preflight:
    """What the checks of a recipe found."""

    refusals: tuple[Refusal, ...]
    notes: tuple[Note, ...]


def inspect_recipe(context: Context) -> Preflight:
    """Run every check, whatever the others found."""
    look = Look(context)
    found = [finding for check in CHECKS for finding in check(look)]
    refusals = [*look.failures, *(each for each in found if isinstance(each, Refusal))]
    notes = [each for each in found if isinstance(each, Note)]
    return Preflight(tuple(dict.fromkeys(refusals)), tuple(dict.fromkeys(notes)))


def require_sound(context: Context) -> tuple[Note, ...]:
    """Run every check and return the notes.

    Raises:
        RecipeError: Everything that is wrong, each at the key to change.
    """
    preflight = inspect_recipe(context)
    if preflight.refusals:
        problems = [Problem(each.key, each.message) for each in preflight.refusals]
        raise RecipeError(str(context.loaded.path), problems)
    return preflight.notes
