"""The recipe: its schema, and how a file, the environment and the command line become one."""

from tutelage.config.capabilities import check_capabilities
from tutelage.config.grid import grid_points, num_trials, with_point
from tutelage.config.load import LoadedRecipe, load_recipe, make_recipe
from tutelage.config.methods import (
    Baseline,
    CrossEntropyLoss,
    Custom,
    ForwardKlLoss,
    Logit,
    Method,
    Pseudo,
    TeacherLoss,
    expand_losses,
)
from tutelage.config.models import Adapt, LoraAdapter, NoAdapter, Shrink, Student, Teacher
from tutelage.config.problems import Problem, RecipeError
from tutelage.config.schema import Recipe, Seeds
from tutelage.config.signals import (
    FinalHiddenSignal,
    HiddenSignal,
    PooledSignal,
    SampledSignal,
    SequencesSignal,
    Signal,
    TopKSignal,
)
from tutelage.config.tasks import Classification, QuestionSource, Reading, Source, Task, selection_metric
from tutelage.config.training import Evaluate, Report, Train

__all__ = [
    "Adapt",
    "Baseline",
    "Classification",
    "CrossEntropyLoss",
    "Custom",
    "Evaluate",
    "FinalHiddenSignal",
    "ForwardKlLoss",
    "HiddenSignal",
    "LoadedRecipe",
    "Logit",
    "LoraAdapter",
    "Method",
    "NoAdapter",
    "PooledSignal",
    "Problem",
    "Pseudo",
    "QuestionSource",
    "Reading",
    "Recipe",
    "RecipeError",
    "Report",
    "SampledSignal",
    "Seeds",
    "SequencesSignal",
    "Shrink",
    "Signal",
    "Source",
    "Student",
    "Task",
    "Teacher",
    "TeacherLoss",
    "TopKSignal",
    "Train",
    "check_capabilities",
    "expand_losses",
    "grid_points",
    "load_recipe",
    "make_recipe",
    "num_trials",
    "selection_metric",
    "with_point",
]
