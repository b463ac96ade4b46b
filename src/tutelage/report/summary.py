"""Compute every number of the report, once.

In: an :class:`Experiment`. Out: one JSON-like record; tables, figures, page and terminal only lay it out.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tutelage.report.across import rank_over_tasks
from tutelage.report.answer import answer
from tutelage.report.arms import Arm, describe_arm, group_arms
from tutelage.report.collect import Experiment, Run
from tutelage.report.compared import describe_compared, stage_records
from tutelage.report.comparisons import check_fairness, compare_arms, compare_pairs
from tutelage.report.curves import arm_curves
from tutelage.report.findings import TRAINED, find_chance, find_faults, is_trivial
from tutelage.report.resampling import LEVEL, NUM_RESAMPLES, RESAMPLING_SEED
from tutelage.report.trials import heat_map_grids, list_trials

FORMAT_VERSION = 2
SCORE_WORDS = {  # how people call a metric; the others as they are
    "f1": "F1",
    "exact_match": "exact match",
    "token_accuracy": "token accuracy",
    "token_probability": "token probability",
}


def summarise(experiment: Experiment, *, question: str, command: str) -> dict[str, Any]:
    """Return all numbers of an experiment; one group per task and student."""
    records = stage_records(experiment.runs, experiment.folder) if experiment.folder is not None else {}
    groups = [
        _summarise_group(task, student, arms, experiment.trials)
        | {"compared": describe_compared(arms, records.get(task) or {})}
        for (task, student), arms in group_arms(experiment.runs).items()
    ]
    tasks = [group["task"] for group in groups]
    for group in groups:
        group["place"] = group["task"] if tasks.count(group["task"]) == 1 else f"{group['task']}-{group['student']}"
    return {
        "format_version": FORMAT_VERSION,
        "experiment": experiment.name,
        "question": question,
        "command": command,
        "statistics": {
            "interval": "percentile bootstrap over item clusters, seeds averaged within an item; exact binomial where "
            "all items say the same or fewer than six differ",
            "level": LEVEL,
            "num_resamples": NUM_RESAMPLES,
            "seed": RESAMPLING_SEED,
        },
        "groups": groups,
        "across": rank_over_tasks(groups),
        "runs": [_name_run(run) for run in (*experiment.runs, *experiment.trials)],
    }


def _name_run(run: Run) -> dict[str, Any]:
    return {"run_id": run.run_id, "command": run.provenance.get("command"), "content_digest": run.content_digest}


def _summarise_group(task: str, student: str | None, arms: Sequence[Arm], all_trials: Sequence[Run]) -> dict[str, Any]:
    trials = [run for run in all_trials if run.record["task"] == task and run.student == student]
    teacher = next((arm for arm in arms if arm.role == "teacher"), None)
    records = [describe_arm(arm, teacher, num_trials=_num_trials(arm, trials)) for arm in arms]
    records = _with_faults(records, {arm.label: find_faults(arm, arms) for arm in arms})
    metric = arms[0].first.record.get("primary_metric", "accuracy")
    curves = {arm.label: curve for arm in arms if (curve := arm_curves(arm, metric=metric)) is not None}
    group = {
        "task": task,
        "student": student,
        "score_name": SCORE_WORDS.get(name := arms[0].first.score_name, name),
        "validation_name": SCORE_WORDS.get(metric, metric),
        "num_items": len(arms[0].first.scores.scores),
        "num_clusters": len(set(arms[0].first.scores.cluster_keys.tolist())),
        "chance": find_chance(arms),
        "arms": records,
        "comparisons": compare_arms(arms),
        "pairs": compare_pairs(arms),
        "trials": (listed := list_trials(trials, arms)),
        "heat_maps": heat_map_grids(listed),
        "curves": curves,
    }
    return {**group, "checks": check_fairness(arms, trials, records), "answer": answer(group)}


def _with_faults(records: Sequence[dict[str, Any]], faults: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Add what is wrong with each arm; no share of the teacher is told where it would mean nothing."""
    trivial = {record["label"]: record["role"] for record in records if is_trivial(faults[record["label"]])}
    hidden = {label for label, role in trivial.items() if role in TRAINED}
    if "teacher" in trivial.values():
        hidden = {record["label"] for record in records}
    return [
        {**record, "faults": faults[record["label"]]} | ({"share_kept": None} if record["label"] in hidden else {})
        for record in records
    ]


def _num_trials(arm: Arm, trials: Sequence[Run]) -> int | None:
    searched = arm.role in ("baseline", "pseudo", "method")
    return sum(run.record["method"] == arm.method for run in trials) if searched else None
