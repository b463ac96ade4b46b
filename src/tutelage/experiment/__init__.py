"""The experiment: which runs a recipe stands for, in which order, and what of it is finished."""

from tutelage.experiment.listing import ListedRun, list_runs, show_run
from tutelage.experiment.pipeline import STAGES, Outcome, footer, run_recipe
from tutelage.experiment.plan import Plan, PlannedStage, plan_recipe

__all__ = [
    "STAGES",
    "ListedRun",
    "Outcome",
    "Plan",
    "PlannedStage",
    "footer",
    "list_runs",
    "plan_recipe",
    "run_recipe",
    "show_run",
]
