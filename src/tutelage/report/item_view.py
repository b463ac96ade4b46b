"""Pick test items worth reading: where the student and its rivals part.

In: the runs of one task and student. Out: groups of items with text, gold label and each arm's prediction.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tutelage.report.arms import Arm
from tutelage.report.collect import Run

ITEMS_PER_GROUP = 4
MAX_TEXT = 400


def view_items(arms: Sequence[Arm], method_label: str | None) -> dict[str, Any] | None:
    """Return items of the method's first seed, the most confident first; None without a method and a rival.

    Each group is ``{title, count, items: [{item_key, text, gold, answers: [{arm, label, right, confidence}]}]}``.
    """
    by_role = {arm.role: arm for arm in reversed(arms)}
    method = next((arm for arm in arms if arm.label == method_label), None)
    baseline, teacher = by_role.get("baseline"), by_role.get("teacher")
    if method is None or (baseline is None and teacher is None):
        return None
    seed = method.seeds[0] if method.seeds else None
    shown = [(arm, run) for arm in (teacher, baseline, method) if arm is not None and (run := _run_of(arm, seed))]
    groups: list[dict[str, Any]] = []
    seen: set[int] = set()  # an item is shown once, in the first group that it belongs to
    for first, second in ((method, baseline), (baseline, method), (teacher, method)):
        if first is None or second is None:
            continue
        chosen = _right(first, seed) & ~_right(second, seed)
        groups.append(_group(f"{first.label} right, {second.label} wrong", chosen, second, shown, seen))
    wrong = np.logical_and.reduce([~_right(arm, seed) for arm, _ in shown])
    groups.append(_group("All wrong: hard items, or wrong labels", wrong, method, shown, seen))
    return {
        "seed": seed,
        "arms": [arm.label for arm, _ in shown],
        "groups": [group for group in groups if group["items"]],
    }


def _run_of(arm: Arm, seed: int | None) -> Run:
    return arm.runs.get(seed, arm.first)


def _column(arm: Arm, seed: int | None, name: str) -> np.ndarray:
    items = _run_of(arm, seed).items
    assert items is not None, "arms without items were refused when their scores were read"
    return items[name]


def _right(arm: Arm, seed: int | None) -> np.ndarray:
    return _column(arm, seed, "score") > 0.5


def _group(title: str, chosen: np.ndarray, loser: Arm, shown: list[tuple[Arm, Run]], seen: set[int]) -> dict[str, Any]:
    indices = np.flatnonzero(chosen)
    items = next((run.items for arm, run in shown if arm is loser), None) or {}
    if "confidence" in items:  # a confident mistake says more than a close call
        indices = indices[np.argsort(-items["confidence"][indices], kind="stable")]
    fresh = [int(index) for index in indices if int(index) not in seen][:ITEMS_PER_GROUP]
    seen.update(fresh)
    return {"title": title, "count": len(indices), "items": [_item(index, shown) for index in fresh]}


def _item(index: int, shown: list[tuple[Arm, Run]]) -> dict[str, Any]:
    first = shown[0][1]
    columns = first.items or {}
    text = next((str((run.items or {})["text"][index]) for _, run in shown if "text" in (run.items or {})), None)
    return {
        "item_key": str(columns["item_key"][index]),
        "text": text if text is None or len(text) <= MAX_TEXT else text[:MAX_TEXT].rstrip() + "…",
        "gold": _label_of(columns["gold"][index], first.labels),
        "answers": [_answer(index, arm, run) for arm, run in shown],
    }


def _answer(index: int, arm: Arm, run: Run) -> dict[str, Any]:
    columns = run.items or {}
    return {
        "arm": arm.label,
        "label": _label_of(columns["prediction"][index], run.labels),
        "right": bool(columns["score"][index] > 0.5),
        "confidence": float(columns["confidence"][index]) if "confidence" in columns else None,
    }


def _label_of(value: Any, labels: tuple[str, ...]) -> str:
    is_index = isinstance(value, int | np.integer) and 0 <= value < len(labels)
    return labels[value] if is_index else str(value)
