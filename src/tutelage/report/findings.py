"""Find what makes a comparison mean less than it seems: a teacher at chance, one answer to everything, a lost seed.

In: the arms of one task and student. Out: the score of always giving one answer, and per arm what is wrong with it.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

import numpy as np

from tutelage.report.arms import Arm
from tutelage.report.collect import Run
from tutelage.report.comparisons import TRAINED_ROLES as TRAINED
from tutelage.report.pairing import ItemScores
from tutelage.report.statistics import bootstrap_interval, paired_difference

CHOICES = ("accuracy", "macro_f1")  # scores of one class per item; what is right by luck can be counted
WRITTEN = ("f1", "exact_match")
MOSTLY = 0.5  # a larger share of empty answers is the finding about an arm
# Seeds of one arm differ by a few points as a rule; beyond this, and measurably, one of them failed.
MOST_BETWEEN_SEEDS = 0.10


def find_chance(arms: Sequence[Arm]) -> dict[str, Any] | None:
    """Return the score of always giving the commonest class of the test rows; None where there are no classes."""
    run = arms[0].first
    if run.items is None or run.score_name not in CHOICES:
        return None
    constant = _constant_scores(run)
    label = _label(run, _commonest(run))
    return {"label": label, "score": asdict(bootstrap_interval({None: constant}))}


def find_faults(arm: Arm, arms: Sequence[Arm]) -> dict[str, Any]:
    """Return what is wrong with an arm.

    ``above_chance``: False when the arm cannot be told from always giving the commonest class, or has no right
    answer, or is a teacher of texts or answers that cannot be told from the student before training; None when that
    is not known. ``one_answer``: what it answers to every item, in every seed;
    ``one_answer_seeds``: seeds that do so when others do not. ``empty``: share of empty answers. ``unstable``: the
    worst and the best seed where they are too far apart. ``missing_seeds``: seeds of other arms that it lacks.
    """
    answers = {seed: _only_answer(run) for seed, run in arm.runs.items()}
    everywhere = None not in answers.values()
    trained = arm.role in TRAINED
    return {
        "above_chance": _is_above_chance(arm, arms),
        "one_answer": next(iter(answers.values())) if everywhere else None,
        "one_answer_seeds": [] if everywhere else [seed for seed, answer in answers.items() if answer is not None],
        "empty": _empty_share(arm),
        "unstable": _seeds_apart(arm) if trained else None,
        "missing_seeds": _missing_seeds(arm, arms) if trained else [],
    }


def is_trivial(faults: dict[str, Any]) -> bool:
    """Tell whether a share of the teacher's score would flatter an arm: its score says nothing of what it learnt."""
    return faults["above_chance"] is False or faults["one_answer"] is not None or mostly_empty(faults)


def mostly_empty(faults: dict[str, Any]) -> bool:
    """Tell whether an arm gives no answer to most items."""
    return faults["empty"] is not None and faults["empty"] > MOSTLY


def _commonest(run: Run) -> Any:
    assert run.items is not None, "checked by the caller"
    return Counter(run.items["gold"].tolist()).most_common(1)[0][0]


def _constant_scores(run: Run) -> ItemScores:
    assert run.items is not None, "checked by the caller"
    right = (run.items["gold"] == _commonest(run)).astype(float)
    return ItemScores(run.items["item_key"], run.items["cluster_key"], right)


def _is_above_chance(arm: Arm, arms: Sequence[Arm]) -> bool | None:
    run = arm.first
    if run.items is None or run.score_name not in CHOICES:
        if not any(each.scores.any() for each in arm.scores.values()):
            return False
        untouched = next((other for other in arms if other.role == "untouched"), None)
        if arm.role != "teacher" or untouched is None:
            return None
        return paired_difference(arm.scores, untouched.scores).interval.low > 0
    return paired_difference(arm.scores, {None: _constant_scores(run)}).interval.low > 0


def _only_answer(run: Run) -> str | None:
    """Return the one answer that a run gives to all items although not all ask for the same; else None."""
    if run.items is None or run.score_name not in (*CHOICES, *WRITTEN):
        return None
    given = _distinct(run.items["prediction"])
    return (
        _label(run, run.items["prediction"][0]) if len(given) == 1 and len(_distinct(run.items["gold"])) > 1 else None
    )


def _distinct(values: np.ndarray) -> set[str]:
    return {" ".join(str(value).casefold().split()) for value in values.tolist()}


def _empty_share(arm: Arm) -> float | None:
    recorded = arm.mean_metric("test", "answers_empty")
    if recorded is not None:
        return recorded
    written = [run.items["prediction"] for run in arm.runs.values() if run.items and run.score_name in WRITTEN]
    return fmean(fmean(not str(text).strip() for text in texts.tolist()) for texts in written) if written else None


def _seeds_apart(arm: Arm) -> dict[str, Any] | None:
    means = {seed: float(scores.scores.mean()) for seed, scores in arm.scores.items()}
    worst, best = min(means, key=lambda seed: means[seed]), max(means, key=lambda seed: means[seed])
    if means[best] - means[worst] <= MOST_BETWEEN_SEEDS:
        return None
    gap = paired_difference({0: arm.scores[best]}, {0: arm.scores[worst]})
    if gap.interval.low <= 0:
        return None
    return {"worst_seed": worst, "worst": means[worst], "best_seed": best, "best": means[best]}


def _missing_seeds(arm: Arm, arms: Sequence[Arm]) -> list[int]:
    return sorted({seed for other in arms if other.role in TRAINED for seed in other.seeds} - set(arm.seeds))


def _label(run: Run, value: Any) -> str:
    is_index = isinstance(value, int | np.integer) and 0 <= value < len(run.labels)
    return run.labels[value] if is_index else str(value)
