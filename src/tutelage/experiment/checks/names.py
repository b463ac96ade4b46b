"""Every run has a name of its own.

In: a ``Look``. Out: a refusal for two runs that would be called the same.
"""

from collections.abc import Iterator

from tutelage.experiment.checks.findings import Finding, Refusal
from tutelage.experiment.checks.look import Look
from tutelage.experiment.matrix import Run, report_slots, slot_run, teacher_run, trial_runs, untouched_run


def run_names_differ(look: Look) -> Iterator[Finding]:
    """Compare the ids of all runs: names of methods, tasks and students are joined by ``_``, which they may hold."""
    seen: dict[tuple[str, bool], Run] = {}
    for run in _runs(look):
        other = seen.setdefault((run.run_id, run.trial), run)
        if other != run:
            yield Refusal(
                ("methods", run.method) if run.method in look.recipe.methods else ("tasks", run.task),
                f"{_described(other)} and {_described(run)} would both be called {run.run_id!r}; rename a method, a "
                "task or a student, or change one of two equal grid values",
            )


def _runs(look: Look) -> Iterator[Run]:
    recipe, control = look.recipe, look.context.control
    for task in recipe.tasks:
        yield teacher_run(task)
        for student in recipe.students:
            yield untouched_run(task, student)
            for trials in trial_runs(recipe, task, student).values():
                yield from trials
            for slot in report_slots(recipe, control=control):
                if not recipe.methods[slot.method].grid:
                    yield slot_run(recipe, task, student, slot, {})


def _described(run: Run) -> str:
    settings = f" with {run.settings}" if run.settings else ""
    return f"{run.method} on {run.task}{f' for {run.student}' if run.student else ''}{settings}"
