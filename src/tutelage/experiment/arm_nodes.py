"""The runs of a recipe as nodes of the stage graph: what decides each, and the search that sets some of them.

In: a recipe's context, the nodes of prepared, taught and cut. Out: one node per run.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.config import expand_losses, selection_metric, signals_read, teacher_temperatures
from tutelage.config.losses import KINDS
from tutelage.experiment.graph import Node, known
from tutelage.experiment.matrix import (
    Run,
    Slot,
    method_of,
    report_slots,
    slot_run,
    teacher_run,
    trial_runs,
    untouched_run,
)
from tutelage.experiment.origin import Origin
from tutelage.experiment.stage import Context, Target
from tutelage.experiment.task_kinds import limits, scored_part
from tutelage.experiment.teach import FACTS_FILE, taught_of
from tutelage.experiment.writer import writer_part
from tutelage.plugins import find_own_loss
from tutelage.store import read_input
from tutelage.train.options import ONLY_WRITING

FIDELITY_SIGNALS = ("final_hidden", "topk")  # evaluate/fidelity.py, which imports torch


@dataclass(frozen=True)
class Before:
    """What every run of one student on one task reads."""

    prepared: Node
    taught: Node
    origin: Origin  # the student's first weights
    teacher: Origin  # whose tokenizer and template make the rows
    shrunk: Node | None

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The stages before a run."""
        before = (self.prepared, self.taught, *self.teacher.needs, *self.origin.needs)
        return (*dict.fromkeys(before), *([self.shrunk] if self.shrunk else []))

    def digests(self) -> dict[str, str | None]:
        """Return the digests of rows, weights and layers; None for what is not finished."""
        weights = {each.what: each.digest() for each in (self.teacher, self.origin)}
        found = {"prepared": self.prepared.digest(), **weights}
        return found | ({"layers": self.shrunk.digest()} if self.shrunk else {})


@dataclass(frozen=True)
class Search:
    """The trials of one method, and which of them won."""

    metric: str
    trials: tuple[tuple[Run, Node], ...]

    def scores(self) -> list[float] | None:
        """Return the validation metric of every trial, in grid order; None while one is not finished."""
        folders = [node.folder() for _, node in self.trials if node.manifest() is not None]
        return (
            [validation_metric(folder, self.metric) for folder in folders] if len(folders) == len(self.trials) else None
        )

    def winner(self) -> tuple[Run, float] | None:
        """Return the best trial and its metric, the first of equals; None while the search is open."""
        scores = self.scores()
        if scores is None:
            return None
        best = max(range(len(scores)), key=lambda i: (scores[i], -i))
        return self.trials[best][0], scores[best]


@dataclass(frozen=True)
class StudentRuns:
    """The nodes of one student on one task."""

    nodes: tuple[Node, ...]
    searches: dict[str, Search]  # by method

    def chosen(self) -> dict[str, Any]:
        """Return what finished searches chose: settings, trial, metric, number of trials."""
        found = {}
        for method, search in self.searches.items():
            if (winner := search.winner()) is not None:
                run, score = winner
                found[method] = {
                    "settings": run.settings, "trial": run.run_id, search.metric: score, "trials": len(search.trials),
                }  # fmt: skip
        return found


def teacher_node(context: Context, task: str, prepared: Node, taught: Node) -> Node:
    """Return the run that scores the teacher from what it answered in the teach stage."""
    run = teacher_run(task)
    return _run_node(
        context,
        "score",
        lambda: run,
        (prepared, taught),
        lambda: known({"prepared": prepared.digest(), **_answers(taught)}),
    )


def student_runs(context: Context, task: str, student: str, before: Before) -> StudentRuns:
    """Return the untouched student, the trials and the reported runs of one student on one task."""
    recipe = context.recipe
    untouched = untouched_run(task, student)
    nodes = [_student_node(context, "score", lambda: untouched, before)]
    searches = {}
    for method, trials in trial_runs(recipe, task, student).items():
        made = tuple((trial, _student_node(context, "trials", lambda trial=trial: trial, before)) for trial in trials)
        searches[method] = Search(selection_metric(recipe.evaluate.select_by, recipe.tasks[task]), made)
        nodes += [node for _, node in made]
    for slot in report_slots(recipe, control=context.control):
        nodes.append(_reported_node(context, task, student, slot, searches.get(slot.method), before))
    return StudentRuns(tuple(nodes), searches)


def _reported_node(
    context: Context, task: str, student: str, slot: Slot, search: Search | None, before: Before
) -> Node:
    def run() -> Run | None:
        if search is None:
            return slot_run(context.recipe, task, student, slot, {})
        winner = search.winner()
        return slot_run(context.recipe, task, student, slot, winner[0].settings) if winner is not None else None

    open_name = f"{slot.name}_{task}_{student}_..._seed{slot.seed}"
    trials = tuple(node for _, node in search.trials) if search is not None else ()
    return _student_node(context, "train", run, before, trials=trials, open_name=open_name)


def _student_node(
    context: Context,
    stage: str,
    run: Callable[[], Run | None],
    before: Before,
    *,
    trials: tuple[Node, ...] = (),
    open_name: str = "",
) -> Node:
    def reads() -> dict[str, str] | None:
        found = run()
        if found is None:
            return None
        return known({**before.digests(), **_signals(context, found, before.taught)})

    return _run_node(context, stage, run, (*before.nodes, *trials), reads, open_name=open_name)


def _run_node(
    context: Context,
    stage: str,
    run: Callable[[], Run | None],
    needs: tuple[Node, ...],
    reads: Callable[[], dict[str, str] | None],
    *,
    open_name: str = "",
) -> Node:
    def name() -> str:
        found = run()
        return found.run_id if found is not None else open_name

    def part() -> dict[str, Any] | None:
        found = run()
        return run_part(context, found) if found is not None else None

    def place(key: str) -> Path:
        return context.folders.run(name(), key)

    def make(target: Target) -> None:
        found = run()
        assert found is not None, "a run is made when its settings are known"
        from tutelage.experiment.arm import make_run

        make_run(context, found, target, taught_of(context, found.task))

    known_now = run()
    note = known_now.role if known_now is not None else "settings from the search"
    return Node(context, stage, name, needs, part, reads, place, make, note=note)


def run_part(context: Context, run: Run) -> dict[str, Any]:
    """Return the settings that decide a run's numbers."""
    recipe = context.recipe
    part: dict[str, Any] = {"run_id": run.run_id, "role": run.role, "seed": run.seed}
    part["evaluate"] = recipe.evaluate.model_dump(mode="json", include={"token_budget", "fidelity_rows"})
    part["evaluate"]["select_by"] = selection_metric(recipe.evaluate.select_by, recipe.tasks[run.task])
    part["evaluate"] |= scored_part(context, run.task)
    part |= limits(recipe.tasks[run.task])
    if run.kind != "teacher":
        section = recipe.students[run.student]
        # a key that is not used leaves no trace; rows of a student with another model are written by the teacher's
        # tokenizer since such runs say so
        unused = set() if section.resize_embeddings else {"resize_embeddings"}
        part["student"] = section.model_dump(mode="json", exclude=unused)
        part |= {"rows": "one writer"} if section.model is not None else {}
    part |= writer_part(context)
    if run.kind not in ("teacher", "untouched"):
        method = method_of(recipe, run)
        changes = {**recipe.train.model_dump(mode="json"), **method.train.model_dump(mode="json")}
        part["train"] = {name: value for name, value in changes.items() if name not in ONLY_WRITING}
        part["method"] = method.model_dump(mode="json", exclude={"train", "grid"})
        if own := own_digests(method):
            part["plugins"] = own
    return part


def own_digests(method: Any) -> dict[str, str]:
    """Return the digest of the file behind every loss of a method that a user registered, by the loss's name."""
    kinds = [loss.kind for loss in expand_losses(method) if loss.kind not in KINDS]
    found = {kind: find_own_loss(kind) for kind in kinds}
    return {kind: "not loaded" if own is None else own.source.digest[:16] for kind, own in found.items()}


def validation_metric(folder: Path, metric: str) -> float:
    """Return the metric of a finished trial on the validation rows."""
    return float(json.loads(read_input(folder, "run.json"))["metrics"]["validation"][metric])


def _signals(context: Context, run: Run, taught: Node) -> dict[str, str | None]:
    """Return the digests of what a run reads of the teacher's: its method's columns, and the one for its fidelity."""
    manifest = taught.manifest()
    if manifest is None:
        return {"teach": None}
    stored = manifest.fields["read"]
    fidelity = [signal.kind for signal in context.recipe.signals if signal.kind in FIDELITY_SIGNALS][:1]
    found: dict[str, str | None] = {each["name"]: each["digest"] for each in stored if each["kind"] in fidelity}
    if run.kind in ("teacher", "untouched"):
        return found
    method = method_of(context.recipe, run)
    kinds, temperatures = set(signals_read(method).values()), (None, *teacher_temperatures(method))
    read = [each for each in stored if each["kind"] in kinds and each["temperature"] in temperatures]
    found |= {each["name"]: each["digest"] for each in read}
    return found | (_answers(taught) if run.kind == "pseudo" else {})


def _answers(taught: Node) -> dict[str, str | None]:
    """Return the digests of the teacher's own answers: everything in its folder but the facts."""
    manifest = taught.manifest()
    if manifest is None:
        return {"teach": None}
    files = {name: entry["sha256"] for name, entry in manifest.files.items()}
    return {name: digest for name, digest in files.items() if name not in (FACTS_FILE, "provenance.json")}
