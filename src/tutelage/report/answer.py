"""Answer the question in one plain sentence, also when the answer is no.

In: the arms and comparisons of one task and student. Out: verdict, headline and supporting sentences.
"""

from collections.abc import Sequence
from typing import Any

from tutelage.report.numerals import percent, percent_interval, points, unsigned_zero

BADGES = {
    "better": "KD helped",
    "labels": "No better than hard labels",
    "nothing": "KD did nothing measurable",
    "worse": "KD is worse",
    "suspect": "Not proven",
    "open": "No comparison",
}


def answer(group: dict[str, Any]) -> dict[str, Any]:
    """Return ``{verdict, badge, headline, sentences, method}`` for the method that validation prefers.

    Verdicts: ``better`` (above the baseline, and above PSEUDO where there is one), ``labels`` (above the
    baseline, not above PSEUDO), ``nothing`` (interval covers zero), ``worse``, ``suspect`` (better, but the
    control with permuted teacher rows did not lose), ``open`` (no method or no baseline).
    """
    methods = [arm for arm in group["arms"] if arm["role"] == "method"]
    if not methods:
        return _verdict("open", "No distillation method has finished, so there is nothing to compare.", [], None)
    # Chosen on validation, as everything is; the test score may not choose what is reported.
    method = max(methods, key=lambda arm: (arm["validation"] is not None, arm["validation"] or 0.0))
    own = [comparison for comparison in group["comparisons"] if comparison["method"] == method["label"]]
    by_role = {comparison["rival_role"]: comparison for comparison in reversed(own)}
    verdict = _decide(by_role)
    headline = _headline(verdict, method, by_role, group["score_name"])
    sentences = [*_control_sentences(by_role), *_seed_sentences(by_role), *_untouched_sentences(by_role)]
    return _verdict(verdict, headline, sentences, method["label"])


def _verdict(verdict: str, headline: str, sentences: Sequence[str], method: str | None) -> dict[str, Any]:
    return {
        "verdict": verdict,
        "badge": BADGES[verdict],
        "headline": headline,
        "sentences": list(sentences),
        "method": method,
    }


def direction(comparison: dict[str, Any] | None) -> str:
    """Return ``above``, ``below`` or ``level`` (the interval covers zero), or ``absent``."""
    if comparison is None:
        return "absent"
    if comparison["difference"]["low"] > 0:
        return "above"
    return "below" if comparison["difference"]["high"] < 0 else "level"


def _decide(by_role: dict[str, dict[str, Any]]) -> str:
    against = {role: direction(by_role.get(role)) for role in ("baseline", "pseudo", "control")}
    if against["baseline"] == "absent":
        return "open"
    if against["baseline"] != "above":
        return {"level": "nothing", "below": "worse"}[against["baseline"]]
    if against["control"] not in ("above", "absent"):
        return "suspect"
    return "better" if against["pseudo"] in ("above", "absent") else "labels"


def _headline(verdict: str, method: dict[str, Any], by_role: dict[str, dict[str, Any]], score_name: str) -> str:
    name = method["label"]
    kept = _kept(method, score_name)
    baseline, pseudo = by_role.get("baseline"), by_role.get("pseudo")
    if baseline is None:
        return f"{kept}; no baseline was run, so this does not show that distillation helped."
    if verdict in ("nothing", "worse"):
        lead = {"nothing": "KD did nothing measurable", "worse": "KD is worse than plain fine-tuning"}[verdict]
        text = f"{lead}: {name} is {_relation(baseline)}"
        return f"{text}{_pseudo_clause(pseudo, differs=direction(pseudo) != direction(baseline))}; {kept}."
    text = f"{kept}; {name} is {_relation(baseline)}"
    text += _pseudo_clause(pseudo, differs=direction(pseudo) != "above")
    if verdict == "labels" and direction(pseudo) == "level":
        text += ", so soft targets added nothing measurable to the teacher's hard labels"
    if verdict == "suspect":
        text += ", but the permuted-teacher control did not lose, so the gain is not shown to come from the teacher"
    return f"{text}."


def _pseudo_clause(pseudo: dict[str, Any] | None, *, differs: bool) -> str:
    if pseudo is None:
        return ""
    return f"{', but' if differs else ' and'} {_relation(pseudo)}"


def _kept(method: dict[str, Any], score_name: str) -> str:
    name, share = method["label"], method["share_kept"]
    if share is None:
        return (
            f"{name} reaches {percent(method['score']['estimate'])} % {percent_interval(method['score'])} {score_name}"
        )
    text = f"{name} keeps {percent(share['estimate'])} % {percent_interval(share)} of the teacher's {score_name}"
    if method["parameters_share"] is not None:
        text += f" with {percent(method['parameters_share'])} % of its parameters"
    return text


def _relation(comparison: dict[str, Any]) -> str:
    difference, rival = comparison["difference"], comparison["rival"]
    interval = difference_interval(difference)
    if direction(comparison) == "level":
        return f"not measurably different from {rival} ({points(difference['estimate'])} points {interval})"
    size = unsigned_zero(percent(abs(difference["estimate"])))
    return f"{size} points {direction(comparison)} {rival} {interval}"


def difference_interval(difference: dict[str, int | float]) -> str:
    """Return ``[0.6, 3.2]`` in percentage points, with a sign only below zero."""
    return f"[{unsigned_zero(percent(difference['low']))}, {unsigned_zero(percent(difference['high']))}]"


def _control_sentences(by_role: dict[str, dict[str, Any]]) -> list[str]:
    control = by_role.get("control")
    if control is None:
        return ["No permuted-teacher control was run (`tutelage run RECIPE --control`)."]
    interval = difference_interval(control["difference"])
    size = percent(abs(control["difference"]["estimate"]))
    if direction(control) == "above":
        return [f"The control with permuted teacher rows lost, as it must: it is {size} points lower {interval}."]
    found = f"{control['method']} minus control is {points(control['difference']['estimate'])} points {interval}"
    return [f"The control with permuted teacher rows did not lose ({found}): distrust any gain."]


def _seed_sentences(by_role: dict[str, dict[str, Any]]) -> list[str]:
    baseline = by_role.get("baseline")
    if baseline is None:
        return []
    ahead = sum(pair["difference"] > 0 for pair in baseline["per_seed"])
    total = len(baseline["per_seed"])
    seeds = "seed" if total == 1 else "seeds"
    return [f"{baseline['method']} is ahead of {baseline['rival']} in {ahead} of {total} {seeds}."]


def _untouched_sentences(by_role: dict[str, dict[str, Any]]) -> list[str]:
    untouched = by_role.get("untouched")
    if untouched is None:
        return []
    return [f"{untouched['method']} is {_relation({**untouched, 'rival': 'the untouched student'})}."]
