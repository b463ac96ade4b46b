"""The stage ``prepare``: a task's rows are read, cut, checked and counted once.

In: a task's section of the recipe. Out: ``prepare/<task>/`` with one JSONL per split.
"""

import datetime
from pathlib import Path
from typing import Any

from tutelage.errors import DataError
from tutelage.experiment.graph import Node
from tutelage.experiment.stage import Context, Target, stage_artifact
from tutelage.experiment.task_kinds import Section, cut_rows, rows_part, sources_of
from tutelage.store import known_sha256, value_digest


def prepare_node(context: Context, task_name: str) -> Node:
    """Return the stage that cuts a task's rows; its key holds the task's section and the bytes of its local files."""
    section = context.recipe.tasks[task_name]
    return Node(
        context,
        "prepare",
        name=lambda: task_name,
        needs=(),
        part=lambda: {**rows_part(section, mode=context.recipe.mode), "adapt_rows": adapt_rows(context, task_name)},
        reads=lambda: {"files": source_digest(context, section)},
        place=lambda key: context.folders.stage("prepare", task_name, key),
        make=lambda target: _make(context, task_name, target),
    )


def _make(context: Context, task_name: str, target: Target) -> None:
    from tutelage.data import data_lines, write_prepared

    prepared = prepared_or_cut(context, task_name)
    if (date := context.recipe.tasks[task_name].date or asked_date(context, task_name)) is not None:
        prepared.info["date"] = date
    with stage_artifact(context, target) as temporary:
        write_prepared(temporary, prepared)
    context.cut.pop(task_name, None)
    rows, *lines = data_lines(prepared.info)
    context.show(f"prepare {task_name}: {rows}")
    for line in lines:
        context.show(f"  {line}")


def asked_date(context: Context, task_name: str) -> str | None:
    """Return today where a chat template that this task is written with asks for the date, so that it stays that day.

    Templates that do not ask leave no date in the record: rows of one recipe are the same on every day.
    """
    recipe, section = context.recipe, context.recipe.tasks[task_name]
    talks = section.kind == "text" and section.template != "plain"
    if not talks and all(signal.kind != "sequences" or signal.template == "raw" for signal in recipe.signals):
        return None
    from tutelage.build import model_source
    from tutelage.experiment.writer import row_writer
    from tutelage.models.template import writes_date

    writer = row_writer(context, model_source(recipe.teacher, context.base_folder))
    asks = writes_date(writer.tokenizer)
    return datetime.date.today().isoformat() if asks else None


def prepared_or_cut(context: Context, task_name: str) -> Any:
    """Return a task's rows: those that were prepared for these settings, else cut now and kept in memory."""
    from tutelage.data import read_prepared

    if ("prepare", task_name) in context.found:
        return read_prepared(context.input("prepare", task_name))
    if task_name not in context.cut:
        context.cut[task_name] = cut_rows(
            task_name,
            context.recipe.tasks[task_name],
            adapt_rows=adapt_rows(context, task_name),
            mode=context.recipe.mode,
            base_folder=context.base_folder,
        )
    return context.cut[task_name]


def adapt_rows(context: Context, task_name: str) -> int | None:
    """Return how many rows are set apart for adapting the teacher on this task; None: a share of them."""
    adapt = context.recipe.teacher.adapt
    return adapt.rows if adapt is not None and task_name in adapt.tasks else 0


def source_digest(context: Context, section: Section) -> str:
    """Hash the local files that a task reads, so that an edited file is noticed; a hub id has its revision."""
    return value_digest(
        {
            name: _file_hashes(context.base_folder / Path(name).expanduser())
            for name in sources_of(section)
            if ":" not in name
        }
    )


def _file_hashes(path: Path) -> dict[str, str]:
    if path.is_file():
        return {path.name: known_sha256(path)}
    if not path.is_dir():
        return {}
    try:
        return {
            file.relative_to(path).as_posix(): known_sha256(file) for file in sorted(path.rglob("*")) if file.is_file()
        }
    except OSError as error:
        raise DataError(f"Cannot read the folder {path}: {error}. Check its permissions.") from error
