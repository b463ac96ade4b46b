"""The section of a task of ``kind: text``: one source of texts or conversations, or a weighted mixture.

In: plain values of a recipe. Out: ``Text``.
"""

import datetime
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from tutelage.config.base import Count, Flag, Natural, NonEmpty, Positive, Section, by_mode, refuse
from tutelage.config.row_rules import RowSettings

Problems = Iterator[tuple[tuple[str | int, ...], str]]
SOURCE = (
    "A JSONL, JSON, Parquet, CSV, TSV or text file, also `.gz` or `.zst`, a folder of such files or saved by "
    "`datasets`, a hub id, or `sample:movie-reviews`."
)
DATE = (
    "The day that a chat template writes which asks for it, such as 2026-01-31, for teacher, students and evaluation. "
    "Null: the day of the stage `prepare`, which is recorded."
)


def _day(value: Any) -> Any:
    if value is None:
        return value
    try:  # YAML reads 2026-01-31 as a date by itself
        return datetime.date.fromisoformat(str(value)).isoformat()
    except ValueError:
        refuse([((), f"{value!r} is no day; expected for example 2026-01-31")])


Day = Annotated[NonEmpty, BeforeValidator(_day)]
OF_ONE_SOURCE = ("subset", "data_dir", "split", "revision", "licence")


class _Place(Section):
    subset: NonEmpty | None = Field(default=None, description="Configuration of a hub data set.")
    data_dir: NonEmpty | None = Field(default=None, description="Folder inside the source.")
    split: NonEmpty | None = Field(
        default=None, description="Split with the training rows; null: `train`, or the only one."
    )
    revision: NonEmpty | None = Field(default=None, description="Commit, tag or branch on the hub.")
    licence: NonEmpty | None = Field(
        default=None, description="Licence to record, where the source does not state one."
    )


class MixedSource(_Place):
    """One source of a mixture."""

    source: NonEmpty = Field(description=SOURCE)
    weight: Positive = Field(default=1.0, description="Share of the rows, relative to the other sources' weights.")
    limit: Count | None = Field(default=None, description="Use at most so many of its rows; null: all.")


class TextRows(_Place, RowSettings):
    """Where texts and conversations come from and how they are cut; copies are left out, clusters stay together."""

    source: NonEmpty | None = Field(default=None, description=f"{SOURCE} Or null, with `mixture`.")
    mixture: tuple[MixedSource, ...] = Field(
        default=(), description="Several sources in place of `source`, mixed by exact shares in every split."
    )
    rows: Count | None = Field(
        default=None, description="Exactly so many distillation rows; null: as many as exact shares allow."
    )
    repeat: Flag = Field(
        default=False, description="Let a source that has too few rows for `rows` begin again, in the training rows."
    )
    streaming: Flag = Field(default=False, description="Read only as many rows as are needed, in a shuffled order.")
    shuffle_buffer: Count = Field(default=10_000, description="Rows held in memory to shuffle a stream.")
    validation: NonEmpty | None = Field(
        default=None,
        description="File or split with the official validation rows; they become the test set. "
        "Null: a single source's own, else cut from the rows.",
    )
    limit: Count | None = by_mode(None, fast=2000, description="At most so many distillation rows; null: all.")
    validation_rows: Count | None = Field(
        default=None, description="Rows set apart for selection; null: a tenth, at most 500 (fast: 200)."
    )
    test_rows: Count | None = Field(
        default=None,
        description="At most so many test rows; null: the whole official set (fast: 500), or a fifth of the rows, at "
        "most 2,000 (fast: 500).",
    )
    seed: Natural = Field(default=0, description="Which rows are cut, and the order of a stream.")

    @model_validator(mode="after")
    def _pieces_fit(self) -> "TextRows":
        problems = [*self._source_problems(), *self._effect_problems()]
        if problems:
            refuse(problems)
        return self

    def _source_problems(self) -> Problems:
        if (self.source is None) == (not self.mixture):
            found = "neither is given" if self.source is None else "both are given"
            yield ("source",), f"expected either `source` or `mixture`; {found}"
        for name in OF_ONE_SOURCE if self.mixture else ():
            if getattr(self, name) is not None:
                yield (name,), "belongs to one source; write it into the entries of `mixture`"

    def _effect_problems(self) -> Problems:
        if self.streaming and self.rows is None:
            yield ("rows",), "a stream has to be told where to end; give the number of distillation rows"
        if not self.streaming and "shuffle_buffer" in self.model_fields_set:
            yield ("shuffle_buffer",), "has no effect without `streaming: true`"
        if self.repeat and self.rows is None:
            yield ("repeat",), "has no effect without `rows`"

    @property
    def parts(self) -> tuple[MixedSource, ...]:
        """The sources; one alone has all the weight."""
        if self.mixture:
            return self.mixture
        place = {name: getattr(self, name) for name in OF_ONE_SOURCE}
        return (MixedSource(source=self.source or "", **place),)


class Text(Section):
    """Texts are continued, and conversations answered, as they stand; every token of what is learnt is a target."""

    kind: Literal["text"] = Field(description="What the task is.")
    data: TextRows = Field(description="Where the rows come from.")
    template: Literal["auto", "chat", "plain"] = Field(
        default="auto",
        description="How conversations are written. chat: the tokenizer's own template; plain: `User:` and "
        "`Assistant:`; auto: chat where there is a template.",
    )
    max_length: Annotated[int, Field(strict=True, ge=2)] = by_mode(
        1024,
        fast=512,
        description="Tokens per row; longer texts are split, longer conversations lose whole turns at their end.",
    )
    date: Day | None = Field(default=None, description=DATE)
