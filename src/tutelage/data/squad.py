"""Questions out of one file in the official SQuAD layout.

In: parsed JSON. Out: ``Record``s with the columns that the hub's copies have.

Source:
    Rajpurkar et al. 2016, arXiv:1606.05250: ``{"data": [{"title", "paragraphs": [{"context", "qas": [..]}]}]}``.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tutelage.data.records import Record
from tutelage.errors import DataError

LAYOUT = (
    '{"data": [{"title": .., "paragraphs": [{"context": .., "qas": [{"id": .., "question": .., "answers": [..]}]}]}]}'
)


def is_squad(content: Any) -> bool:
    """Say whether parsed JSON is in the official layout: articles that hold paragraphs."""
    articles = content.get("data") if isinstance(content, dict) else None
    return isinstance(articles, list) and any(isinstance(each, dict) and "paragraphs" in each for each in articles)


def squad_rows(content: Any, path: Path) -> Iterator[Record]:
    """Yield one record per question: id, title, context, question, answers.

    Raises:
        DataError: If the content is not in the official layout; names the place.
    """
    for a, article in enumerate(_listed(content, "data", path, "the file")):
        for p, paragraph in enumerate(_listed(article, "paragraphs", path, f"data[{a}]")):
            place = f"data[{a}].paragraphs[{p}]"
            for q, question in enumerate(_listed(paragraph, "qas", path, place)):
                where = f"{place}.qas[{q}]"
                _require(question, ("question", "answers"), path, where)
                _require(paragraph, ("context",), path, place)
                title = {"title": article["title"]} if "title" in article else {}
                yield Record({**title, "context": paragraph["context"], **question}, f"{path}:{where}")


def _listed(holder: Any, key: str, path: Path, place: str) -> Sequence[Any]:
    _require(holder, (key,), path, place)
    if not isinstance(holder[key], list):
        raise DataError(f"{path}: {key} in {place} is a {type(holder[key]).__name__}, expected a list: {LAYOUT}")
    return holder[key]


def _require(holder: Any, keys: Sequence[str], path: Path, place: str) -> None:
    if not isinstance(holder, dict):
        raise DataError(f"{path}: {place} is a {type(holder).__name__}, expected an object. The layout is {LAYOUT}")
    missing = [key for key in keys if key not in holder]
    if missing:
        found = ", ".join(map(repr, holder)) or "nothing"
        raise DataError(f"{path}: {place} has no {missing[0]!r}, only {found}. Expected the layout {LAYOUT}")
