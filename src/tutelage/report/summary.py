"""Compute every number of the report, once.

In: an :class:`Experiment`. Out: one JSON-like record; tables, figures, page and terminal only lay it out.
"""

from collections.abc import Sequence
from typing import Any

from tutelage.report.answer import answer
from tutelage.report.arms import Arm, describe_arm, group_arms
from tutelage.report.collect import Experiment, Run
from tutelage.report.comparisons import check_fairness, compare_arms
from tutelage.report.curves import arm_curves
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
    groups = [
        _summarise_group(task, student, arms, experiment.trials)
        for (task, student), arms in group_arms(experiment.runs).items()
    ]
    return {
        "format_version": FORMAT_VERSION,
        "experiment": experiment.name,
        "question": question,
        "command": command,
        "statistics": {
            "interval": "percentile bootstrap over item clusters, seeds averaged within an item",
            "level": LEVEL,
            "num_resamples": NUM_RESAMPLES,
            "seed": RESAMPLING_SEED,
        },
        "groups": groups,
        "runs": [
            {"run_id": run.run_id, "command": run.record.get("command"), "content_digest": run.content_digest}
            for run in (*experiment.runs, *experiment.trials)
        ],
    }


def _summarise_group(task: str, student: str | None, arms: Sequence[Arm], all_trials: Sequence[Run]) -> dict[str, Any]:
    trials = [run for run in all_trials if run.record["task"] == task and run.student == student]
    teacher = next((arm for arm in arms if arm.role == "teacher"), None)
    records = [describe_arm(arm, teacher, num_trials=_num_trials(arm, trials)) for arm in arms]
    metric = arms[0].first.record.get("primary_metric", "accuracy")
    curves = {arm.label: curve for arm in arms if (curve := arm_curves(arm, metric=metric)) is not None}
    group = {
        "task": task,
        "student": student,
        "score_name": SCORE_WORDS.get(name := arms[0].first.score_name, name),
        "validation_name": metric,
        "num_items": len(arms[0].first.scores.scores),
        "arms": records,
        "comparisons": compare_arms(arms),
        "trials": (listed := list_trials(trials, arms)),
        "heat_maps": heat_map_grids(listed),
        "curves": curves,
    }
    return {**group, "checks": check_fairness(arms, trials, records), "answer": answer(group)}


def _num_trials(arm: Arm, trials: Sequence[Run]) -> int | None:
    searched = arm.role in ("baseline", "pseudo", "method")
    return sum(run.record["method"] == arm.method for run in trials) if searched else None
