"""What a classification task asks: a template, labels, and the words that stand for them.

In: names from the recipe and an ``Example``. Out: the prompt, in pieces or as one string.
"""

import string
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from tutelage.data.examples import Example
from tutelage.errors import DataError
from tutelage.store.names import is_column_name

TEXT_FIELD = "text"  # how a template may always name the text column
DEFAULT_TEXT_COLUMNS = (TEXT_FIELD, "sentence")  # "sentence" is GLUE's name


@dataclass(frozen=True)
class Prompt:
    """A filled template in three pieces; only ``context`` may ever be shortened.

    ``values`` are where other columns of the row stand: spans of ``before + after``. All else in these two is the
    template's own.
    """

    before: str
    context: str
    after: str
    values: tuple[tuple[int, int], ...] = ()

    def __str__(self) -> str:
        return self.before + self.context + self.after

    def with_context(self, context: str) -> "Prompt":
        """Return the same template around another context."""
        return Prompt(self.before, context, self.after, self.values)

    @property
    def written(self) -> list[tuple[int, int]]:
        """The parts of the whole prompt that the template itself wrote, as spans of characters."""
        cut, length = len(self.before), len(self.context)
        moved = [(start + length, end + length) if start >= cut else (start, end) for start, end in self.values]
        values = sorted([*moved, (cut, cut + length)])
        starts = [0, *(end for _, end in values)]
        ends = [*(start for start, _ in values), len(str(self))]
        return [(start, end) for start, end in zip(starts, ends, strict=True) if start < end]


@dataclass(frozen=True)
class ClassificationTask:
    """One text in, one of several labels out, answered by a language model in words.

    ``{text}`` or the name of the text column in ``template`` stands for the text, exactly once;
    ``{other}`` stands for another column. ``{{`` and ``}}`` are literal braces. Braces in the
    data are plain characters. ``verbalisers`` are in the order of ``labels``. With the default
    ``text_column``, a source without a column ``text`` is read from ``sentence``.
    """

    name: str
    template: str
    labels: tuple[str, ...]
    verbalisers: tuple[str, ...]
    text_column: str = TEXT_FIELD
    label_column: str = "label"

    def __post_init__(self) -> None:
        _check_labels(self)
        texts = [field for _, field in self.pieces if field == TEXT_FIELD]
        if len(texts) != 1:
            raise DataError(
                f"tasks.{self.name}.template names the text {len(texts)} times: {self.template!r}. Expected "
                f"{{{TEXT_FIELD}}} (or {{{self.text_column}}}) exactly once."
            )

    @cached_property
    def pieces(self) -> tuple[tuple[str, str | None], ...]:
        """The template as (literal, field that follows it or None); the text's field is ``text``."""
        aliases = {self.text_column: TEXT_FIELD}
        pieces = parse_template(self.template, where=f"tasks.{self.name}.template")
        return tuple((literal, aliases.get(field, field) if field else None) for literal, field in pieces)

    @property
    def other_fields(self) -> tuple[str, ...]:
        """Columns that the template reads beside the text."""
        return tuple(dict.fromkeys(field for _, field in self.pieces if field and field != TEXT_FIELD))

    def text_column_of(self, columns: Collection[str]) -> str:
        """Return the column to read the text from, among those that a source has."""
        if self.text_column == TEXT_FIELD:
            return next((name for name in DEFAULT_TEXT_COLUMNS if name in columns), TEXT_FIELD)
        return self.text_column

    def filled(self, example: Example) -> Prompt:
        """Fill the template, keeping the text apart so that it can be shortened."""
        return self.filled_with(example.fields)

    def filled_with(self, fields: Mapping[str, str]) -> Prompt:
        """Fill the template from a mapping; values are never read as templates."""
        return fill_template(self.pieces, fields, shortened=TEXT_FIELD)

    def prompt(self, example: Example) -> str:
        """Return the whole prompt as one string, nothing shortened."""
        return str(self.filled(example))


def parse_template(template: str, *, where: str) -> tuple[tuple[str, str | None], ...]:
    """Split a template into (literal text, field name or None) pairs.

    Raises:
        DataError: If braces do not match, or a field is anything but a plain column name
            (``{0}``, ``{a.b}``, ``{a!r}``, ``{a:>5}``).
    """
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise DataError(
            f"{where} {template!r} has unmatched braces ({error}). Write {{text}} for a column and {{{{ or }}}} "
            "for a literal brace."
        ) from error
    for _, field, spec, conversion in parsed:
        if field is not None and (spec or conversion or not is_column_name(field)):
            shown = field + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
            raise DataError(
                f"{where} has the field {{{shown}}}. Expected the plain name of a column, such as {{text}}; write "
                "{{ or }} for a literal brace."
            )
    return tuple((literal, field) for literal, field, _, _ in parsed)


def fill_template(pieces: Iterable[tuple[str, str | None]], fields: Mapping[str, str], *, shortened: str) -> Prompt:
    """Put values into a template's pieces, the field ``shortened`` apart; values are never read as templates."""
    before, after = "", ""
    values: list[tuple[int, int]] = []
    seen = False
    for literal, field in pieces:
        value = fields[field] if field and field != shortened else ""
        if value:
            start = len(before) + len(after) + len(literal)
            values.append((start, start + len(value)))
        if seen:
            after += literal + value
        else:
            before += literal + value
            seen = field == shortened
    return Prompt(before, fields[shortened], after, tuple(values))


def _check_labels(task: ClassificationTask) -> None:
    if len(task.labels) < 2 or len(task.labels) != len(task.verbalisers):
        raise DataError(
            f"tasks.{task.name}.verbalisers has {len(task.labels)} labels and {len(task.verbalisers)} words. Expected "
            "at least two labels, each with one word."
        )
    for what, values in (("labels", task.labels), ("words", task.verbalisers)):
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise DataError(f"tasks.{task.name}.verbalisers has equal {what}: {twice[0]!r}. Make them distinct.")
