"""Gather the runs of one arm, and describe each arm in numbers.

In: the runs of an :class:`Experiment`. Out: arms in the order of the tables, and their plain records.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from tutelage.report.collect import Run
from tutelage.report.method_words import method_words
from tutelage.report.pairing import ItemScores, Seed
from tutelage.report.statistics import bootstrap_interval, seed_spread, share_interval

ROLE_ORDER = {"teacher": 0, "untouched": 1, "baseline": 2, "pseudo": 3, "method": 4, "control": 5}
MEAN_METRICS = (
    *("macro_f1", "f1", "exact_match", "valid_ratio", "ece", "token_accuracy", "token_probability", "nll"),
    *("perplexity", "bits_per_byte", "kl_to_teacher", "top1_agreement", "answers_empty"),
)
BUDGET_COUNTS = ("gold_labels", "tokens", "targets", "steps", "teacher_tokens")


@dataclass(frozen=True)
class Arm:
    """All runs of one method on one task and student: one per seed."""

    label: str
    role: str
    method: str
    runs: Mapping[Seed, Run]

    @cached_property
    def scores(self) -> dict[Seed, ItemScores]:
        """Per-item scores of each seed."""
        return {seed: run.scores for seed, run in self.runs.items()}

    @property
    def seeds(self) -> list[int]:
        """Seeds, sorted; empty for an arm that is not trained."""
        return sorted(seed for seed in self.runs if seed is not None)

    @property
    def first(self) -> Run:
        """The run of the smallest seed."""
        return self.runs[self.seeds[0] if self.seeds else None]

    def mean_metric(self, split: str, name: str) -> float | None:
        """Mean over seeds; None when a run lacks it."""
        metrics = [(run.record.get("metrics") or {}).get(split) or {} for run in self.runs.values()]
        return _mean_if_known([each.get(name) for each in metrics])

    def mean_count(self, name: str) -> float | None:
        """Mean over seeds of a count in ``run.json``; None when a run lacks it."""
        return _mean_if_known([run.record.get(name) for run in self.runs.values()])


def _mean_if_known(values: list[Any]) -> float | None:
    return None if None in values else fmean(values)


def group_arms(runs: Iterable[Run]) -> dict[tuple[str, str | None], list[Arm]]:
    """Sort runs into arms, for each (task, student); a task's teacher belongs to all its students."""
    runs = list(runs)
    students: dict[tuple[str, str | None], None] = {}
    for run in runs:
        if run.role != "teacher":
            students[run.record["task"], run.student] = None
    if not students:
        students = {(run.record["task"], None): None for run in runs}
    return {key: _arms_of(runs, *key) for key in sorted(students, key=lambda key: (key[0], key[1] or ""))}


def _arms_of(runs: list[Run], task: str, student: str | None) -> list[Arm]:
    members: dict[tuple[str, str], dict[Seed, Run]] = {}
    for run in runs:
        if run.record["task"] == task and (run.role == "teacher" or run.student == student):
            members.setdefault((run.role, run.record["method"]), {})[run.seed] = run
    keys = sorted(members, key=lambda key: (ROLE_ORDER[key[0]], key[1]))
    return [Arm(_label(role, method), role, method, members[role, method]) for role, method in keys]


def _label(role: str, method: str) -> str:
    if role in ("teacher", "untouched"):
        return {"teacher": "Teacher", "untouched": "Untouched"}[role]
    named = any(word in method.lower() for word in ("control", "permuted"))
    return f"{method}-permuted" if role == "control" and not named else method


def describe_arm(arm: Arm, teacher: Arm | None, *, num_trials: int | None) -> dict[str, Any]:
    """Return everything the tables and figures need to know of an arm, as plain JSON values."""
    record = arm.first.record
    parameters, teacher_parameters = record.get("parameters"), record.get("teacher_parameters")
    per_seed = [_describe_run(arm.runs[seed]) for seed in sorted(arm.runs, key=lambda seed: seed or 0)]
    kept = share_interval(arm.scores, teacher.scores) if teacher is not None else None
    return {
        "label": arm.label,
        "role": arm.role,
        "method": arm.method,
        "kind": record.get("kind"),
        "seeds": arm.seeds,
        "run_ids": [run["run_id"] for run in per_seed],
        "parameters": parameters,
        "parameters_share": parameters / teacher_parameters if parameters and teacher_parameters else None,
        "score": asdict(bootstrap_interval(arm.scores)),
        "share_kept": asdict(kept) if kept is not None else None,
        **{name: arm.mean_metric("test", name) for name in MEAN_METRICS},
        "validation": arm.mean_metric("validation", record.get("primary_metric", "accuracy")),
        "settings": record.get("settings") or {},
        "method_words": _words_of(arm),
        "per_seed": per_seed,
        "seed_spread": asdict(seed_spread([run["score"] for run in per_seed])),
        "num_trials": num_trials,
        "budget": {name: arm.mean_count(name) for name in BUDGET_COUNTS},
    }


def _words_of(arm: Arm) -> str | None:
    """Say what the arm minimised, as far as the recipe beside its runs tells it; a control is as its method."""
    methods = (arm.first.provenance.get("recipe") or {}).get("methods") or {}
    named = [name for name in methods if arm.method == name or (arm.role == "control" and arm.method.startswith(name))]
    if not named or arm.role in ("teacher", "untouched"):
        return None
    return method_words(methods[max(named, key=len)], arm.first.record.get("settings") or {}) or None


def _describe_run(run: Run) -> dict[str, Any]:
    metrics = {name: run.test.get(name) for name in MEAN_METRICS}
    return {"seed": run.seed, "run_id": run.run_id, "score": float(run.scores.scores.mean()), **metrics}
