"""Our exact match and F1 equal those of the official script, and of an independent reading of it, on generated cases.

``squad_v1_scores.json`` holds what the script itself answered, run once over ``CASES`` (and over 20,000 more, without a
difference). Other implementations score an empty answer against an empty gold answer as v2.0 does, with an F1 of 1
(torchmetrics 1.9: 35 of the 200 cases, all of that kind); v1.1 says 0, beside an exact match of 1.
"""

import json
import random
import string
from pathlib import Path

import pytest

from oracles import squad_v1
from tutelage.data import answers

WORDS = (
    "a", "an", "the", "The", "A", "AN", "theatre", "another", "Paris", "paris", "New", "York", "1976", "1,000",
    "$5.50", "U.S.", "well-known", "it's", "a-b", "the-end", "an.", "(the)", "_a_", "Beyoncé", "É", "naïve", "Straße",
    "İstanbul", "東京", "東京の", "Москва", "ΣΊΣΥΦΟΣ", "’the’", "«a»", "–", "…", "½", "²", "😀", "e\u0301", "\u200bthe",
    "!", "?", "...", "--", "'", '"', "\\", "^", "`", "~", "",
)  # fmt: skip
BLANKS = (" ", " ", " ", "  ", "\t", "\n", "\u00a0", "\u2003", "\u3000", "\x1c", "")


def phrase(rng: random.Random) -> str:
    return "".join(rng.choice(WORDS) + rng.choice(BLANKS) for _ in range(rng.randrange(7)))


def changed(rng: random.Random, text: str) -> str:
    """A text near to ``text``, so that matches are common."""
    words = text.split()
    if len(words) > 1 and rng.random() < 0.5:
        words.pop(rng.randrange(len(words)))
        return " ".join(words)
    bare = text.translate(str.maketrans("", "", string.punctuation))
    return rng.choice((text.upper(), text.lower(), bare, f"the {text}", f"{text}.", " \t".join(words)))


def cases(count: int, seed: int) -> list[tuple[str, list[str]]]:
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        golds = [phrase(rng) for _ in range(rng.choice((1, 1, 2, 3)))]
        answer = changed(rng, rng.choice(golds)) if rng.random() < 0.7 else phrase(rng)
        made.append((answer, golds))
    return made


CASES = cases(200, seed=11)


@pytest.mark.parametrize(("answer", "golds"), CASES)
def test_a_generated_case_scores_as_the_official_script_scores_it(answer, golds):
    assert answers.exact_match(answer, golds) == squad_v1.exact_match(answer, golds)
    assert answers.f1(answer, golds) == pytest.approx(squad_v1.f1(answer, golds), abs=1e-12)


OFFICIAL = json.loads((Path(__file__).parent / "squad_v1_scores.json").read_text(encoding="utf-8"))["cases"]


def test_every_case_scores_as_the_official_script_scored_it():
    assert [(answer, golds) for answer, golds, _, _ in OFFICIAL] == CASES
    assert [answers.exact_match(*case) for case in CASES] == [exact for _, _, exact, _ in OFFICIAL]
    assert [answers.f1(*case) for case in CASES] == pytest.approx([f1 for _, _, _, f1 in OFFICIAL], abs=1e-12)


def test_nothing_against_nothing_is_a_match_without_any_f1():
    pairs = [case for case in OFFICIAL if not squad_v1.normal(case[0]) and not any(map(squad_v1.normal, case[1]))]
    assert len(pairs) >= 5
    assert {(exact, f1) for _, _, exact, f1 in pairs} == {(1.0, 0.0)}


def test_the_cases_hold_every_kind_of_difficulty():
    scores = [(squad_v1.exact_match(*case), squad_v1.f1(*case)) for case in CASES]
    assert sum(em == 1 for em, _ in scores) >= 40
    assert sum(0 < f1 < 1 for _, f1 in scores) >= 30
    assert sum(f1 == 0 for _, f1 in scores) >= 30
    assert sum(not squad_v1.normal(answer) for answer, _ in CASES) >= 15  # empty, or nothing but articles and marks
    assert sum(any(not text.isascii() for text in (answer, *golds)) for answer, golds in CASES) >= 80
    assert sum(len(golds) > 1 for _, golds in CASES) >= 60


@pytest.mark.parametrize(
    ("broken", "name"),
    [
        (lambda text: " ".join(text.lower().translate(answers.PUNCTUATION).split()), "articles stay"),
        (
            lambda text: " ".join(answers.ARTICLES.sub(" ", text.lower()).translate(answers.PUNCTUATION).split()),
            "order",
        ),
        (lambda text: " ".join(answers.ARTICLES.sub(" ", text.translate(answers.PUNCTUATION)).split()), "case"),
        (lambda text: answers.ARTICLES.sub(" ", text.lower().translate(answers.PUNCTUATION)), "blanks"),
        (lambda text: squad_v1.normal(text).encode("ascii", "ignore").decode(), "accents"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_normalisation_that_is_off_in_one_rule_is_found(monkeypatch, broken, name):
    expected = [squad_v1.exact_match(*case) for case in CASES]
    monkeypatch.setattr(answers, "normalise_answer", broken)
    assert [answers.exact_match(*case) for case in CASES] != expected
