"""A classification in the stages: answers are classes, scored by the log-probability of their words.

In: a ``TaskData`` with examples, a model or what the teach stage stored. Out: rows, ``Items``, the teacher's choices.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tutelage.cache import CacheReader, ClassScoresColumn
from tutelage.data import (
    ClassificationTask,
    PreparedTask,
    Rows,
    WrittenAnswer,
    check_verbalisers,
    choice_prompts,
    classification_rows,
    teacher_row,
    written_rows,
)
from tutelage.data.prompts import answer_room
from tutelage.data.spelling import NUM_PROMPTS, check_spelling
from tutelage.evaluate import (
    Items,
    evaluate_classification,
    metrics,
    score_choices,
    teacher_items_from_scores,
    write_items,
)
from tutelage.experiment.stage import Context
from tutelage.experiment.task_data import TaskData
from tutelage.experiment.teach import Lesson, Taught
from tutelage.types import StudentRow

SMALL_MASS = 0.1  # of the teacher's probability on the label words; below it, it would say something else


class ClassificationKind:
    """See ``TaskKind``."""

    def check(self, data: TaskData) -> None:
        """Refuse verbalisers that do not continue the prompts, or that this tokenizer cannot tell apart.

        Raises:
            DataError: With the words and their ids.
        """
        task = task_of(data.prepared)
        check_spelling(
            data.tokenizer, task, [task.prompt(each) for each in data.prepared.splits["train"][:NUM_PROMPTS]]
        )
        check_verbalisers(data.tokenizer, task)

    def rows(self, data: TaskData, examples: Sequence[Any], *, for_training: bool) -> Rows:
        """Return one row per example; a text is cut at the same place in training and evaluation."""
        return self._rows(data, examples, answers=None)

    def _rows(self, data: TaskData, examples: Sequence[Any], *, answers: Sequence[int] | None) -> Rows:
        return classification_rows(
            data.tokenizer,
            task_of(data.prepared),
            examples,
            answers=answers,
            max_length=data.max_length,
            end_of_turn_id=data.end_of_turn_id,
        )

    def written_rows(self, data: TaskData, examples: Sequence[Any], answers: Sequence[WrittenAnswer]) -> Rows:
        """Return one row per example whose answer has words; they need not be those of a class."""
        task = task_of(data.prepared)
        return written_rows(
            data.tokenizer,
            [task.filled(example) for example in examples],
            answers,
            item_keys=[example.item_key for example in examples],
            lead=answer_lead(task),
            max_length=data.max_length,
            answer_room=answer_room(data.tokenizer, task),
            end_of_turn_id=data.end_of_turn_id,
        )

    def items(
        self,
        data: TaskData,
        model: nn.Module,
        examples: Sequence[Any],
        *,
        device: torch.device,
        token_budget: int,
        progress: Callable[[int, int, float], None] | None = None,
    ) -> Items:
        """Let a model choose among the classes' words."""
        return evaluate_classification(
            model,
            self._prompts(data, examples),
            labels=task_of(data.prepared).labels,
            pad_id=data.pad_id,
            token_budget=token_budget,
            device=device,
            cluster_keys=[example.cluster_key for example in examples],
            texts=[example.fields["text"] for example in examples],
            progress=progress,
        )

    def metrics(self, items: Items) -> dict[str, float]:
        """Return accuracy, macro-F1, valid ratio and calibration error."""
        return metrics(items)

    def write_items(self, path: Path, items: Items) -> None:
        """Write ``items.parquet``."""
        write_items(path, items)

    def class_ids(self, data: TaskData) -> list[int] | None:
        """Return one token id per label, or None when a verbaliser takes several tokens."""
        ids = [
            data.tokenizer(text, add_special_tokens=False)["input_ids"] for text in task_of(data.prepared).verbalisers
        ]
        return [each[0] for each in ids] if all(len(each) == 1 for each in ids) else None

    def save_teacher_answers(
        self, context: Context, lesson: Lesson, rows: Mapping[str, Sequence[StudentRow]], fingerprint: str, folder: Path
    ) -> dict[str, Any]:
        """Write ``scores_<split>.npy``: the log-probability of each label, float64 [B, C].

        From the cache, or live where labels take several tokens.

        Returns:
            ``label_mass``: the mean probability of each label's words on the training rows, which is also shown.
        """
        mass: dict[str, float] = {}
        for name, made in rows.items():
            if lesson.class_ids is not None:
                scores_BC = cached_scores(context.folders.cache, fingerprint, lesson.class_ids, made)
            else:
                scores_BC = score_choices(
                    lesson.model,
                    self._prompts(lesson.data, lesson.splits[name]),
                    pad_id=lesson.data.pad_id,
                    token_budget=context.recipe.evaluate.token_budget,
                    device=lesson.device,
                ).logprobs_BC
            np.save(folder / f"scores_{name}.npy", scores_BC)
            if name == "train":
                means = np.exp(scores_BC).mean(axis=0).tolist()
                mass = dict(zip(task_of(lesson.data.prepared).labels, means, strict=True))
                for line in mass_lines(mass):
                    context.show(line)
        return {"label_mass": mass}

    def teacher_items(self, prepared: PreparedTask, taught: Taught, split: str, *, metric: str) -> Items:
        """Return the teacher's answers on a split, from its class scores."""
        scores_BC = taught.class_scores(split)
        examples = prepared.splits[split][: len(scores_BC)]
        return teacher_items_from_scores(
            scores_BC,
            item_keys=[example.item_key for example in examples],
            gold_B=np.array([example.gold for example in examples]),
            labels=task_of(prepared).labels,
            cluster_keys=[example.cluster_key for example in examples],
            texts=[example.fields["text"] for example in examples],
        )

    def pseudo_rows(self, data: TaskData, taught: Taught, examples: Sequence[Any]) -> Rows:
        """Return one row per example, with the class that the teacher finds most likely."""
        return self._rows(data, examples, answers=taught.class_scores("train").argmax(axis=1).tolist())

    def sequence_golds(self, task: Any, examples: Sequence[Any]) -> dict[str, Any]:
        """Return the classes' words without blanks, as gold answers and as labels."""
        labels = [words.strip() for words in task.verbalisers]
        return {"golds": [[labels[example.gold]] for example in examples], "labels": labels}

    def _prompts(self, data: TaskData, examples: Sequence[Any]) -> list[Any]:
        return choice_prompts(
            data.tokenizer,
            task_of(data.prepared),
            examples,
            max_length=data.max_length,
            end_of_turn_id=data.end_of_turn_id,
        )


def task_of(prepared: PreparedTask) -> ClassificationTask:
    """Return the task, which is a classification."""
    assert isinstance(prepared.task, ClassificationTask), "a task's kind is that of its section"
    return prepared.task


def mass_lines(mass: Mapping[str, float]) -> list[str]:
    """Say how likely the teacher finds the label words, per class; with a warning where it says something else."""
    total = sum(mass.values())
    shown = ", ".join(f"{label} {share:.1%}" for label, share in mass.items())
    lines = [f"  teacher's probability of the label words on the training rows: {total:.1%} ({shown})"]
    if total < SMALL_MASS:
        lines.append(
            f"  warning: THE TEACHER RARELY ANSWERS WITH THE LABEL WORDS ({total:.1%}, expected {SMALL_MASS:.0%}): "
            "what students learn from it is mostly noise. Ask for the words in the template, choose words that it "
            "uses, or adapt it (`teacher.adapt`)."
        )
    return lines


def answer_lead(task: ClassificationTask) -> str:
    """Return the white space with which the words of all classes begin; one blank where they differ in it."""
    leads = {words[: len(words) - len(words.lstrip())] for words in task.verbalisers}
    return leads.pop() if len(leads) == 1 else " "


def cached_scores(root: Path, fingerprint: str, class_ids: Sequence[int], rows: Sequence[StudentRow]) -> np.ndarray:
    """Read the class scores of rows out of the cache: float64 [B, C]."""
    column = ClassScoresColumn(tuple(class_ids))
    reader = CacheReader(root, fingerprint, column)
    asked = [teacher_row(row) for row in rows]
    found = reader.read([row.key for row in asked], [column.positions_of(row) for row in asked])
    return found["scores_NC"].double().numpy()
