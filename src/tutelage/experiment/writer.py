"""Every row is written once: one tokenizer, one chat template and one end of turn for the teacher and all students.

In: a recipe's ``chat_template`` and its models. Out: ``RowWriter``; the ``Reader`` of each model, which knows the
tokens that it cannot read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tutelage.config.models import Student, Teacher
from tutelage.errors import ModelError
from tutelage.experiment.origin import model_identity, student_source, taught_source
from tutelage.experiment.stage import Context
from tutelage.models.source import ModelSource
from tutelage.store import file_sha256

if TYPE_CHECKING:
    from tutelage.align import Reader
    from tutelage.types import StudentRow

TEACHER = "teacher"


@dataclass(frozen=True)
class RowWriter:
    """What writes the rows; ``name`` is what messages call the model that it belongs to."""

    name: str
    tokenizer: Any
    end_of_turn_id: int

    @property
    def num_ids(self) -> int:
        """Ids that a model needs that knows every token."""
        from tutelage.align import num_token_ids

        return num_token_ids(self.tokenizer)


def row_writer(context: Context, teacher: ModelSource | None = None) -> RowWriter:
    """Load the tokenizer that writes every row of a recipe.

    Args:
        context: The run.
        teacher: The teacher; None: as it teaches, adapted where it was.

    Raises:
        ModelError: If ``chat_template`` names nothing, or a tokenizer cannot be read.
    """
    from tutelage.models.load import end_of_turn_id, load_config, load_tokenizer

    choice, students = context.recipe.chat_template, context.recipe.students
    if choice in students and choice != TEACHER:
        if students[choice].model is None:
            raise ModelError(
                f"`chat_template: {choice}` names a student without a `model` of its own: it has the teacher's "
                f"template. Write `{TEACHER}`."
            )
        source = student_source(context, choice)
        tokenizer = load_tokenizer(source)
        return RowWriter(f"student {choice}", tokenizer, end_of_turn_id(tokenizer, load_config(source)))
    source = teacher if teacher is not None else taught_source(context)
    tokenizer = load_tokenizer(source)
    if choice != TEACHER:
        tokenizer.chat_template = _template_file(context).read_text(encoding="utf-8")
    return RowWriter("the teacher", tokenizer, end_of_turn_id(tokenizer, load_config(source)))


def writer_part(context: Context) -> dict[str, str]:
    """Return what of the writer the keys of stages hold beside the teacher; nothing where it is the teacher."""
    choice, students = context.recipe.chat_template, context.recipe.students
    if choice == TEACHER:
        return {}
    if choice in students and students[choice].model is not None:
        return {"chat_template": model_identity(context, students[choice])}
    return {"chat_template": file_sha256(_template_file(context))}


def reader_of(
    context: Context, writer: RowWriter, student: str | None, *, num_ids: int, tokenizer: Any = None
) -> "Reader":
    """Return a model as a reader of the writer's rows.

    Args:
        context: The run.
        writer: What writes the rows.
        student: A key of ``students``; None: the teacher.
        num_ids: How many ids it has embeddings for.
        tokenizer: Its own one, where it is loaded; a student without a model of its own has the teacher's.

    Raises:
        AlignmentError: If its tokenizer is of another family than the writer's.
    """
    from tutelage.align import Reader, compare_vocabularies

    recipe = context.recipe
    section = recipe.teacher if student is None else recipe.students[student]
    name = "the teacher" if student is None else f"student {student}"
    foreign: dict[int, str] = {}
    if isinstance(section, Student) and section.resize_embeddings:
        num_ids = max(num_ids, writer.num_ids)
    elif _has_own_tokenizer(context, student):
        source = taught_source(context) if student is None else student_source(context, student)
        own = tokenizer if tokenizer is not None else _own_tokenizer(source)
        foreign = compare_vocabularies(own, writer.tokenizer, names=(name, writer.name)).foreign_to_first
    key = "teacher" if student is None else f"students.{student}"
    return Reader(name, num_ids, foreign, _remedy(key, section, writer))


def students_can_read(context: Context, writer: RowWriter, data: Any, rows: "Sequence[StudentRow]") -> None:
    """Refuse rows with tokens that a student with a model of its own does not have: asked before the teacher's pass.

    Raises:
        AlignmentError: Names rows and tokens.
    """
    from tutelage.models.load import load_config

    for student, section in context.recipe.students.items():
        if section.model is not None:
            config = load_config(student_source(context, student)).get_text_config()
            data.require_readable(rows, reader_of(context, writer, student, num_ids=config.vocab_size))


def _has_own_tokenizer(context: Context, student: str | None) -> bool:
    """Return whether a model's own tokenizer is not the one that writes the rows."""
    recipe = context.recipe
    if student is None or recipe.students[student].model is None:
        return recipe.chat_template in recipe.students
    return recipe.chat_template != student


def _own_tokenizer(source: ModelSource) -> Any:
    from tutelage.models.load import load_tokenizer

    return load_tokenizer(source)


def _remedy(key: str, section: Teacher | Student, writer: RowWriter) -> str:
    grow = "" if section.resize_embeddings else f", or set `{key}.resize_embeddings: true`"
    learn = ", so that it learns them" if grow and isinstance(section, Student) else ""
    return (
        f"These rows are written with the tokenizer of {writer.name}. Remove the tokens from the data, let another "
        f"model's template write the rows (`chat_template`){grow}{learn}."
    )


def _template_file(context: Context) -> Path:
    """Return the file that ``chat_template`` names.

    Raises:
        ModelError: If there is none.
    """
    choice = context.recipe.chat_template
    path = (context.base_folder / Path(choice).expanduser()).resolve()
    if not path.is_file():
        named = [name for name, section in context.recipe.students.items() if section.model is not None]
        raise ModelError(
            f"`chat_template` is {choice!r}, which is no file (looked for {path}) and no student with a `model`. "
            f"Expected {', '.join([TEACHER, *named])}, or the path of a file with a template."
        )
    return path
