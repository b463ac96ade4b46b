"""What must agree between the sections of a recipe.

In: a recipe whose sections are valid. Out: problems, each at its path.
"""

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from tutelage.config.grid import Path, grid_points, num_trials, with_point
from tutelage.config.losses import TeacherLoss
from tutelage.config.methods import (
    Feature,
    Relation,
    Sequence,
    distribution_signal,
    expand_losses,
    logit_part,
    signals_read,
)
from tutelage.config.signals import HiddenSignal, PooledSignal, SampledSignal, SequencesSignal, TopKSignal
from tutelage.config.state_checks import state_problems
from tutelage.config.tasks import BY_TASK, TASK_METRICS
from tutelage.config.text_checks import text_problems

# Names of arms that every experiment has of itself.
OWN_ARMS = ("teacher", "untouched")
CONTROL_SUFFIX = "-permuted"

# Kept beside the signals wherever every label is one token: a recipe need not list it.
CLASS_SCORES = "class_scores"

ONE_ENTRY = {  # how one entry does what two would
    "topk": "one entry with the larger k serves both",
    "sampled": "one entry takes several temperatures",
    "hidden": "one entry takes several layers",
    "pooled": "one entry takes several layers",
}

KEEPING = {  # how a signal is kept
    "final_hidden": "{kind: final_hidden}",
    "topk": "{kind: topk, k: 64}",
    "sampled": "{kind: sampled}",
    "hidden": "{kind: hidden, stride: 4}",
    "pooled": "{kind: pooled, stride: 4}",
    "sequences": "{kind: sequences}",
}

Problems = Iterator[tuple[Path, str]]


def recipe_problems(recipe: Any) -> Problems:
    """Yield every disagreement between sections."""
    yield from _names_differ_on_any_disk(recipe)
    yield from _methods_are_not_called_like_our_own(recipe)
    yield from _adaptation_task_exists(recipe)
    yield from _every_task_has_the_metric(recipe)
    yield from _signals_are_distinct(recipe)
    yield from _methods_read_what_is_kept(recipe)
    yield from dict.fromkeys(state_problems(recipe))  # once, however many grid points share a problem
    yield from _class_scores_have_classes(recipe)
    yield from text_problems(recipe)
    yield from _effort_is_equal(recipe)


def unknown_reference(found: str, known: Iterable[str], *, section: str) -> str:
    """Say that ``found`` names nothing in ``section``, and what is near it."""
    known = list(known)
    near = difflib.get_close_matches(found, known, n=1)
    return f"{found!r} is not in `{section}`; " + (
        f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}"
    )


def _names_differ_on_any_disk(recipe: Any) -> Problems:
    for section in ("students", "tasks", "methods"):
        first: dict[str, str] = {}
        for name in getattr(recipe, section):
            other = first.setdefault(name.casefold(), name)
            if other != name:
                yield (
                    (section, name),
                    f"differs from {other!r} only by upper and lower case; some disks cannot tell them apart",
                )


def _methods_are_not_called_like_our_own(recipe: Any) -> Problems:
    for name in recipe.methods:
        if name.casefold() in OWN_ARMS or name.endswith(CONTROL_SUFFIX):
            yield ("methods", name), f"{name!r} is the name of an arm that is made automatically; choose another"


def _adaptation_task_exists(recipe: Any) -> Problems:
    adapt = recipe.teacher.adapt
    for name in adapt.tasks if adapt is not None else ():
        if name not in recipe.tasks:
            yield ("teacher", "adapt", "task"), unknown_reference(name, recipe.tasks, section="tasks")


def _every_task_has_the_metric(recipe: Any) -> Problems:
    metric = recipe.evaluate.select_by
    for name, task in recipe.tasks.items():
        if metric not in (BY_TASK, *TASK_METRICS[task.kind]):
            known = ", ".join(TASK_METRICS[task.kind])
            yield (
                ("evaluate", "select_by"),
                f"task {name!r} is a {task.kind} task and has no {metric}, only {known}; write auto for the "
                "main metric of every task",
            )


def _signals_are_distinct(recipe: Any) -> Problems:
    counts = Counter(signal.kind for signal in recipe.signals)
    for index, signal in enumerate(recipe.signals):
        if counts[signal.kind] > 1 and index > [other.kind for other in recipe.signals].index(signal.kind):
            yield (
                ("signals", index, "kind"),
                f"{signal.kind!r} is listed twice; {ONE_ENTRY.get(signal.kind, 'one entry is enough')}",
            )


def _methods_read_what_is_kept(recipe: Any) -> Problems:
    signals = {signal.kind: signal for signal in recipe.signals}
    for name, method in recipe.methods.items():
        seen = set()
        for point in grid_points(method):
            for problem in _reads_what_is_kept(name, with_point(method, point), signals, point):
                if problem not in seen:
                    seen.add(problem)
                    yield problem


def _reads_what_is_kept(name: str, method: Any, signals: dict[str, Any], point: dict[str, Any]) -> Problems:
    for where, wanted in signals_read(method).items():
        if wanted not in signals and wanted != CLASS_SCORES:
            path = ".".join(where)
            has_no_choice = isinstance(method, Feature | Relation | Sequence) and where == ("signal",)
            yield (
                ("methods", name, *(("grid", path) if path in point else where)),
                _not_kept(wanted, () if has_no_choice else tuple(signals)),
            )
    signal = signals.get(distribution_signal(method) or "")
    for loss in expand_losses(method) if signal is not None else ():
        if isinstance(loss, TeacherLoss) and (problem := _unreadable(signal, loss.kind, loss.temperature)) is not None:
            key, message = problem
            path = next((path for path in point if path.rpartition(".")[2] == key), None)
            part = ("logit",) if getattr(method, "logit", None) is not None else ()
            where = (
                ("grid", path) if path else (*part, key) if hasattr(logit_part(method) or method, key) else ("losses",)
            )
            yield ("methods", name, *where), message


def _not_kept(wanted: str, kept: tuple[str, ...]) -> str:
    if wanted not in KEEPING:
        return unknown_reference(wanted, kept, section="signals")
    others = f"expected one of {', '.join(kept)}, or " if kept else ""
    return f"{wanted!r} is not in `signals`; {others}add `{KEEPING[wanted]}` there"


def _class_scores_have_classes(recipe: Any) -> Problems:
    without = [name for name, task in recipe.tasks.items() if task.kind != "classification"]
    for name, method in recipe.methods.items():
        read = {
            path: signal
            for point in grid_points(method)
            for path, signal in signals_read(with_point(method, point)).items()
            if signal == CLASS_SCORES
        }
        for path in read if without else ():
            key = ".".join(path)
            where = ("grid", key) if key in method.grid else path
            yield (
                ("methods", name, *where),
                f"{CLASS_SCORES!r} are scores of label words, and task {without[0]!r} has none; name final_hidden, "
                "topk or sampled",
            )


def _unreadable(signal: Any, kind: str, temperature: float) -> tuple[str, str] | None:
    """Say why a divergence cannot read a signal at a temperature, and which of its settings is at fault."""
    if isinstance(signal, SequencesSignal):
        return "signal", f"'sequences' holds answers, which {kind} does not read; name final_hidden, topk or sampled"
    if isinstance(signal, HiddenSignal | PooledSignal):
        return (
            "signal",
            f"{signal.kind!r} holds hidden states, which {kind} does not read; name final_hidden, topk or sampled",
        )
    if isinstance(signal, TopKSignal) and temperature not in (1.0, *signal.temperatures):
        kept = ", ".join(f"{kept:g}" for kept in signal.temperatures)
        return (
            "temperature",
            f"temperature {temperature:g} has no log_z in the topk signal, which keeps it for {kept}; "
            "add it to the signal's temperatures, or read final_hidden",
        )
    if isinstance(signal, SampledSignal) and temperature not in signal.temperatures:
        kept = ", ".join(f"{kept:g}" for kept in signal.temperatures)
        return (
            "temperature",
            f"temperature {temperature:g} has no draws in the sampled signal, which has them for {kept}; "
            "add it to the signal's temperatures, or read final_hidden",
        )
    return None


def _effort_is_equal(recipe: Any) -> Problems:
    trials = {name: num_trials(method) for name, method in recipe.methods.items()}
    reference = next((name for name, method in recipe.methods.items() if method.kind == "baseline"), next(iter(trials)))
    for name, count in trials.items():
        if count != trials[reference]:
            where = ("grid",) if recipe.methods[name].grid else ()
            yield (
                ("methods", name, *where),
                f"{count} trial{'s' * (count != 1)}, but {reference} has {trials[reference]}; "
                "give every method a grid of the same size, or none to any",
            )
