"""Which runs a recipe stands for: trials on the selection seed, reported runs on the others.

In: a validated recipe and, for reported runs, the settings that the search chose. Out: ``Run``s.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tutelage.config import Recipe, grid_points, logit_part, with_point
from tutelage.experiment.identity import run_id

CONTROL_SUFFIX = "-permuted"
ROLES = {"baseline": "baseline", "pseudo": "pseudo"}  # the other kinds of method have the role "method"


@dataclass(frozen=True)
class Run:
    """One student to train, or one model to score as it is (``seed`` None)."""

    run_id: str
    method: str
    kind: str  # that of the method, untouched or teacher
    role: str  # method | baseline | pseudo | control | untouched | teacher | trial
    task: str
    student: str
    seed: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)  # grid point, by dotted path
    trial: bool = False


def shown_settings(method: Any, point: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run's name and tables show: the weights of a method, its temperature, then the grid point."""
    fixed: dict[str, Any] = {}
    if method.kind in ("sequence", "feature"):
        fixed["lambda"] = method.lambda_
    elif method.kind == "relation":
        fixed |= {"lambda_dist": method.lambda_dist, "lambda_angle": method.lambda_angle}
    logit = logit_part(method)
    if logit is not None:
        inside = "" if logit is method else "logit."
        fixed |= {f"{inside}temperature": logit.temperature, f"{inside}alpha": logit.alpha}
    return {**fixed, **point}


def trial_runs(recipe: Recipe, task: str, student: str) -> dict[str, list[Run]]:
    """Return the trials of every method that has a grid, in grid order."""
    trials = {}
    for name, method in recipe.methods.items():
        if method.grid:
            seed = recipe.seeds.selection
            trials[name] = [
                Run(
                    run_id(name, task, student, shown_settings(method, point), seed),
                    name, method.kind, "trial", task, student, seed, point, trial=True,
                )
                for point in grid_points(method)
            ]  # fmt: skip
    return trials


@dataclass(frozen=True)
class Slot:
    """A place in the comparison: one method on one report seed, or its control."""

    method: str
    seed: int
    permuted: bool = False

    @property
    def name(self) -> str:
        """The arm's name."""
        return f"{self.method}{CONTROL_SUFFIX}" if self.permuted else self.method


def report_slots(recipe: Recipe, *, control: bool) -> Iterator[Slot]:
    """Yield the runs whose test scores are reported: every method on every report seed.

    Seeds are the outer loop, so that a run that is cut short leaves whole comparisons.
    With ``control``, every method that reads the teacher's signal is repeated once, on the first seed, with permuted
    rows: it is expected to lose by far, and paired over the items one seed shows that.
    """
    for seed in recipe.seeds.report:
        for name, method in recipe.methods.items():
            yield Slot(name, seed)
            if control and seed == recipe.seeds.report[0] and reads_signal(method):
                yield Slot(name, seed, permuted=True)


def slot_run(recipe: Recipe, task: str, student: str, slot: Slot, point: Mapping[str, Any]) -> Run:
    """Return the run of a place in the comparison, with the settings that its search chose."""
    method = recipe.methods[slot.method]
    shown = shown_settings(with_point(method, point), point)
    role = "control" if slot.permuted else ROLES.get(method.kind, "method")
    name = run_id(slot.name, task, student, shown, slot.seed)
    return Run(name, slot.name, method.kind, role, task, student, slot.seed, dict(point))


def reads_signal(method: Any) -> bool:
    """Say whether a method learns from the teacher's cached signal."""
    return getattr(method, "signal", None) is not None


def method_of(recipe: Recipe, run: Run) -> Any:
    """Return the method's section with the run's grid point in place."""
    return with_point(recipe.methods[run.method.removesuffix(CONTROL_SUFFIX)], run.settings)


def untouched_run(task: str, student: str) -> Run:
    """Return the student before any training, scored as it is."""
    return Run(run_id("untouched", task, student, {}, None), "untouched", "untouched", "untouched", task, student)


def teacher_run(task: str) -> Run:
    """Return the teacher, scored from its cached class scores."""
    return Run(run_id("teacher", task, "", {}, None), "teacher", "teacher", "teacher", task, "")
