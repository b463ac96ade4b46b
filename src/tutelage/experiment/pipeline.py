"""A recipe run from beginning to end: prepare, adapt, teach, shrink, train and score every arm, report.

In: a loaded recipe. Out: finished folders; what was finished before is skipped.
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.config import LoadedRecipe, selection_metric
from tutelage.errors import ConfigError, DataError
from tutelage.experiment.adapt import adapt, teacher_identity
from tutelage.experiment.audit import append_event, peak_memory_bytes
from tutelage.experiment.identity import Folders
from tutelage.experiment.matrix import Run, method_of, report_runs, teacher_run, trial_runs, untouched_run
from tutelage.experiment.prepare import prepare
from tutelage.experiment.shrink import shrink
from tutelage.experiment.stage import Context, finished, stage_key
from tutelage.experiment.task_kinds import limits
from tutelage.experiment.teach import Taught, teach_stage
from tutelage.store import Manifest, folder_lock, sweep_temporaries, write_json
from tutelage.train.signals import preempted_by_signals

STAGES = ("prepare", "adapt", "teach", "shrink", "trials", "train", "report")


@dataclass(frozen=True)
class Outcome:
    """What a run of a recipe leaves on the screen."""

    report: Path | None
    table: str
    timings: dict[str, float]  # seconds per stage, in this process
    skipped: int
    seconds: float


def run_recipe(
    loaded: LoadedRecipe,
    *,
    only: str | None = None,
    until: str | None = None,
    control: bool = False,
    show: Callable[[str], None],
    command: str = "",
) -> Outcome:
    """Run every stage of a recipe that is not finished.

    Args:
        loaded: The recipe.
        only: Run this stage alone (its inputs must be finished).
        until: Stop after this stage.
        control: Add the permuted-teacher control.
        show: Receives lines for the screen.
        command: How a user would start this again; recorded with every number.

    Raises:
        ConfigError: If a stage's name is unknown.
        LockedError: If another process runs the same experiment.
        TutelageError: Whatever a stage refuses, with its exit code.
    """
    for name in (only, until):
        if name is not None and name not in STAGES:
            raise ConfigError(f"There is no stage {name!r}. Expected one of {', '.join(STAGES)}.")
    recipe = loaded.recipe
    folders = Folders(Path(recipe.workspace), recipe.name)
    command = command or f"tutelage run {loaded.path.name}"
    context = Context(loaded, folders, show, command, control=control or recipe.evaluate.permuted_teacher)
    began = time.perf_counter()
    with preempted_by_signals(), folder_lock(folders.root):
        sweep_temporaries(folders.root)
        sweep_temporaries(folders.workspace / "models")
        append_event(
            folders.root, {"event": "run", "command": command, "mode": recipe.mode, "recipe": loaded.path.name}
        )
        wanted = STAGES[: STAGES.index(until) + 1] if until else (only,) if only else STAGES
        outcome = _run_stages(context, wanted)
        append_event(
            folders.root,
            {"event": "done", "skipped": len(context.skipped), "seconds": round(time.perf_counter() - began, 3)},
        )
    return Outcome(outcome[0], outcome[1], context.timings, len(context.skipped), time.perf_counter() - began)


def _run_stages(context: Context, wanted: tuple[str, ...]) -> tuple[Path | None, str]:
    recipe = context.recipe
    if wanted == ("report",):
        return report(context)
    prepared = {task: prepare(context, task) for task in recipe.tasks}
    if wanted[-1] == "prepare":
        return None, ""
    context.adapted, adapted = adapt(context, prepared)
    teacher = adapted.content_digest if adapted else teacher_identity(context)
    if wanted[-1] == "adapt":
        return None, ""
    taught = {task: teach_stage(context, task, manifest, teacher) for task, manifest in prepared.items()}
    if wanted[-1] == "teach":
        return None, ""
    first_task = next(iter(recipe.tasks))
    shrunk = {
        student: shrink(context, student, prepared[first_task], teacher, first_task) for student in recipe.students
    }
    if wanted[-1] == "shrink":
        return None, ""
    chosen = {}
    for task in recipe.tasks:
        for student in recipe.students:
            digests = {"teacher": teacher, "taught": taught[task].digest, "prepared": prepared[task].content_digest}
            if (layers := shrunk[student]) is not None:
                digests["layers"] = layers.content_digest
            chosen[f"{task}/{student}"] = run_arms(
                context, task, student, taught[task], digests, trials_only=wanted[-1] == "trials"
            )
    if any(chosen.values()):
        write_json(context.folders.root / "best_config.json", chosen)
    context.discard_work(context.folders.root / "work")  # what is left there belongs to settings that changed
    if wanted[-1] == "train":
        return None, ""
    return report(context)


def run_arms(
    context: Context, task: str, student: str, taught: Taught, digests: Mapping[str, str], *, trials_only: bool = False
) -> dict[str, Any]:
    """Run teacher, untouched student, trials and reported runs of one student on one task.

    With ``trials_only`` no test row is scored for any trained student, and the report lists the search.

    Returns:
        Per searched method: the chosen settings, the validation metric and the number of trials.
    """
    recipe = context.recipe
    metric = selection_metric(recipe.evaluate.select_by, recipe.tasks[task])
    make_run(context, teacher_run(task), taught, digests)
    make_run(context, untouched_run(task, student), taught, digests)
    best: dict[str, dict[str, Any]] = {}
    chosen: dict[str, Any] = {}
    for method, trials in trial_runs(recipe, task, student).items():
        for trial in trials:
            make_run(context, trial, taught, digests)
        scores = [validation_metric(context, trial, metric) for trial in trials]
        winner = max(range(len(trials)), key=lambda i: (scores[i], -i))  # the first of equals
        best[method] = trials[winner].settings
        chosen[method] = {
            "settings": trials[winner].settings, "trial": trials[winner].run_id,
            metric: scores[winner], "trials": len(trials),
        }  # fmt: skip
        context.show(f"chose {method}: {trials[winner].run_id} (validation {metric} {scores[winner]:.4f})")
    if trials_only:
        return chosen
    for run in report_runs(recipe, task, student, best, control=context.control):
        make_run(context, run, taught, digests)
    return chosen


def validation_metric(context: Context, run: Run, metric: str) -> float:
    """Return the metric of a finished trial on the validation rows."""
    record = json.loads((context.folders.run(run.run_id) / "run.json").read_text(encoding="utf-8"))
    return float(record["metrics"]["validation"][metric])


def make_run(context: Context, run: Run, taught: Taught, digests: Mapping[str, str]) -> Manifest:
    """Do one run unless it is finished for exactly these settings and inputs."""
    folder, key = context.folders.run(run.run_id), run_key(context, run, digests)
    context.runs.append(run.run_id)
    manifest = finished(folder, key)
    if manifest is not None:
        context.skip("train", run.run_id)
        return manifest
    from tutelage.experiment.arm import score_teacher, score_untouched, train_arm

    makers = {"teacher": score_teacher, "untouched": score_untouched}
    with context.timed("train", run.run_id):
        makers.get(run.kind, train_arm)(context, run, folder, key, taught)
    manifest = finished(folder, key)
    assert manifest is not None, "a run that was just committed is finished"
    return manifest


def run_key(context: Context, run: Run, digests: Mapping[str, str]) -> str:
    """Address a run by everything that decides its numbers."""
    recipe = context.recipe
    part: dict[str, Any] = {"run_id": run.run_id, "role": run.role, "seed": run.seed}
    part["evaluate"] = recipe.evaluate.model_dump(mode="json", include={"token_budget", "fidelity_rows"})
    part["evaluate"]["select_by"] = selection_metric(recipe.evaluate.select_by, recipe.tasks[run.task])
    part |= limits(recipe.tasks[run.task])
    if run.kind != "teacher":
        part["student"] = recipe.students[run.student].model_dump(mode="json")
    if run.kind not in ("teacher", "untouched"):
        method = method_of(recipe, run)
        # settings that only decide when something is written do not make another run
        changes = {**recipe.train.model_dump(mode="json"), **method.train.model_dump(mode="json")}
        part["train"] = {name: value for name, value in changes.items() if name != "save_steps"}
        part["method"] = method.model_dump(mode="json", exclude={"train", "grid"})
        part["signals"] = [signal.model_dump(mode="json") for signal in recipe.signals]
    return stage_key("train", part, digests)


def report(context: Context) -> tuple[Path, str]:
    """Build the report of what is finished, and return its page and a table for the screen."""
    from tutelage.report import build_report

    folder = context.folders.root
    if not any(folder.glob("*/run.json")):
        raise DataError(f"{folder} holds no finished run. Run the recipe first.")
    with context.timed("report", context.recipe.name):
        built = build_report(
            folder,
            question=context.recipe.report.question,
            command=context.command,
            run_ids=context.runs or None,
            search_folder=folder.parent / search if (search := context.recipe.report.search) else None,
        )
    return built.page, built.terminal


def footer(outcome: Outcome) -> list[str]:
    """Return the closing lines: time per stage, load, memory, where the report is."""
    shown = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in outcome.timings.items() if seconds >= 0.5)
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    lines = [
        f"time: {outcome.seconds:.0f} s ({shown or 'nothing to do'}); {outcome.skipped} finished before",
        f"load average: {load}; peak memory: {peak_memory_bytes() / 2**30:.2f} GiB",
    ]
    if outcome.report is not None:
        lines.append(f"report: {outcome.report}")
    return lines
