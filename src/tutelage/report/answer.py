"""Answer the question in one short sentence, also when the answer is no, and in full below it.

In: the arms and comparisons of one task and student. Out: verdict, headline, and the sentences behind it.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from tutelage.report.exact import LEAST_ITEMS
from tutelage.report.findings import TRAINED, is_trivial, mostly_empty
from tutelage.report.numerals import percent, percent_interval, points, unsigned_zero

BADGES = {
    "better": "KD helped",
    "labels": "No better than hard labels",
    "nothing": "KD did nothing measurable",
    "worse": "KD is worse",
    "suspect": "Not proven",
    "open": "No comparison",
    "few": "Too few items to tell",
    "teacher": "Teacher not above chance",
    "trivial": "No result",
}
# A test set that cannot show a difference of ten points says too little to speak of "nothing".
MOST_UNSEEN = 0.10


def answer(group: dict[str, Any]) -> dict[str, Any]:
    """Return ``{verdict, badge, headline, detail, sentences, method}``.

    The headline names first what takes the meaning from the rest: too few items, a teacher not above chance, arms
    that give one answer to everything, none at all, or are at chance themselves, methods that are measurably below
    the baseline or fail with some seed; then the comparison of the method that validation prefers.

    Verdicts: ``better`` (above the baseline, and above PSEUDO where there is one), ``labels`` (above the
    baseline, not above PSEUDO), ``nothing`` (interval covers zero), ``worse``, ``suspect`` (better, but the
    control with permuted teacher rows did not lose), ``open`` (no method or no baseline), ``few``, ``teacher``,
    ``trivial`` (the judged method, or the baseline, has learnt nothing).
    """
    methods = [arm for arm in group["arms"] if arm["role"] == "method"]
    # Chosen on validation, as everything is; the test score may not choose what is reported.
    method = max(methods, key=lambda arm: (arm["validation"] is not None, arm["validation"] or 0.0), default=None)
    own = [each for each in group["comparisons"] if method is not None and each["method"] == method["label"]]
    by_role = {comparison["rival_role"]: comparison for comparison in reversed(own)}
    verdict, headline = _first_of_all(group)
    if headline is None:
        verdict, headline = _judged(group, method, by_role)
    return {
        "verdict": verdict,
        "badge": BADGES[verdict],
        "headline": headline,
        "detail": _detail(method, by_role, group["score_name"]) if method is not None else "",
        "sentences": list(_sentences(group, method, by_role)),
        "method": method["label"] if method is not None else None,
    }


def direction(comparison: dict[str, Any] | None) -> str:
    """Return ``above``, ``below`` or ``level`` (the interval covers zero), or ``absent``."""
    if comparison is None:
        return "absent"
    if comparison["difference"]["low"] > 0:
        return "above"
    return "below" if comparison["difference"]["high"] < 0 else "level"


# --- the headline


def _first_of_all(group: dict[str, Any]) -> tuple[str, str | None]:
    """Return verdict and headline where nothing else is worth saying, else no headline."""
    num_items = group.get("num_clusters", LEAST_ITEMS)
    if num_items < LEAST_ITEMS:
        items = "1 test item" if num_items == 1 else f"{num_items} test items"
        return "few", f"Too few items to tell: {items}, and no fewer than {LEAST_ITEMS} can show a difference."
    teacher = next((arm for arm in group["arms"] if arm["role"] == "teacher"), None)
    if teacher is None or not _is_trivial(teacher):
        return "open", None
    faults, score, chance = teacher["faults"], teacher["score"], group["chance"]
    reached = shown_score(score)
    if mostly_empty(faults):
        return "teacher", f"The teacher gives no answer to {percent(faults['empty'])} % of the test items."
    if chance is None:
        untouched = next((arm for arm in group["arms"] if arm["role"] == "untouched"), None)
        what = "has no right answer"
        if faults["one_answer"]:
            what = f"answers “{faults['one_answer']}” to every test item"
        elif score["estimate"] and untouched is not None:
            what = f"is not above the untouched student ({percent(untouched['score']['estimate'])} %)"
        return "teacher", f"The teacher {what}: {reached} {group['score_name']}."
    constant = f"always answering “{chance['label']}” gives {shown_score(chance['score'])}"
    return "teacher", f"The teacher is not above chance: {reached}, and {constant}."


def _judged(
    group: dict[str, Any], method: dict[str, Any] | None, by_role: dict[str, dict[str, Any]]
) -> tuple[str, str]:
    """Return the verdict on the judged method; the headline names the other arms' faults before it."""
    faults = [*_trivial_arms(group), *_bad_methods(group, method)]
    if method is None:
        clauses = [*faults, "no distillation method has finished, so there is nothing to compare"]
        return "open", _as_sentence(clauses)
    baseline = by_role.get("baseline")
    rivals = [arm for arm in group["arms"] if baseline is not None and arm["label"] == baseline["rival"]]
    if any(map(_is_trivial, [method, *rivals])):
        own = [] if _is_trivial(method) or baseline is None else [f"{method['label']} is {relation(baseline)}"]
        return "trivial", _as_sentence([*faults, *own])
    verdict = _decide(by_role)
    if verdict == "nothing" and (baseline or {}).get("visible_difference", 0.0) > MOST_UNSEEN:
        verdict = "few"
    return verdict, _as_sentence([*faults, _judgement(verdict, group, method, by_role, alone=not faults)])


def _is_trivial(arm: dict[str, Any]) -> bool:
    return "faults" in arm and is_trivial(arm["faults"])


def _decide(by_role: dict[str, dict[str, Any]]) -> str:
    against = {role: direction(by_role.get(role)) for role in ("baseline", "pseudo", "control")}
    if against["baseline"] == "absent":
        return "open"
    if against["baseline"] != "above":
        return {"level": "nothing", "below": "worse"}[against["baseline"]]
    if against["control"] not in ("above", "absent"):
        return "suspect"
    return "better" if against["pseudo"] in ("above", "absent") else "labels"


def _trivial_arms(group: dict[str, Any]) -> Iterator[str]:
    """Name the trained arms that give one answer, none, or are at chance."""
    trained = [arm for arm in group["arms"] if arm["role"] in TRAINED and _is_trivial(arm)]
    by_answer: dict[str, list[str]] = {}
    at_chance = []
    for arm in trained:
        faults = arm["faults"]
        if mostly_empty(faults):
            by_answer.setdefault("", []).append(f"{arm['label']} ({percent(faults['empty'])} %)")
        elif faults["one_answer"] is not None:
            by_answer.setdefault(faults["one_answer"], []).append(arm["label"])
        else:
            at_chance.append(arm["label"])
    for text, labels in by_answer.items():
        one = len(labels) == 1
        if text:
            yield f"{listed(labels)} answer{'s' * one} “{text}” to every test item"
        else:
            yield f"{listed(labels)} give{'s' * one} no answer to most test items"
    if at_chance:
        chance = group["chance"]
        of_what = f"chance (always “{chance['label']}”: {percent(chance['score']['estimate'])} %)" if chance else "zero"
        yield f"{listed(at_chance)} {'is' if len(at_chance) == 1 else 'are'} not above {of_what}"


def _bad_methods(group: dict[str, Any], judged: dict[str, Any] | None) -> Iterator[str]:
    """Name every other trained arm that is measurably below the baseline, and all that fail with some seed."""
    baseline = next((arm["label"] for arm in group["arms"] if arm["role"] == "baseline"), None)
    sound = [arm for arm in group["arms"] if arm["role"] in TRAINED and not _is_trivial(arm)]
    below = {
        arm["label"]: pair
        for arm in sound
        if arm is not judged and (pair := minus(group, arm["label"], baseline)) and direction(pair) == "below"
    }
    if len(below) == 1:
        ((label, pair),) = below.items()
        yield f"{label} is {relation(pair)}"
    elif below:
        sizes = [f"{label} ({points(pair['difference']['estimate'])})" for label, pair in below.items()]
        yield f"{listed(sizes)} are measurably below {baseline}"
    unstable = [_apart(arm) for arm in sound if arm.get("faults") and arm["faults"]["unstable"]]
    if unstable:
        yield f"{listed(unstable)} {'is' if len(unstable) == 1 else 'are'} unstable over seeds"
    for arm in sound:
        missing = (arm.get("faults") or {}).get("missing_seeds")
        if missing:
            yield f"{arm['label']} lacks seed{'s' * (len(missing) > 1)} {listed([str(seed) for seed in missing])}"


def _apart(arm: dict[str, Any]) -> str:
    seeds = arm["faults"]["unstable"]
    return f"{arm['label']} ({percent(seeds['worst'])} to {percent(seeds['best'])} %)"


def minus(group: dict[str, Any], first: str, second: str | None) -> dict[str, Any] | None:
    """Return the paired comparison of two arms, whichever way round it was made; None if there is none."""
    for pair in (*group["comparisons"], *group.get("pairs", ())):
        if (pair["method"], pair["rival"]) == (first, second):
            return pair
        if (pair["method"], pair["rival"]) == (second, first):
            found = pair["difference"]
            turned = {"estimate": -found["estimate"], "low": -found["high"], "high": -found["low"]}
            return {**pair, "method": first, "rival": second, "difference": turned}
    return None


def _judgement(
    verdict: str,
    group: dict[str, Any],
    method: dict[str, Any],
    by_role: dict[str, dict[str, Any]],
    *,
    alone: bool,
) -> str:
    """Say how the judged method did; ``alone`` when nothing was said before it."""
    name, kept = method["label"], _kept(method, group["score_name"], brief=True)
    baseline, pseudo = by_role.get("baseline"), by_role.get("pseudo")
    if baseline is None:
        return f"{kept}, and no baseline was run: this does not show that distillation helped"
    found = f"{name} is {relation(baseline)}"
    if verdict == "few":
        size = points(baseline["difference"]["estimate"])
        interval = difference_interval(baseline["difference"])
        return f"too few test items to tell {name} from {baseline['rival']} ({size} points {interval})"
    if verdict in ("nothing", "worse"):
        lead = {"nothing": "KD did nothing measurable: ", "worse": "KD is worse than plain fine-tuning: "}[verdict]
        return f"{lead if alone else ''}{found}"
    if verdict == "suspect":
        return f"{found}, but its control with permuted teacher rows did not lose"
    if verdict == "labels":
        assert pseudo is not None, "the verdict comes from it"
        if direction(pseudo) == "below":
            return f"{found}, but {relation(pseudo)}"
        return f"{found}, but soft targets added nothing measurable to {pseudo['rival']}"
    return f"{found} and {kept.removeprefix(f'{name} ')}"


def _as_sentence(clauses: Sequence[str]) -> str:
    text = "; ".join(clauses)
    # Only our own words: the name of an arm stays as the recipe has it.
    return f"{text[0].upper() if text.startswith(('no ', 'too ')) else text[0]}{text[1:]}."


# --- the sentences below it


def _detail(method: dict[str, Any], by_role: dict[str, dict[str, Any]], score_name: str) -> str:
    """Say all that is known of the judged method: what it keeps, and how it stands to baseline and hard labels."""
    kept, baseline, pseudo = _kept(method, score_name), by_role.get("baseline"), by_role.get("pseudo")
    against = [f"{relation(each)}" for each in (baseline, pseudo) if each is not None]
    if not against:
        return f"{kept}."
    differs = pseudo is not None and baseline is not None and direction(pseudo) != direction(baseline)
    return f"{kept}; {method['label']} is {(', but ' if differs else ' and ').join(against)}."


def _kept(method: dict[str, Any], score_name: str, *, brief: bool = False) -> str:
    name, share = method["label"], method["share_kept"]
    if share is None:
        return f"{name} reaches {shown_score(method['score'])} {score_name}"
    interval = "" if brief else f" {percent_interval(share)}"
    if share["low"] > 1:
        teacher = percent(method["score"]["estimate"] / share["estimate"])
        return f"{name} reaches {shown_score(method['score'])} {score_name}, the teacher {teacher} %"
    text = f"{name} keeps {percent(share['estimate'])} %{interval} of the teacher's {score_name}"
    if method["parameters_share"] is not None and not brief:
        text += f" with {percent(method['parameters_share'])} % of its parameters"
    return text


def shown_score(score: dict[str, int | float]) -> str:
    """Return ``85.0 % [83.0, 87.0]``."""
    return f"{percent(score['estimate'])} % {percent_interval(score)}"


def relation(comparison: dict[str, Any]) -> str:
    """Say how far a comparison's first arm is above or below its second."""
    difference, rival = comparison["difference"], comparison["rival"]
    interval = difference_interval(difference)
    if direction(comparison) == "level":
        return f"not measurably different from {rival} ({points(difference['estimate'])} points {interval})"
    size = unsigned_zero(percent(abs(difference["estimate"])))
    return f"{size} points {direction(comparison)} {rival} {interval}"


def difference_interval(difference: dict[str, int | float]) -> str:
    """Return ``[0.6, 3.2]`` in percentage points, with a sign only below zero."""
    return f"[{unsigned_zero(percent(difference['low']))}, {unsigned_zero(percent(difference['high']))}]"


def listed(words: Sequence[str]) -> str:
    """Return ``a, b and c``."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _sentences(
    group: dict[str, Any], method: dict[str, Any] | None, by_role: dict[str, dict[str, Any]]
) -> Iterator[str]:
    for arm in group["arms"]:
        yield from _seed_faults(arm)
    if method is None:
        return
    baseline = by_role.get("baseline")
    for each in group["comparisons"]:
        if each["rival_role"] == "baseline" and each is not baseline and direction(each) != "below":
            yield f"{each['method']} is {relation(each)}."
    if baseline is not None and "visible_difference" in baseline:
        shown = percent(baseline["visible_difference"])
        grouped = group["num_clusters"] != group["num_items"]
        together = f" in {group['num_clusters']:,} groups that belong together" if grouped else ""
        yield (
            f"With {group['num_items']:,} test items{together}, a true difference of {shown} points between "
            f"{method['label']} and {baseline['rival']} would be seen four times of five; smaller ones are often "
            "missed."
        )
    yield from _control_sentences(method["label"], by_role)
    yield from _rival_sentences(by_role)


def _seed_faults(arm: dict[str, Any]) -> Iterator[str]:
    faults = arm.get("faults")
    if not faults:
        return
    if faults["unstable"] and arm["role"] in TRAINED:
        seeds = faults["unstable"]
        yield (
            f"{arm['label']} reaches {percent(seeds['best'])} % with seed {seeds['best_seed']} and "
            f"{percent(seeds['worst'])} % with seed {seeds['worst_seed']}: its mean stands for neither."
        )
    for seed in faults["one_answer_seeds"]:
        yield f"{arm['label']} gives one answer to every test item with seed {seed}."


def _control_sentences(name: str, by_role: dict[str, dict[str, Any]]) -> Iterator[str]:
    control = by_role.get("control")
    if control is None:
        yield f"No permuted-teacher control was run for {name} (`tutelage run RECIPE --control`)."
        return
    interval = difference_interval(control["difference"])
    size = percent(abs(control["difference"]["estimate"]))
    if direction(control) == "above":
        yield f"The control with permuted teacher rows lost, as it must: it is {size} points lower {interval}."
        return
    found = f"{control['method']} minus control is {points(control['difference']['estimate'])} points {interval}"
    yield f"The control with permuted teacher rows did not lose ({found}): distrust any gain."


def _rival_sentences(by_role: dict[str, dict[str, Any]]) -> Iterator[str]:
    baseline, untouched = by_role.get("baseline"), by_role.get("untouched")
    if baseline is not None:
        ahead = sum(pair["difference"] > 0 for pair in baseline["per_seed"])
        total = len(baseline["per_seed"])
        seeds = "seed" if total == 1 else "seeds"
        yield f"{baseline['method']} is ahead of {baseline['rival']} in {ahead} of {total} {seeds}."
    if untouched is not None:
        yield f"{untouched['method']} is {relation({**untouched, 'rival': 'the untouched student'})}."
