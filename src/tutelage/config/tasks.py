"""The section ``tasks``: where rows come from, how they become prompts, what may be answered.

In: plain values of a recipe. Out: ``Task`` and its parts.
"""

from collections.abc import Iterator
from string import Formatter
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from tutelage.config.base import Count, Flag, Natural, NonEmpty, Section, by_mode, refuse
from tutelage.config.row_rules import RowSettings
from tutelage.config.texts import DATE, Day, Text
from tutelage.store.names import is_column_name


def _check_template(template: str) -> str:
    try:
        pieces = [piece for piece in Formatter().parse(template) if piece[1] is not None]
    except ValueError as error:
        refuse([((), f"not a template ({error}); write {{{{ or }}}} for a brace")])
    for _, name, spec, conversion in pieces:
        # "{text.__class__}" or "{text!r}" would read more than a column.
        if spec or conversion or not is_column_name(str(name)):
            refuse([((), f"the field {name!r} is not the plain name of a column; expected for example {{text}}")])
    return template


READING_TEMPLATE = "Context: {context}\nQuestion: {question}\nAnswer:"
BY_TASK = "auto"  # of `evaluate.select_by`
Problems = Iterator[tuple[tuple[str | int, ...], str]]
Template = Annotated[str, AfterValidator(_check_template)]


class _Rows(RowSettings):
    source: NonEmpty
    subset: NonEmpty | None = Field(
        default=None, description="Configuration of a hub data set, such as `sst2` of `glue`."
    )
    revision: NonEmpty | None = Field(default=None, description="Commit, tag or branch on the hub.")
    licence: NonEmpty | None = Field(
        default=None, description="Licence to record, where the source does not state one."
    )
    validation: NonEmpty | None = Field(
        default=None,
        description="File or split with the official validation rows; they become the test set. "
        "Null: the source's own, else cut from its rows.",
    )
    limit: Count | None = by_mode(None, fast=2000, description="At most so many distillation rows; null: all.")
    validation_rows: Count | None = Field(
        default=None,
        description="Rows cut from the training split for selection; null: a tenth, at most 500 (fast: 200).",
    )
    test_rows: Count | None = Field(
        default=None,
        description="At most so many test rows; null: all there are (fast: 500), or a fifth of the training split, at "
        "most 2,000 (fast: 500).",
    )
    seed: Natural = Field(default=0, description="Which rows are cut.")


class Source(_Rows):
    """Where the rows of a classification come from and how they are cut."""

    source: NonEmpty = Field(
        description="`sample:movie-reviews`, a CSV, TSV, JSON, JSONL or Parquet file, also `.gz` or `.zst`, a folder "
        "of them (as on a hub, GLUE, or saved by `datasets`), or a hub id."
    )
    text: NonEmpty | None = Field(default=None, description="Column with the text; null: `text`, or the source's own.")
    label: NonEmpty | None = Field(
        default=None, description="Column with the label; null: `label`, or the source's own."
    )
    labels: dict[str, NonEmpty] | None = Field(
        default=None,
        description="Class of each value in the label column, such as `{0: negative, 1: positive}`; "
        "null: by name, or by order.",
    )
    allow_empty_classes: Flag = Field(
        default=False, description="Accept a class without training or test rows, which is an error otherwise."
    )


class QuestionSource(_Rows):
    """Where the questions of a reading task come from and how they are cut; one passage's stay together."""

    source: NonEmpty = Field(
        description="`sample:country-facts`, an official SQuAD `.json` file, a JSON, JSONL or Parquet file with "
        "context, question and answers, also `.gz` or `.zst`, a folder of them (on a hub, or saved by `datasets`), or "
        "a hub id."
    )


class Classification(Section):
    """A text goes in, one of a few classes comes out, each answered by its verbaliser."""

    kind: Literal["classification"] = Field(description="What the task is.")
    data: Source = Field(description="Where the rows come from.")
    template: Template = Field(description="The prompt; `{text}` is replaced by the row's text, `{{` is a brace.")
    verbalisers: dict[str, NonEmpty] = Field(
        min_length=2, description="What the model answers for each class, with its leading space; order is kept."
    )
    max_length: Count = by_mode(
        512, fast=256, description="Tokens per row; longer texts are shortened, never the template."
    )
    date: Day | None = Field(default=None, description=DATE)

    @model_validator(mode="after")
    def _pieces_fit(self) -> "Classification":
        problems = [*self._template_problems(), *self._verbaliser_problems(), *self._label_problems()]
        if problems:
            refuse(problems)
        return self

    def _template_problems(self) -> Problems:
        names = {"text", self.data.text or "text"}
        count = sum(name in names for _, name, _, _ in Formatter().parse(self.template))
        if count != 1:
            expected = " or ".join(f"{{{name}}}" for name in sorted(names))
            yield ("template",), f"names the text {count} times; expected {expected} exactly once"

    def _verbaliser_problems(self) -> Problems:
        first: dict[str, str] = {}
        for label, words in self.verbalisers.items():
            other = first.setdefault(words, label)
            if other != label:
                yield (
                    ("verbalisers", label),
                    f"{words!r} is also the answer of class {other!r}; each class needs its own",
                )
            elif not words.strip():
                yield ("verbalisers", label), f"{words!r} is blank; write the word that the model is to answer"

    def _label_problems(self) -> Problems:
        if self.data.labels is None:
            return
        unknown = {value: label for value, label in self.data.labels.items() if label not in self.verbalisers}
        for value, label in unknown.items():
            known = ", ".join(self.verbalisers)
            yield ("data", "labels", value), f"{label!r} is not a class; expected one of {known}"
        missing = [label for label in self.verbalisers if label not in self.data.labels.values()]
        if missing and not unknown:
            yield ("data", "labels"), f"no value stands for {', '.join(missing)}; every class needs one"


class Reading(Section):
    """A passage and a question go in, an answer that stands in the passage comes out, written by the model."""

    kind: Literal["reading"] = Field(description="What the task is.")
    data: QuestionSource = Field(description="Where the questions come from.")
    template: Template = Field(
        default=READING_TEMPLATE,
        description="The prompt; `{context}` and `{question}` are replaced, `{{` is a brace. A blank and the answer "
        "follow.",
    )
    max_length: Count = by_mode(
        1024, fast=512, description="Tokens per row, answer included; longer contexts are shortened, nothing else."
    )
    doc_stride: Count | None = Field(
        default=None,
        description="At evaluation, read a context that is too long in windows that begin so many tokens apart (128 is "
        "usual), and take the answer that the model is surest of. Null: read its beginning.",
    )
    max_answer_length: Count = Field(
        default=30, description="Tokens of an answer at most; training rows with longer ones are left out."
    )
    date: Day | None = Field(default=None, description=DATE)

    @model_validator(mode="after")
    def _pieces_fit(self) -> "Reading":
        problems = [*self._template_problems(), *self._length_problems()]
        if problems:
            refuse(problems)
        return self

    def _template_problems(self) -> Problems:
        names = [name for _, name, _, _ in Formatter().parse(self.template)]
        for name in ("context", "question"):
            if names.count(name) != 1:
                yield ("template",), f"names the {name} {names.count(name)} times; expected {{{name}}} exactly once"
        if self.template != self.template.rstrip():
            yield ("template",), "ends in white space; the answer brings its own blank, so end it with a word or a mark"

    def _length_problems(self) -> Problems:
        room = self.max_length - self.max_answer_length - 1
        if room < 1:
            yield (
                ("max_answer_length",),
                f"{self.max_answer_length} leaves no token of max_length {self.max_length} for the context",
            )
        elif self.doc_stride is not None and self.doc_stride > room:
            yield ("doc_stride",), f"{self.doc_stride} is longer than a window, which has {room} tokens at most"


Task = Annotated[Classification | Reading | Text, Field(discriminator="kind")]

# What a kind of task can be judged by; the first one is taken where the recipe names none.
TASK_METRICS = {
    "classification": ("accuracy", "macro_f1"),
    "reading": ("f1", "exact_match"),
    "text": ("token_accuracy", "token_probability"),
}


def selection_metric(select_by: str, task: Classification | Reading | Text) -> str:
    """Return the validation metric that chooses checkpoints and grid points of a task."""
    return TASK_METRICS[task.kind][0] if select_by == BY_TASK else select_by
