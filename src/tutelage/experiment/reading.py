"""Reading comprehension in the stages: answers are written, and compared as texts.

In: a ``TaskData`` with questions, a model or what the teach stage stored. Out: rows, ``AnswerItems``, the teacher's
answers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tutelage.data import (
    PreparedTask,
    Question,
    ReadingTask,
    Rows,
    WrittenAnswer,
    reading_prompts,
    reading_rows,
    written_rows,
)
from tutelage.evaluate import (
    AnswerItems,
    answer_metrics,
    answer_prompts,
    answer_stops,
    read_answer_items,
    score_replies,
    write_answer_items,
)
from tutelage.experiment.stage import Context
from tutelage.experiment.task_data import TaskData
from tutelage.experiment.task_kinds import answered_splits
from tutelage.experiment.teach import Lesson, Taught
from tutelage.train.signals import stop_signals
from tutelage.types import StudentRow


class ReadingKind:
    """See ``TaskKind``."""

    def check(self, data: TaskData) -> None:
        """Accept any tokenizer: answers are text."""

    def rows(self, data: TaskData, examples: Sequence[Question], *, for_training: bool) -> Rows:
        """Return one row per question.

        Where a context is too long, rows to train on hold the part with the gold answer; rows of other splits its
        beginning.
        """
        return reading_rows(
            data.tokenizer,
            task_of(data.prepared),
            examples,
            max_length=data.max_length,
            max_answer_length=data.section.max_answer_length,
            end_of_turn_id=data.end_of_turn_id,
            keep_answers=for_training,
        )

    def written_rows(self, data: TaskData, examples: Sequence[Question], answers: Sequence[WrittenAnswer]) -> Rows:
        """Return one row per question whose answer has words and is not too long.

        Of a long context its beginning is read, as the teacher read it when it answered.
        """
        task, longest = task_of(data.prepared), data.section.max_answer_length
        return written_rows(
            data.tokenizer,
            [task.filled(example) for example in examples],
            answers,
            item_keys=[example.item_key for example in examples],
            lead=" ",
            max_length=data.max_length,
            answer_room=longest + 1,
            max_answer_length=longest,
            end_of_turn_id=data.end_of_turn_id,
        )

    def items(
        self,
        data: TaskData,
        model: nn.Module,
        examples: Sequence[Question],
        *,
        device: torch.device,
        token_budget: int,
        should_stop: Callable[[], bool] | None = None,
        progress: Callable[[int, int, float], None] | None = None,
    ) -> AnswerItems:
        """Let a model write its answers, and compare them with the gold ones."""
        section = data.section
        prompts = reading_prompts(
            data.tokenizer,
            task_of(data.prepared),
            examples,
            max_length=data.max_length,
            max_answer_length=section.max_answer_length,
            doc_stride=section.doc_stride,
        )
        replies = answer_prompts(
            model,
            data.tokenizer,
            prompts,
            stops=answer_stops(data.tokenizer, model, end_of_turn_id=data.end_of_turn_id),
            max_answer_length=section.max_answer_length,
            token_budget=token_budget,
            should_stop=should_stop,
            progress=progress,
        )
        return score_replies(examples, prompts, replies, score_name=data.metric)

    def metrics(self, items: AnswerItems) -> dict[str, float]:
        """Return F1, exact match and the shares of valid, cut and shortened items."""
        return answer_metrics(items)

    def write_items(self, path: Path, items: AnswerItems) -> None:
        """Write ``items.parquet``."""
        write_answer_items(path, items)

    def class_ids(self, data: TaskData) -> None:
        """Return None: there are no classes."""

    def save_teacher_answers(
        self, context: Context, lesson: Lesson, rows: Mapping[str, Sequence[StudentRow]], fingerprint: str, folder: Path
    ) -> None:
        """Write ``answers_<split>.parquet``: the teacher's answers to the same prompts that students get.

        Raises:
            PreemptedError: If a signal asked to stop.
        """
        with stop_signals() as stop:
            for name in [split for split in answered_splits(context) if lesson.splits.get(split)]:
                items = self.items(
                    lesson.data,
                    lesson.model,
                    lesson.splits[name],
                    device=lesson.device,
                    token_budget=context.recipe.evaluate.token_budget,
                    should_stop=stop.answer,
                    progress=context.progress(f"answers {name}"),
                )
                write_answer_items(answers_file(folder, name), items)

    def teacher_items(self, prepared: PreparedTask, taught: Taught, split: str, *, metric: str) -> AnswerItems:
        """Return the teacher's answers on a split, as they were stored."""
        return replace(read_answer_items(answers_file(taught.folder, split)), score_name=metric)

    def pseudo_rows(self, data: TaskData, taught: Taught, examples: Sequence[Question]) -> Rows:
        """Return one row per question to which the teacher wrote something; an answer that was cut has no end."""
        items = read_answer_items(answers_file(taught.folder, "train"))
        written = [
            WrittenAnswer(text, has_ended=not is_cut)
            for text, is_cut in zip(items.predictions, items.cut_B.tolist(), strict=True)
        ]
        return self.written_rows(data, examples, written)

    def sequence_golds(self, task: Any, examples: Sequence[Question]) -> dict[str, Any]:
        """Return the gold answers."""
        return {"golds": [list(example.golds) for example in examples], "labels": None}


def task_of(prepared: PreparedTask) -> ReadingTask:
    """Return the task, which is one of reading."""
    assert isinstance(prepared.task, ReadingTask), "a task's kind is that of its section"
    return prepared.task


def answers_file(folder: Path, split: str) -> Path:
    """Return where the teacher's answers on a split are."""
    return folder / f"answers_{split}.parquet"
