"""What a reading-comprehension task asks: a passage, a question, an answer that stands in the passage.

In: names from the recipe and ``Question``s. Out: the prompt, in pieces or as one string.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from tutelage.data.task import Prompt, fill_template, parse_template
from tutelage.errors import DataError

CONTEXT_FIELD, QUESTION_FIELD = "context", "question"


@dataclass(frozen=True)
class Question:
    """One question about a passage, at the text level.

    ``golds`` are all right answers, none of them empty; ``answer`` is the one to learn, and stands at ``answer_start``
    (in characters) of the context. Questions that share a ``cluster_key`` (the passage, or what the source says
    belongs together) never straddle a split.
    """

    item_key: str
    cluster_key: str
    fields: dict[str, str]  # context, question, and other columns of the template
    golds: tuple[str, ...]
    answer: str
    answer_start: int

    @property
    def answer_end(self) -> int:
        """The first character behind the answer."""
        return self.answer_start + len(self.answer)


@dataclass(frozen=True)
class ReadingTask:
    """A passage and a question in, an extractive answer out, written by a language model.

    ``{context}`` and ``{question}`` stand in ``template`` exactly once each, ``{other}`` for another column. Nothing
    follows the template but the answer with one blank before it, so the template ends without white space.
    """

    name: str
    template: str

    def __post_init__(self) -> None:
        where = f"tasks.{self.name}.template"
        fields = [field for _, field in self.pieces]
        for field in (CONTEXT_FIELD, QUESTION_FIELD):
            if fields.count(field) != 1:
                raise DataError(
                    f"{where} names {{{field}}} {fields.count(field)} times: {self.template!r}. Expected {{context}} "
                    "and {question} exactly once each."
                )
        if self.template != self.template.rstrip():
            raise DataError(
                f"{where} {self.template!r} ends in white space. The answer brings its own blank; end the template "
                "with the word before it, such as `Answer:`."
            )

    @cached_property
    def pieces(self) -> tuple[tuple[str, str | None], ...]:
        """The template as (literal, field that follows it or None)."""
        return parse_template(self.template, where=f"tasks.{self.name}.template")

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that the template reads, context and question first."""
        named = (field for _, field in self.pieces if field)
        return tuple(dict.fromkeys((CONTEXT_FIELD, QUESTION_FIELD, *named)))

    def filled(self, question: Question) -> Prompt:
        """Fill the template, keeping the context apart so that it can be shortened."""
        return self.filled_with(question.fields)

    def filled_with(self, fields: Mapping[str, str]) -> Prompt:
        """Fill the template from a mapping; values are never read as templates."""
        return fill_template(self.pieces, fields, shortened=CONTEXT_FIELD)
