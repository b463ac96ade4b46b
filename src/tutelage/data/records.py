"""What a source hands over: raw rows that know where they come from.

In: nothing. Out: records with their file and line, and a description of the source.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

CLUSTER_COLUMN = "cluster"  # where a source of questions has it: rows that belong together beyond sharing a passage
BAD_ROW = "bad_row"  # why a row is left out where the recipe says `on_bad_row: skip`
MAX_ROWS = 5_000_000  # of one split: as Python values about 1 kB each, so some 5 GB
Quotes = Literal["auto", "csv", "none"]


@dataclass(frozen=True)
class RowRules:
    """How files are read where they do not say it themselves, and what becomes of rows that are not valid.

    ``columns`` names the columns of CSV and TSV files without a header. ``quotes`` says whether quotes around cells
    belong to the file's form (``csv``) or to the text (``none``). ``max_rows`` bounds each split. ``skip_bad`` leaves
    rows out that are not valid, and counts them. ``max_left_out`` is the share of the rows that may be left out,
    whatever the reasons. ``every_class`` refuses a class without training or test rows.
    """

    columns: tuple[str, ...] | None = None
    quotes: Quotes = "auto"
    max_rows: int = MAX_ROWS
    skip_bad: bool = False
    max_left_out: float = 1.0
    every_class: bool = False


DEFAULT_RULES = RowRules()


@dataclass(frozen=True)
class Record:
    """One raw row: column values as read, and ``file:line`` (or ``split[index]``) for messages.

    ``problem`` says why the row itself could not be read; it has no values then.
    """

    values: dict[str, Any]
    where: str
    problem: str | None = None

    def require_readable(self) -> None:
        """Raise ``ValueError`` with the problem, if there is one."""
        if self.problem is not None:
            raise ValueError(self.problem)


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
