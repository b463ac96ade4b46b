"""What a recipe would do: its stages in order, what is finished, and what the rest costs.

In: a loaded recipe and the workspace. Out: ``Plan``, without loading a model.
"""

from dataclasses import dataclass, field
from pathlib import Path

from tutelage.config import LoadedRecipe, num_trials
from tutelage.experiment.adapt import adapt_key, teacher_identity
from tutelage.experiment.checks import require_sound
from tutelage.experiment.forecast import forecast
from tutelage.experiment.identity import Folders
from tutelage.experiment.matrix import report_runs, teacher_run, trial_runs, untouched_run
from tutelage.experiment.prepare import prepare_key
from tutelage.experiment.stage import Context, finished
from tutelage.experiment.teach import teach_key
from tutelage.store import Manifest, read_manifest


@dataclass(frozen=True)
class PlannedStage:
    """One node of the graph."""

    stage: str
    subject: str
    state: str  # finished | to do | waits (its inputs are not known yet)
    note: str = ""


@dataclass(frozen=True)
class Plan:
    """The graph in order, and the figures that decide whether to start."""

    name: str
    mode: str
    stages: list[PlannedStage]
    warnings: tuple[str, ...] = ()
    facts: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def num_finished(self) -> int:
        """How many stages a run would skip."""
        return sum(stage.state == "finished" for stage in self.stages)


def plan_recipe(loaded: LoadedRecipe, *, control: bool = False) -> Plan:
    """Walk the graph as a run would, without doing anything."""
    recipe = loaded.recipe
    context = Context(loaded, Folders(Path(recipe.workspace), recipe.name), show=print, command="")
    control = control or recipe.evaluate.permuted_teacher
    notes = require_sound(context)
    stages: list[PlannedStage] = []
    prepared = {
        task: _visit(stages, "prepare", task, context.folders.prepared(task), prepare_key(context, task))
        for task in recipe.tasks
    }
    section = recipe.teacher.adapt
    teacher: str | None = teacher_identity(context)
    if section is not None:
        adapted, subject = None, " + ".join(section.tasks)
        if (key := adapt_key(context, prepared)) is not None:
            adapted = _visit(stages, "adapt", subject, context.folders.adapted(key), key)
        else:
            stages.append(PlannedStage("adapt", subject, "waits", f"{section.max_steps} steps"))
        teacher = adapted.content_digest if adapted else None
    for task in recipe.tasks:
        rows = prepared[task]
        taught = None
        if rows is not None and teacher is not None:
            taught = _visit(
                stages, "teach", task, context.folders.taught(task), teach_key(context, task, rows, teacher)
            )
        else:
            stages.append(PlannedStage("teach", task, "waits", ", ".join(signal.kind for signal in recipe.signals)))
        for student in recipe.students:
            stages += _planned_runs(context, task, student, taught, control=control)
    waiting = [stage.subject for stage in stages if stage.stage == "train" and stage.state == "to do"]
    facts = {**_facts(loaded, control=control), **forecast(recipe, context.folders, waiting)}
    return Plan(recipe.name, recipe.mode, stages, loaded.warnings, facts, tuple(note.message for note in notes))


def _visit(stages: list[PlannedStage], stage: str, subject: str, folder: Path, key: str) -> Manifest | None:
    manifest = finished(folder, key)
    stages.append(PlannedStage(stage, subject, "finished" if manifest else "to do"))
    return manifest


def _planned_runs(
    context: Context, task: str, student: str, taught: Manifest | None, *, control: bool
) -> list[PlannedStage]:
    """List the runs; with a search, the settings of the reported ones are open until it is done."""
    recipe = context.recipe
    trials = [run for runs in trial_runs(recipe, task, student).values() for run in runs]
    reported = list(report_runs(recipe, task, student, {}, control=control))
    searched = {run.method for run in trials}
    stages = []
    for run in [teacher_run(task), untouched_run(task, student), *trials, *reported]:
        open_settings = not run.trial and run.method.removesuffix("-permuted") in searched
        name = f"{run.method}_{task}_{student}_..._seed{run.seed}" if open_settings else run.run_id
        there = taught is not None and not open_settings and finished_run(context, run.run_id)
        note = "settings from the search" if open_settings else run.role
        stages.append(
            PlannedStage("train" if run.seed is not None else "score", name, "finished" if there else "to do", note)
        )
    return stages


def finished_run(context: Context, run_id: str) -> bool:
    """Say whether a run of this name is committed (a changed recipe may still make it anew)."""
    return read_manifest(context.folders.run(run_id)) is not None


def _facts(loaded: LoadedRecipe, *, control: bool) -> dict[str, str]:
    recipe = loaded.recipe
    trials = {name: num_trials(method) for name, method in recipe.methods.items() if method.grid}
    num_arms = len(recipe.methods) + sum(
        control for method in recipe.methods.values() if getattr(method, "signal", None)
    )
    return {
        "teacher": recipe.teacher.model,
        "students": ", ".join(recipe.students),
        "signals": ", ".join(signal.kind for signal in recipe.signals),
        "trials": ", ".join(f"{name} {count}" for name, count in trials.items()) or "none",
        "reported runs": " x ".join(
            (
                f"{num_arms} arms",
                *(
                    f"{len(x)} {what}"
                    for x, what in (
                        (recipe.seeds.report, "seeds"),
                        (recipe.students, "students"),
                        (recipe.tasks, "tasks"),
                    )
                ),
            )
        ),
        "workspace": str(Path(recipe.workspace) / recipe.name),
    }
