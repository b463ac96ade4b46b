"""A finished student, found by its name, proven whole, and opened to be used.

In: a run's name or folder. Out: a ``FinishedStudent``: model, tokenizer and task, as they were when it was scored.
"""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from tutelage.align import Reader, num_token_ids
from tutelage.build import classification_task, reading_task, student_compute, text_task
from tutelage.config import Classification, LoadedRecipe, Reading, Recipe, make_recipe
from tutelage.data import PreparedTask
from tutelage.errors import DataError, IntegrityError
from tutelage.experiment.closing import CHECKPOINT
from tutelage.experiment.identity import Folders
from tutelage.experiment.listing import show_run
from tutelage.experiment.stage import Context
from tutelage.experiment.task_data import TaskData
from tutelage.models.load import end_of_turn_id, load_config, load_model, load_tokenizer
from tutelage.models.source import resolve_model
from tutelage.store import verify_artifact

NO_ROWS: dict[str, list[Any]] = {"train": [], "adapt": [], "validation": [], "test": []}


@dataclass(frozen=True)
class FinishedStudent:
    """A student that can answer; ``name`` is its run's."""

    name: str
    data: TaskData
    model: PreTrainedModel
    device: torch.device
    is_bf16: bool

    @property
    def token_budget(self) -> int:
        """Padded tokens of a batch, as when it was scored."""
        return self.data.context.recipe.evaluate.token_budget

    @contextlib.contextmanager
    def precision(self) -> Iterator[None]:
        """Compute as it did when it was scored."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.is_bf16):
            yield


def find_student(workspace: Path, name: str) -> Path:
    """Return the folder of a run that kept its weights.

    Args:
        workspace: Where runs are looked for.
        name: A run's id, ``EXPERIMENT/RUN``, or the path of its folder or of the checkpoint in it.

    Raises:
        DataError: If there is no such run, or none with weights.
        IntegrityError: If a file of it is damaged.
    """
    given = Path(name)
    folder = given.parent if given.name == CHECKPOINT and (given.parent / "run.json").is_file() else given
    if not (folder / "run.json").is_file():
        folder = show_run(workspace, name).folder
    verify_artifact(folder)
    if not (folder / CHECKPOINT).is_dir():
        raise DataError(
            f"{folder.name} kept no weights: only reported students do (no teacher, untouched student or trial). "
            f"Name another run; `tutelage runs ls --workspace {workspace}` lists them."
        )
    return folder


def open_student(folder: Path) -> FinishedStudent:
    """Load a student from the folder that :func:`find_student` returned.

    Raises:
        IntegrityError: If what the run recorded of itself cannot be read.
        ModelError: If the weights cannot be loaded.
    """
    record, recipe = read_record(folder)
    task, student = record["task"], recipe.students[record["student"]]
    device, dtype = student_compute(recipe, student)
    source = resolve_model(str((folder / CHECKPOINT).resolve()), base_folder=Path())
    weights_dtype = load_config(source).dtype or torch.float32
    tokenizer = load_tokenizer(source)
    model = load_model(source, dtype=weights_dtype, device=device, num_ids=num_token_ids(tokenizer))
    loaded = LoadedRecipe(recipe, {}, folder / "recipe.yaml", [], "")
    context = Context(loaded, Folders(folder.parent.parent, folder.parent.name), show=_nothing, command="")
    end = record.get("end_of_turn_id")
    end = end_of_turn_id(tokenizer, model.config) if end is None else int(end)
    prepared = PreparedTask(task_of_section(task, recipe.tasks[task]), NO_ROWS, {"date": record.get("date")})
    data = TaskData(context, task, prepared, tokenizer, reader_alone(model), end, recipe.tasks[task])
    return FinishedStudent(record["run_id"], data, model, device, dtype == torch.bfloat16)


def read_record(folder: Path) -> tuple[dict[str, Any], Recipe]:
    """Return what a run recorded: its ``run.json``, and the recipe that it was part of.

    Raises:
        IntegrityError: If they are not readable.
    """
    try:
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        provenance = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
        return record, make_recipe(provenance["recipe_given"])
    except (ValueError, KeyError) as error:
        raise IntegrityError(
            f"{folder} does not say how its student reads rows ({error}). It is of another version of the program; "
            "run its recipe again."
        ) from error


def task_of_section(name: str, section: Any) -> Any:
    """Return the task that a section of a recipe describes."""
    match section:
        case Classification():
            return classification_task(name, section)
        case Reading():
            return reading_task(name, section)
    return text_task(name, section)


def reader_alone(model: Any) -> Reader:
    """Return a model that reads what people write; its tokenizer lies beside it."""
    remedy = "Write the text without these tokens."
    return Reader("this model", int(model.get_input_embeddings().num_embeddings), {}, remedy)


def _nothing(line: str) -> None:
    """Show nothing: what a run says of its rows is of no interest here."""
