"""Compare each method with the arms that could explain its score away, and check that the race was fair.

In: the arms of one task and student. Out: paired comparisons and checks as plain JSON values.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from tutelage.report.arms import Arm
from tutelage.report.collect import Run
from tutelage.report.statistics import PairedDifference, holm, paired_difference

TRAINED_ROLES = ("baseline", "pseudo", "method")
RIVAL_ROLES = ("baseline", "pseudo", "untouched", "control", "teacher")
# Budgets are equal up to the last short step of an epoch.
BUDGET_TOLERANCE = 0.01


def compare_arms(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """Return method minus rival for every method and rival; Holm's rule runs over all of them.

    A control is compared with the method that it permutes, or with every method if it names none.
    """
    methods = [arm for arm in arms if arm.role == "method"]
    rivals = sorted((arm for arm in arms if arm.role in RIVAL_ROLES), key=lambda arm: RIVAL_ROLES.index(arm.role))
    comparisons = [
        describe_pair(method, rival, paired_difference(method.scores, rival.scores))
        for method in methods
        for rival in rivals
        if rival.role != "control" or _permutes(rival, method, methods)
    ]
    return with_holm(comparisons)


def compare_pairs(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """Return every pair of trained arms, the earlier one in the tables second; Holm's rule runs over these pairs."""
    trained = [arm for arm in arms if arm.role in TRAINED_ROLES]
    pairs = [
        describe_pair(later, earlier, paired_difference(later.scores, earlier.scores))
        for index, later in enumerate(trained)
        for earlier in trained[:index]
        if set(later.seeds) & set(earlier.seeds)
    ]
    return with_holm(pairs)


def with_holm(comparisons: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add ``p_holm``, with Holm's rule over these comparisons."""
    adjusted = holm([comparison["p_value"] for comparison in comparisons])
    return [{**comparison, "p_holm": p_value} for comparison, p_value in zip(comparisons, adjusted, strict=True)]


def _permutes(control: Arm, method: Arm, methods: Sequence[Arm]) -> bool:
    named = [arm.method for arm in methods if control.method.startswith(arm.method)]
    return not named or method.method == max(named, key=len)


def describe_pair(method: Arm, rival: Arm, result: PairedDifference) -> dict[str, Any]:
    """Return a paired difference as plain JSON values, with the names of its arms."""
    per_seed = result.mcnemar_per_seed or (None,) * len(result.pairs)
    return {
        "method": method.label,
        "rival": rival.label,
        "rival_role": rival.role,
        "difference": asdict(result.interval),
        "p_value": result.p_value,
        "cohens_d": result.cohens_d,
        "effect": result.effect,
        "mcnemar": asdict(result.mcnemar_pooled) if result.mcnemar_pooled else None,
        "per_seed": [
            {
                "seed": first if first is not None else second,
                "difference": value,
                "mcnemar": asdict(test) if test else None,
            }
            for (first, second), value, test in zip(result.pairs, result.seed_differences, per_seed, strict=True)
        ],
        "seed_spread": asdict(result.seed_spread),
        "num_items": result.num_items,
        "num_clusters": result.num_clusters,
        "visible_difference": result.visible,
    }


def check_fairness(
    arms: Sequence[Arm], trials: Sequence[Run], arm_records: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return what makes the comparison valid: name, whether it holds (None: unknown), and the finding."""
    return [
        _check_effort(arm_records),
        _check_budget(arm_records),
        _check_selection_seed(arms, trials),
        _check_seeds(arm_records),
    ]


def _trained(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [record for record in records if record["role"] in TRAINED_ROLES]


def _check_effort(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    counts = {record["label"]: record["num_trials"] for record in _trained(records)}
    name = "Equal tuning effort"
    if not any(counts.values()):
        return {"name": name, "passed": None, "finding": "No trial is in this folder: no search to compare."}
    finding = ", ".join(f"{label} {count}" for label, count in counts.items())
    return {"name": name, "passed": len(set(counts.values())) <= 1, "finding": f"Trials: {finding}."}


def _check_budget(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    tokens = {record["label"]: record["budget"]["tokens"] for record in _trained(records)}
    if not tokens or None in tokens.values():
        return {
            "name": "Equal student budget",
            "passed": None,
            "finding": "Processed student tokens were not recorded.",
        }
    finding = ", ".join(f"{label} {count:,.0f}" for label, count in tokens.items())
    equal = max(tokens.values()) <= (1 + BUDGET_TOLERANCE) * min(tokens.values())
    return {"name": "Equal student budget", "passed": equal, "finding": f"Student tokens per run: {finding}."}


def _check_selection_seed(arms: Sequence[Arm], trials: Sequence[Run]) -> dict[str, Any]:
    searched = sorted({run.seed for run in trials if run.seed is not None})
    reported = sorted({seed for arm in arms for seed in arm.seeds})
    name = "Selection apart from reporting"
    if not searched:
        return {
            "name": name,
            "passed": None,
            "finding": "No trial is in this folder: settings were given, not searched here.",
        }
    finding = f"Trials used seed {_listed(searched)}, results use {_listed(reported) or 'none'}."
    return {"name": name, "passed": not set(searched) & set(reported), "finding": finding}


def _check_seeds(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    seeds = {record["label"]: tuple(record["seeds"]) for record in _trained(records)}
    finding = "; ".join(f"{label} {_listed(values)}" for label, values in seeds.items()) or "no trained arm"
    return {"name": "Same seeds in every arm", "passed": len(set(seeds.values())) <= 1, "finding": f"{finding}."}


def _listed(values: Sequence[int]) -> str:
    return ", ".join(str(value) for value in values)
