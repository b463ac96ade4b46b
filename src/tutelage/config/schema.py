"""The whole recipe, and the checks that look across its sections.

In: plain values. Out: ``Recipe``, frozen. Names are frozen too: later versions only add.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from tutelage.config.base import Name, Natural, NonEmpty, Section, refuse, whole_section
from tutelage.config.checks import recipe_problems
from tutelage.config.methods import Method, name_custom_methods
from tutelage.config.models import Student, Teacher
from tutelage.config.signals import FinalHiddenSignal, Signal
from tutelage.config.tasks import Task
from tutelage.config.training import Evaluate, Report, Train

# Sections that a later version will read; until then a value in them would change nothing.
RESERVED = ("bench", "launch")


class Seeds(Section):
    """Seeds of the search and of the reported runs; the two never overlap."""

    selection: Natural = Field(default=7, description="Seed of every trial of the search.")
    report: tuple[Natural, ...] = Field(default=(42, 123, 456), min_length=1, description="Seeds of the reported runs.")

    @model_validator(mode="after")
    def _apart(self) -> "Seeds":
        if self.selection in self.report:
            refuse(
                [
                    (
                        ("selection",),
                        f"{self.selection} is also a report seed; a run would be reported on the seed that chose it",
                    )
                ]
            )
        if len(set(self.report)) < len(self.report):
            refuse([(("report",), f"a seed occurs twice in {list(self.report)}")])
        return self


class Recipe(Section):
    """One experiment: a teacher, its students, tasks, methods and how they are compared."""

    name: Name = Field(description="Name of the experiment and of its folder.")
    mode: Literal["fast", "full"] = Field(default="full", description="Picks from every `{fast: .., full: ..}`.")
    seeds: Seeds = whole_section("Which random numbers.")
    workspace: NonEmpty = Field(default="runs", description="Folder of all results, from the current folder.")
    plugins: tuple[NonEmpty, ...] = Field(
        default=(),
        description="Python files that register losses of your own, from the recipe's folder; each runs only where the "
        "command names it too: `--plugin my_loss.py`.",
    )
    teacher: Teacher = Field(description="The model that is distilled.")
    students: dict[Name, Student] = Field(min_length=1, description="The models that learn, by name.")
    chat_template: NonEmpty = Field(
        default="teacher",
        description="Whose tokenizer, chat template and end of turn write every row, for teacher and students alike, "
        "and are saved with every student: `teacher`, the name of a student with a `model` of its own, or a file with "
        "a template for the teacher's tokenizer.",
    )
    tasks: dict[Name, Task] = Field(min_length=1, description="What they learn, by name.")
    signals: tuple[Signal, ...] = Field(
        (FinalHiddenSignal(kind="final_hidden"),), description="What is kept of the teacher's pass."
    )
    methods: Annotated[dict[Name, Method], BeforeValidator(name_custom_methods)] = Field(
        min_length=1, description="The arms of the comparison, by name."
    )
    train: Train = whole_section("How students are trained.")
    evaluate: Evaluate = whole_section("How they are scored and compared.")
    report: Report = whole_section("What the report answers.")

    @model_validator(mode="before")
    @classmethod
    def _drop_empty_reserved_sections(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {name: value for name, value in values.items() if value or name not in RESERVED}

    @model_validator(mode="after")
    def _sections_fit_together(self) -> "Recipe":
        problems = list(recipe_problems(self))
        if problems:
            refuse(problems)
        return self
