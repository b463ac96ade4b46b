"""A conversation with a finished student or its teacher, one line at a time.

In: an opened model, lines that a person writes. Out: answers. A model of texts keeps the conversation and reads it by
its chat template, or as plain turns where it has none; a model of another task reads each line through that task's
template, which is what it has learnt.
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.align import num_token_ids
from tutelage.build import model_source, teacher_compute
from tutelage.data import ClassificationTask, TextTask, Turn
from tutelage.data.prompts import opening_ids, plain_ids
from tutelage.data.texts import ASSISTANT, USER
from tutelage.errors import AlignmentError, DataError
from tutelage.experiment.predict import answer_prompts, prompt_ids, stops_of
from tutelage.experiment.students import FinishedStudent, read_record, reader_alone
from tutelage.models.chat import Stops, find_stops
from tutelage.models.load import load_model
from tutelage.models.source import resolve_model
from tutelage.store import check_inputs
from tutelage.store.manifest import require_manifest

LINE_END = "\n"  # an answer to a task's template stands on one line


@dataclass
class Talk:
    """One model's side of a conversation."""

    student: FinishedStudent
    turns: list[Turn] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What its answers are headed with."""
        return self.student.name

    def answer(self, line: str, *, max_new_tokens: int) -> str:
        """Say something to the model and return what it says; a text model remembers both.

        Raises:
            DataError: If the task's template needs more than a line, or the chat template refuses the turns.
            AlignmentError: If the conversation is longer than what the model can read; nothing of it is forgotten.
        """
        task: Any = self.student.data.prepared.task
        if not isinstance(task, TextTask):
            return self._said(self._task_prompt(task, line), self._task_stops(), max_new_tokens)
        turns = [*self.turns, Turn(USER, line)]
        prompt = prompt_ids(self.student, turns, template=task.template)
        said = self._said(prompt, stops_of(self.student, template=task.template), max_new_tokens)
        self.turns = [*turns, Turn(ASSISTANT, said)]
        return said

    def _said(self, prompt: np.ndarray, stops: Stops, max_new_tokens: int) -> str:
        limit = getattr(self.student.model.config.get_text_config(), "max_position_embeddings", None)
        if limit is not None and len(prompt) >= limit:
            raise AlignmentError(
                f"The conversation has {len(prompt)} tokens, and {self.name} can read {limit}. Write /new "
                "to start over."
            )
        (found,) = answer_prompts(self.student, [prompt], stops=stops, max_new_tokens=max_new_tokens)
        return str(found["answer"])

    def _task_prompt(self, task: Any, line: str) -> np.ndarray:
        columns = ("text", *task.other_fields) if isinstance(task, ClassificationTask) else task.columns
        values = {columns[0]: line} if len(columns) == 1 else _columns_of(line, columns)
        tokenizer = self.student.data.tokenizer
        prompt = plain_ids(tokenizer, str(task.filled_with(values)))
        return np.concatenate([opening_ids(tokenizer), prompt]).astype(np.int32)

    def _task_stops(self) -> Stops:
        found = find_stops(self.student.data.tokenizer, self.student.model, chat=False)
        return Stops(tuple(sorted({*found.ids, self.student.data.end_of_turn_id})), (*found.strings, LINE_END))


def _columns_of(line: str, columns: tuple[str, ...]) -> dict[str, str]:
    try:
        values = json.loads(line)
        return {column: str(values[column]) for column in columns}
    except (ValueError, KeyError, TypeError) as error:
        shown = ", ".join(f'"{column}": "..."' for column in columns)
        raise DataError(f"This task's template reads several columns. Write a line such as {{{shown}}}.") from error


def open_teacher(folder: Path, student: FinishedStudent) -> FinishedStudent:
    """Load the teacher of a finished student as it taught: adapted where the run's recipe says so.

    Args:
        folder: The student's run.
        student: The student; its task is the teacher's.

    Raises:
        IntegrityError: If the adapted teacher is damaged.
        ModelError: If the model that the recipe names is not there; relative paths start at the current folder.
    """
    _, recipe = read_record(folder)
    adapted = [name for stage, name in require_manifest(folder).fields["inputs"].items() if stage.startswith("adapt/")]
    device, dtype = teacher_compute(recipe.teacher)
    if adapted:
        path = folder.parent.parent / adapted[0]
        check_inputs(path)
        source = resolve_model(str(path.resolve()), base_folder=Path())
    else:
        source = model_source(recipe.teacher, Path())
    num_ids = num_token_ids(student.data.tokenizer)
    model = load_model(source, dtype=dtype, device=device, read_only=True, num_ids=num_ids)
    data = replace(
        student.data, reader=reader_alone(model)
    )  # it reads what the student's tokenizer writes, as it taught
    return FinishedStudent("teacher", data, model, device, is_bf16=False)
