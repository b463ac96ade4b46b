"""What a kind of task does in each stage; the only place that asks which kinds there are.

In: a task's section of the recipe, or a prepared task. Out: parts of stage keys; a ``TaskKind``.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from tutelage.config import Classification, Reading
from tutelage.experiment.stage import Context
from tutelage.samples import SAMPLES

Section = Classification | Reading
SAMPLE_PREFIX = "sample:"


@runtime_checkable
class TaskKind(Protocol):
    """What the stages need of a kind of task. ``data`` is a ``TaskData``, ``items`` what ``items`` returned."""

    def check(self, data: Any) -> None:
        """Refuse a task that this tokenizer cannot carry."""
        ...

    def rows(self, data: Any, examples: Sequence[Any], *, answers: Sequence[Any] | None, for_training: bool) -> Any:
        """Return ``Rows`` to learn from; ``answers`` replace the gold ones."""
        ...

    def items(self, data: Any, model: Any, examples: Sequence[Any], *, device: Any, token_budget: int) -> Any:
        """Let a model answer, and compare with gold."""
        ...

    def metrics(self, items: Any) -> dict[str, float]:
        """Return the task's metrics."""
        ...

    def write_items(self, path: Path, items: Any) -> None:
        """Write ``items.parquet``."""
        ...

    def class_ids(self, data: Any) -> list[int] | None:
        """Return one token id per class where the answers are classes of one token each."""
        ...

    def save_teacher_answers(
        self, context: Context, lesson: Any, rows: Mapping[str, Sequence[Any]], fingerprint: str, folder: Path
    ) -> None:
        """Write what the teacher itself answers on the lesson's splits into the stage's folder."""
        ...

    def teacher_items(self, prepared: Any, taught: Any, split: str, *, metric: str) -> Any:
        """Return the teacher's items on a split, from that folder, scored by ``metric`` where there is a choice."""
        ...

    def pseudo_answers(self, taught: Any) -> list[Any]:
        """Return the teacher's hard answers on the training split."""
        ...

    def sequence_golds(self, task: Any, examples: Sequence[Any]) -> dict[str, Any]:
        """Return what generated answers are compared with: ``golds`` and, of a classification, ``labels``."""
        ...


def kind_of(section: Section) -> TaskKind:
    """Return what a task of this section does."""
    match section:
        case Classification():
            from tutelage.experiment.classification import ClassificationKind

            return ClassificationKind()
        case Reading():
            from tutelage.experiment.reading import ReadingKind

            return ReadingKind()


def task_of(name: str, section: Section) -> Any:
    """Return the task as ``data`` knows it."""
    from tutelage.build import classification_task, reading_task

    return classification_task(name, section) if isinstance(section, Classification) else reading_task(name, section)


def label_map(section: Section) -> Mapping[Any, str] | None:
    """Return the classes of the values in a label column."""
    return section.data.labels if isinstance(section, Classification) else None


def rows_part(section: Section) -> dict[str, Any]:
    """Return what of a section decides the rows: the rest belongs to the models that read them."""
    part: dict[str, Any] = {"task": section.model_dump(mode="json", exclude=set(limits(section)))}
    if isinstance(section, Classification):
        return part | {"order": list(section.verbalisers)}
    # a sample of questions is made by us: another wording makes other rows
    name = section.data.source.removeprefix(SAMPLE_PREFIX)
    return part | ({"sample": SAMPLES[name].format_version} if name in SAMPLES else {})


def row_limits(section: Section) -> dict[str, Any]:
    """Return what decides rows of tokens beside their text."""
    names = ("max_length",) if isinstance(section, Classification) else ("max_length", "max_answer_length")
    return {name: getattr(section, name) for name in names}


def limits(section: Section) -> dict[str, Any]:
    """Return what decides rows of tokens and written answers beside their text."""
    return row_limits(section) | ({"doc_stride": section.doc_stride} if isinstance(section, Reading) else {})


def taught_part(context: Context, task_name: str) -> dict[str, Any]:
    """Return what else decides the teacher's own answers: on which splits it has to write them."""
    section = context.recipe.tasks[task_name]
    return {"answers": answered_splits(context)} if isinstance(section, Reading) else {}


def answered_splits(context: Context) -> list[str]:
    """Return the splits on which a teacher that writes is asked; the training rows only for pseudo-labels."""
    wanted = any(method.kind == "pseudo" for method in context.recipe.methods.values())
    return [*(["train"] if wanted else []), "validation", "test", "adapt"]
