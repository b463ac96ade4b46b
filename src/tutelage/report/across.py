"""Lay the tasks of an experiment side by side: every arm's score on each, and its mean rank.

In: the groups of the summary. Out: one record per student with two tasks or more.
"""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from scipy import stats

from tutelage.report.comparisons import TRAINED_ROLES


def rank_over_tasks(groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return ``{student, tasks, arms: [{label, role, scores, ranks, mean_rank}]}`` for each student.

    Rank 1 is the best of the trained arms, equal scores share their mean rank. An arm that was not run on every task
    has no mean rank: it would be one over other tasks.
    """
    students = dict.fromkeys(group["student"] for group in groups)
    by_student = [(student, [group for group in groups if group["student"] == student]) for student in students]
    return [_side_by_side(student, own) for student, own in by_student if len(own) > 1]


def _side_by_side(student: str | None, groups: Sequence[dict[str, Any]]) -> dict[str, Any]:
    roles = {arm["label"]: arm["role"] for group in groups for arm in group["arms"] if arm["role"] != "control"}
    scores = {group["task"]: {arm["label"]: arm["score"] for arm in group["arms"]} for group in groups}
    ranks = {group["task"]: _ranks(group) for group in groups}
    arms = []
    for label, role in roles.items():
        own = [by_label.get(label) for by_label in ranks.values()]
        known = [rank for rank in own if rank is not None]
        arms.append(
            {
                "label": label,
                "role": role,
                "scores": {task: by_label.get(label) for task, by_label in scores.items()},
                "ranks": {task: by_label.get(label) for task, by_label in ranks.items()},
                "mean_rank": fmean(known) if len(known) == len(groups) else None,
            }
        )
    return {
        "student": student,
        "tasks": [{"task": group["task"], "score_name": group["score_name"]} for group in groups],
        "arms": arms,
    }


def _ranks(group: dict[str, Any]) -> dict[str, float]:
    trained = [arm for arm in group["arms"] if arm["role"] in TRAINED_ROLES]
    found = stats.rankdata([-arm["score"]["estimate"] for arm in trained])
    return {arm["label"]: float(rank) for arm, rank in zip(trained, found, strict=True)}
