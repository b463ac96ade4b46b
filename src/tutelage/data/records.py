"""What a source hands over: raw rows that know where they come from.

In: nothing. Out: records with their file and line, and a description of the source.
"""

from dataclasses import dataclass, field
from typing import Any

CLUSTER_COLUMN = "cluster"  # where a source of questions has it: rows that belong together beyond sharing a passage


@dataclass(frozen=True)
class Record:
    """One raw row: column values as read, and ``file:line`` (or ``split[index]``) for messages."""

    values: dict[str, Any]
    where: str


@dataclass(frozen=True)
class SourceInfo:
    """Where rows come from, in words and hashes that a run can record."""

    source: str
    revision: str | None
    licence: str | None
    files: dict[str, str]  # file name -> SHA-256, or split -> fingerprint for a hub id
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Loaded:
    """Every split of a source.

    ``rows_read`` counts what was in the files and ``dropped`` what the source's own rule left out,
    by split and reason. ``class_names`` holds the names behind integer columns, where the source
    declares them. ``key_prefix`` precedes the ids in item keys.
    """

    splits: dict[str, list[Record]]
    info: SourceInfo
    rows_read: dict[str, int]
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)
    class_names: dict[str, list[str]] = field(default_factory=dict)
    key_prefix: str = ""
