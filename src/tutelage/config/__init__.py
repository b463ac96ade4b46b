"""The recipe: its schema, and how a file, the environment and the command line become one."""

from tutelage.config.capabilities import check_capabilities
from tutelage.config.grid import grid_points, num_trials, with_point
from tutelage.config.load import LoadedRecipe, load_recipe, make_recipe
from tutelage.config.losses import CrossEntropyLoss, ForwardKlLoss, TeacherLoss
from tutelage.config.methods import (
    Baseline,
    Custom,
    Feature,
    Logit,
    LogitPart,
    Method,
    Pseudo,
    Relation,
    Sequence,
    distribution_signal,
    expand_losses,
    logit_part,
    signals_read,
    state_weights,
    teacher_temperatures,
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
from tutelage.config.texts import MixedSource, Text, TextRows
from tutelage.config.training import Evaluate, Report, Train

__all__ = [
    "Adapt",
    "Baseline",
    "Classification",
    "CrossEntropyLoss",
    "Custom",
    "Evaluate",
    "Feature",
    "FinalHiddenSignal",
    "ForwardKlLoss",
    "HiddenSignal",
    "LoadedRecipe",
    "Logit",
    "LogitPart",
    "LoraAdapter",
    "Method",
    "MixedSource",
    "NoAdapter",
    "PooledSignal",
    "Problem",
    "Pseudo",
    "QuestionSource",
    "Reading",
    "Recipe",
    "RecipeError",
    "Relation",
    "Report",
    "SampledSignal",
    "Seeds",
    "Sequence",
    "SequencesSignal",
    "Shrink",
    "Signal",
    "Source",
    "Student",
    "Task",
    "Teacher",
    "TeacherLoss",
    "Text",
    "TextRows",
    "TopKSignal",
    "Train",
    "check_capabilities",
    "distribution_signal",
    "expand_losses",
    "grid_points",
    "load_recipe",
    "logit_part",
    "make_recipe",
    "num_trials",
    "selection_metric",
    "signals_read",
    "state_weights",
    "teacher_temperatures",
    "with_point",
]
