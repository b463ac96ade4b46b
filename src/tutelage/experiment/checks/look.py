"""What can be seen of a recipe's models and data without running a model; each thing is read once.

In: a context. Out: sources, configurations, tokenizers, prepared rows; None for what cannot be read, with the reason
kept in ``failures``, so that each check that needs it may simply stop.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from tutelage.config import Recipe
from tutelage.errors import TutelageError
from tutelage.experiment.checks.findings import Key, Refusal, refusals
from tutelage.experiment.stage import Context
from tutelage.experiment.writer import RowWriter, row_writer
from tutelage.models.source import ModelSource

T = TypeVar("T")


class Look:
    """The readable parts of a recipe's inputs, cached."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.failures: list[Refusal] = []
        self._seen: dict[tuple[Any, ...], Any] = {}

    @property
    def recipe(self) -> Recipe:
        """The validated recipe."""
        return self.context.recipe

    def teacher_source(self) -> ModelSource | None:
        """The teacher as the recipe names it."""
        from tutelage.build import model_source

        section = self.recipe.teacher
        return self.once(("teacher", "model"), "source", lambda: model_source(section, self.context.base_folder))

    def teacher_config(self) -> Any | None:
        """The teacher's configuration."""
        from tutelage.models.load import load_config

        source = self.teacher_source()
        return source and self.once(("teacher", "model"), "config", lambda: load_config(source))

    def teacher_tokenizer(self) -> Any | None:
        """The teacher's tokenizer."""
        from tutelage.models.load import load_tokenizer

        source = self.teacher_source() if self.teacher_config() is not None else None
        return source and self.once(("teacher", "model"), "tokenizer", lambda: load_tokenizer(source))

    def student_source(self, student: str) -> ModelSource | None:
        """What a student is made from: its own model, else the teacher."""
        from tutelage.build import model_source

        section = self.recipe.students[student]
        if section.model is None:
            return self.teacher_source()
        where = ("students", student, "model")
        return self.once(where, "source", lambda: model_source(section, self.context.base_folder))

    def student_config(self, student: str) -> Any | None:
        """A student's configuration before any layer is cut."""
        from tutelage.models.load import load_config

        if self.recipe.students[student].model is None:
            return self.teacher_config()
        source = self.student_source(student)
        return source and self.once(("students", student, "model"), "config", lambda: load_config(source))

    def student_tokenizer(self, student: str) -> Any | None:
        """A student's tokenizer; the teacher's where it has no model of its own."""
        from tutelage.models.load import load_tokenizer

        if self.recipe.students[student].model is None:
            return self.teacher_tokenizer()
        source = self.student_source(student) if self.student_config(student) is not None else None
        return source and self.once(("students", student, "model"), "tokenizer", lambda: load_tokenizer(source))

    def teacher_skeleton(self) -> Any | None:
        """The teacher's modules without weights."""
        from tutelage.models.skeleton import skeleton

        config = self.teacher_config()
        return config and self.once(("teacher", "model"), "modules", lambda: skeleton(config, "the teacher"))

    def student_skeleton(self, student: str) -> Any | None:
        """A student's modules without weights, before any layer is cut."""
        from tutelage.models.skeleton import skeleton

        if self.recipe.students[student].model is None:
            return self.teacher_skeleton()
        config, key = self.student_config(student), ("students", student, "model")
        return config and self.once(key, "modules", lambda: skeleton(config, f"student {student}"))

    def prepared(self, task: str) -> Any | None:
        """A task's rows, cut as the stage ``prepare`` would cut them."""
        from tutelage.experiment.prepare import prepared_or_cut

        return self.once(("tasks", task, "data"), "prepared", lambda: prepared_or_cut(self.context, task))

    def tokenizer_of(self, student: str | None) -> Any | None:
        """A student's own tokenizer; None stands for the teacher."""
        return self.teacher_tokenizer() if student is None else self.student_tokenizer(student)

    def config_of(self, student: str | None) -> Any | None:
        """A student's configuration; None stands for the teacher."""
        return self.teacher_config() if student is None else self.student_config(student)

    def writer(self) -> RowWriter | None:
        """What writes the rows of every task, for the teacher and for all students."""
        choice = self.recipe.chat_template
        if choice in self.recipe.students and self.tokenizer_of(choice) is None:
            return None  # said at that student
        source = self.teacher_source() if self.teacher_tokenizer() is not None else None
        return source and self.once(("chat_template",), "writer", lambda: row_writer(self.context, source))

    def task_data(self, task: str) -> Any | None:
        """A task's rows as they are written, for a model that reads every token."""
        from tutelage.align import Reader
        from tutelage.experiment.task_data import TaskData

        prepared, writer = self.prepared(task), self.writer()
        if prepared is None or writer is None:
            return None
        reader = Reader(writer.name, writer.num_ids, {})
        section = self.recipe.tasks[task]
        return TaskData(self.context, task, prepared, writer.tokenizer, reader, writer.end_of_turn_id, section)

    def once(self, key: Key, what: str, read: Callable[[], T]) -> T | None:
        """Return what ``read`` returns, read once; None where it failed, with one refusal at ``key``."""
        name = (*key, what)
        if name not in self._seen:
            try:
                self._seen[name] = read()
            except TutelageError as error:
                self.failures += refusals(key, error)
                self._seen[name] = None
        return self._seen[name]
