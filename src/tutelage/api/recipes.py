"""Plan and run a recipe from Python, as ``tutelage plan`` and ``tutelage run`` do.

In: a recipe's file and overrides. Out: a ``RecipePlan`` or a ``RecipeRun``, which a notebook shows as tables.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from tutelage.api.results import Results
from tutelage.config import LoadedRecipe, check_capabilities, load_recipe
from tutelage.experiment import Outcome, Plan, list_runs, plan_recipe, run_recipe
from tutelage.experiment.notebook import html_table

RecipeFile = str | os.PathLike[str]


@dataclass(frozen=True)
class RecipePlan:
    """What a run would do: every stage with its state and the reason, and what it costs."""

    plan: Plan

    @property
    def stages(self) -> list[dict[str, str]]:
        """The stages in order: stage, subject, state (finished, to do, waits, damaged), note."""
        return [vars(stage) for stage in self.plan.stages]

    @property
    def facts(self) -> dict[str, str]:
        """The figures that decide whether to start: arms, trials, estimates of time and bytes."""
        return dict(self.plan.facts)

    @property
    def is_finished(self) -> bool:
        """Whether a run would find everything finished."""
        return self.plan.num_finished == len(self.plan.stages)

    def __str__(self) -> str:
        lines = [f"{stage.stage} {stage.subject}: {stage.state} {stage.note}".rstrip() for stage in self.plan.stages]
        return "\n".join([*lines, f"{self.plan.num_finished} of {len(self.plan.stages)} finished"])

    def _repr_html_(self) -> str:
        caption = f"{self.plan.name}: {self.plan.num_finished} of {len(self.plan.stages)} finished"
        rows = [tuple(stage.values()) for stage in self.stages]
        return html_table(("stage", "subject", "state", "note"), rows, caption=caption) + html_table(
            ("fact", "value"), list(self.facts.items())
        )


@dataclass(frozen=True)
class RecipeRun:
    """What a run left: its results, and the page to open."""

    outcome: Outcome
    results: Results

    @property
    def report(self) -> Path | None:
        """The HTML page; None where the run stopped before the report."""
        return self.outcome.report

    def __str__(self) -> str:
        return self.outcome.table or str(self.results)

    def _repr_html_(self) -> str:
        link = "" if self.report is None else f"<p>report: <code>{escape(str(self.report))}</code></p>"
        return self.results._repr_html_() + link


def plan(
    recipe: RecipeFile,
    *overrides: str,
    mode: str | None = None,
    control: bool = False,
    plugins: Sequence[str] = (),
) -> RecipePlan:
    """Check a recipe and say what a run would do, without loading a model's weights.

    Args:
        recipe: The YAML file.
        overrides: ``dotted.path=value``, later ones win.
        mode: fast or full.
        control: With the control whose teacher rows are permuted.
        plugins: Which of the recipe's ``plugins`` may run here.

    Raises:
        RecipeError: Everything that is wrong with it, each with path, line and nearest match.
        CapabilityError: If a loss is not defined for its signal.
    """
    return RecipePlan(plan_recipe(load(recipe, overrides, mode, plugins), control=control))


def run(
    recipe: RecipeFile,
    *overrides: str,
    mode: str | None = None,
    only: str | None = None,
    until: str | None = None,
    control: bool = False,
    plugins: Sequence[str] = (),
    show: Callable[[str], None] = print,
) -> RecipeRun:
    """Run a recipe; what is finished is skipped, what was stopped goes on.

    Args:
        recipe: The YAML file.
        overrides: ``dotted.path=value``, later ones win.
        mode: fast or full.
        only: Run this stage alone: prepare, adapt, teach, shrink, score, trials, train or report.
        until: Stop after this stage.
        control: Add the control whose teacher rows are permuted.
        plugins: Which of the recipe's ``plugins`` may run here.
        show: Receives each line of progress.

    Raises:
        RecipeError: Everything that is wrong with it, before anything expensive starts.
        TutelageError: Whatever a stage refuses.
        PreemptedError: If a signal asked to stop (Ctrl-C too); the same call goes on where it was.
    """
    loaded = load(recipe, overrides, mode, plugins)
    outcome = run_recipe(loaded, only=only, until=until, control=control, show=show)
    folders = {folder.resolve() for folder in outcome.runs}
    own = [run for run in list_runs(Path(loaded.recipe.workspace)) if run.folder.resolve() in folders]
    return RecipeRun(outcome, Results(own))


def load(
    recipe: RecipeFile, overrides: tuple[str, ...], mode: str | None, plugins: Sequence[str] | None
) -> LoadedRecipe:
    """Load a recipe and check that its losses are defined."""
    loaded = load_recipe(Path(recipe), overrides, mode=mode, plugins=plugins)
    check_capabilities(loaded.recipe)
    return loaded
