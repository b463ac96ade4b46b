"""Rows out of JSON: one object per line, one list of objects, or the official SQuAD layout.

In: the path of a ``.jsonl`` or ``.json`` file. Out: ``Record``s.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tutelage.data.lines import numbered_lines, whole_bytes
from tutelage.data.records import Record
from tutelage.data.squad import is_squad, squad_rows
from tutelage.errors import DataError

EXPECTED = 'a list of objects, {"data": [..]}, the SQuAD layout, or one object per line'


def jsonl_rows(path: Path) -> Iterator[Record]:
    """Yield the objects of a file with one per line; a line that is none becomes a record with a problem."""
    for number, line in numbered_lines(path):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            values = json.loads(line, object_pairs_hook=_object_without_duplicates)
        except (ValueError, RecursionError) as error:
            yield Record({}, where, f"is not valid JSON ({error}). Expected one object per line")
            continue
        if isinstance(values, dict):
            yield Record(values, where)
        else:
            found = type(values).__name__
            example = '{"text": "...", "label": "..."}'
            yield Record({}, where, f"holds a {found}. Expected one JSON object per line, such as {example}")


def json_rows(path: Path) -> Iterator[Record]:
    """Yield the objects of a JSON file in any of the usual layouts.

    Raises:
        DataError: If the file is not JSON, or in none of the layouts.
    """
    try:
        content = json.loads(whole_bytes(path).removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":
            yield from jsonl_rows(path)  # many files called .json hold one object per line
            return
        raise DataError(f"{path} is not valid JSON ({error}). Expected {EXPECTED}.") from error
    if is_squad(content):
        yield from squad_rows(content, path)
        return
    rows, place = (content, "") if isinstance(content, list) else (_data_of(content, path), "data")
    for index, values in enumerate(rows):
        where = f"{path}:{place}[{index}]"
        if isinstance(values, dict):
            yield Record(values, where)
        else:
            yield Record({}, where, f"is a {type(values).__name__}. Expected an object with columns")


def _data_of(content: Any, path: Path) -> list[Any]:
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__}. Expected {EXPECTED}.")
    if "data" not in content:
        found = ", ".join(map(repr, content)) or "nothing"
        raise DataError(f"{path}: the file has no 'data', only {found}. Expected {EXPECTED}.")
    if not isinstance(content["data"], list):
        raise DataError(
            f"{path}: data in the file is a {type(content['data']).__name__}, expected a list. Expected {EXPECTED}."
        )
    return content["data"]


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} occurs twice")
    return values
