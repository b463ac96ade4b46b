"""What a kind of task does in each stage; the only place that asks which kinds there are.

In: a task's section of the recipe, or a prepared task. Out: parts of stage keys; a ``TaskKind``.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from tutelage.config import Classification, Reading, Text
from tutelage.experiment.stage import Context
from tutelage.samples import SAMPLES

Section = Classification | Reading | Text
SAMPLE_PREFIX = "sample:"


@runtime_checkable
class TaskKind(Protocol):
    """What the stages need of a kind of task. ``data`` is a ``TaskData``, ``items`` what ``items`` returned."""

    def check(self, data: Any) -> None:
        """Refuse a task that this tokenizer cannot carry."""
        ...

    def rows(self, data: Any, examples: Sequence[Any], *, for_training: bool) -> Any:
        """Return ``Rows`` to learn from, with the gold answers."""
        ...

    def written_rows(self, data: Any, examples: Sequence[Any], answers: Sequence[Any]) -> Any:
        """Return ``Rows`` with what a teacher wrote (``WrittenAnswer``, one per example) as targets."""
        ...

    def items(
        self, data: Any, model: Any, examples: Sequence[Any], *, device: Any, token_budget: int, progress: Any = None
    ) -> Any:
        """Let a model answer, and compare with gold; ``progress`` hears of rows done, of how many, tokens per second.

        It is called after every batch.
        """
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
    ) -> dict[str, Any] | None:
        """Write what the teacher itself answers on the lesson's splits into the stage's folder; return facts of it."""
        ...

    def teacher_items(self, prepared: Any, taught: Any, split: str, *, metric: str) -> Any:
        """Return the teacher's items on a split, from that folder, scored by ``metric`` where there is a choice."""
        ...

    def pseudo_rows(self, data: Any, taught: Any, examples: Sequence[Any]) -> Any:
        """Return ``Rows`` with the teacher's hard answers to the training split, which ``examples`` are."""
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
        case Text():
            from tutelage.experiment.text import TextKind

            return TextKind()


# Rows at most where the recipe gives no number.
DEFAULT_ROWS: dict[str, dict[str, Any]] = {"full": {}, "fast": {"most_validation": 200, "most_test": 500}}


def cut_rows(name: str, section: Section, *, adapt_rows: int | None, mode: str, base_folder: Path) -> Any:
    """Read a task's sources and cut them into splits: a ``PreparedTask``."""
    from tutelage.build import classification_task, reading_task, row_rules, text_cuts, text_parts, text_task
    from tutelage.data import prepare_task, prepare_texts

    if isinstance(section, Text):
        return prepare_texts(
            text_task(name, section),
            text_parts(section),
            text_cuts(section, adapt_rows=adapt_rows, most=DEFAULT_ROWS[mode]),
            validation=section.data.validation,
            streaming=section.data.streaming,
            shuffle_buffer=section.data.shuffle_buffer,
            base_folder=base_folder,
            rules=row_rules(section.data),
        )
    is_classification = isinstance(section, Classification)
    data = section.data
    return prepare_task(
        classification_task(name, section) if is_classification else reading_task(name, section),
        source=data.source,
        subset=data.subset,
        revision=data.revision,
        licence=data.licence,
        validation=data.validation,
        limit=data.limit,
        adapt_rows=adapt_rows,
        validation_rows=data.validation_rows,
        test_rows=data.test_rows,
        seed=data.seed,
        base_folder=base_folder,
        label_map=section.data.labels if is_classification else None,
        rules=row_rules(data),
        **DEFAULT_ROWS[mode],
    )


def sources_of(section: Section) -> list[str]:
    """Return what a task's rows are read from, as the recipe names it."""
    sources = [part.source for part in section.data.parts] if isinstance(section, Text) else [section.data.source]
    return [*sources, *([section.data.validation] if section.data.validation is not None else [])]


def rows_part(section: Section, *, mode: str) -> dict[str, Any]:
    """Return what of a section decides the rows: the rest belongs to the models that read them."""
    apart = {*limits(section), *(["date"] if section.date is None else [])}
    part: dict[str, Any] = {"task": section.model_dump(mode="json", exclude=apart)}
    if None in (section.data.validation_rows, section.data.test_rows):
        part["default_rows"] = DEFAULT_ROWS[mode]
    if isinstance(section, Classification):
        return part | {"order": list(section.verbalisers)}
    # a sample of questions is made by us: another wording makes other rows
    names = [source.removeprefix(SAMPLE_PREFIX) for source in sources_of(section)]
    versions = [SAMPLES[name].format_version for name in names if name in SAMPLES]
    return part | ({"sample": versions[0]} if versions else {})


def row_limits(section: Section) -> dict[str, Any]:
    """Return what decides rows of tokens beside their text."""
    names = ("max_length", "max_answer_length") if isinstance(section, Reading) else ("max_length",)
    return {name: getattr(section, name) for name in names}


def limits(section: Section) -> dict[str, Any]:
    """Return what decides rows of tokens and written answers beside their text."""
    return row_limits(section) | ({"doc_stride": section.doc_stride} if isinstance(section, Reading) else {})


def taught_part(context: Context, task_name: str) -> dict[str, Any]:
    """Return what else decides the teacher's own answers: on which splits it has to write them, and how many."""
    answers = {"answers": answered_splits(context)} if isinstance(context.recipe.tasks[task_name], Reading) else {}
    return answers | scored_part(context, task_name)


def scored_part(context: Context, task_name: str) -> dict[str, Any]:
    """Return what decides which answers every model writes by itself when it is scored."""
    is_text = isinstance(context.recipe.tasks[task_name], Text)
    return {"generated_rows": context.recipe.evaluate.generated_rows} if is_text else {}


def answered_splits(context: Context) -> list[str]:
    """Return the splits on which a teacher that writes is asked; the training rows only for pseudo-labels."""
    wanted = any(method.kind == "pseudo" for method in context.recipe.methods.values())
    return [*(["train"] if wanted else []), "validation", "test", "adapt"]
