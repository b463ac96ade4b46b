"""The settings that every kind of task has for reading rows: form of the files, bad rows, limits.

In: plain values of a recipe. Out: ``RowSettings``, a part of each kind's ``data`` section.
"""

from typing import Literal

from pydantic import Field

from tutelage.config.base import Count, NonEmpty, Section, Share


class RowSettings(Section):
    """How rows are read, and what becomes of those that are not valid."""

    columns: tuple[NonEmpty, ...] | None = Field(
        default=None, description="Names of the columns of CSV and TSV files without a header; null: the first line."
    )
    quotes: Literal["auto", "csv", "none"] = Field(
        default="auto",
        description="Quotes around cells of CSV and TSV: not part of the text (`csv`), characters of it (`none`), "
        "or decided by the whole file.",
    )
    on_bad_row: Literal["error", "skip"] = Field(
        default="error", description="What a row that is not valid does: stop, or be left out and counted."
    )
    max_left_out: Share = Field(
        default=0.05,
        description="Stop where a larger share of the rows is left out, whatever the reasons (bad, empty or doubled "
        "rows, no answer in the context, refused by a chat template).",
    )
    max_rows: Count = Field(
        default=5_000_000, description="Refuse a split with more rows; all are held in memory, about 1 kB each."
    )
