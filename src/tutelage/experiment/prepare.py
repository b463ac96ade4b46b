"""The stage ``prepare``: a task's rows are read, cut, checked and counted once.

In: a task's section of the recipe. Out: ``prepare/<task>/`` with one JSONL per split.
"""

from pathlib import Path
from typing import Any

from tutelage.errors import DataError
from tutelage.experiment.stage import Context, finished, stage_artifact, stage_key
from tutelage.experiment.task_kinds import Section, cut_rows, rows_part, sources_of
from tutelage.store import Manifest, file_sha256, value_digest


def prepare(context: Context, task_name: str) -> Manifest:
    """Cut a task's rows, unless that was done for exactly this section and these files."""
    folder = context.folders.prepared(task_name)
    key = prepare_key(context, task_name)
    manifest = finished(folder, key)
    if manifest is not None:
        context.skip("prepare", task_name)
        return manifest
    with context.timed("prepare", task_name):
        from tutelage.data import data_lines, write_prepared

        prepared = _cut(context, task_name)
        with stage_artifact(context, folder, stage="prepare", key=key) as temporary:
            write_prepared(temporary, prepared)
    rows, *lines = data_lines(prepared.info)
    context.show(f"prepare {task_name}: {rows}")
    for line in lines:
        context.show(f"  {line}")
    manifest = finished(folder, key)
    assert manifest is not None, "a stage that was just committed is finished"
    return manifest


def prepared_or_cut(context: Context, task_name: str) -> Any:
    """Return a task's rows: those that were prepared for these settings, else cut now and not written."""
    from tutelage.data import read_prepared

    folder = context.folders.prepared(task_name)
    if finished(folder, prepare_key(context, task_name)) is not None:
        return read_prepared(folder)
    return _cut(context, task_name)


def _cut(context: Context, task_name: str) -> Any:
    return cut_rows(
        task_name,
        context.recipe.tasks[task_name],
        adapt_rows=adapt_rows(context, task_name),
        mode=context.recipe.mode,
        base_folder=context.base_folder,
    )


def prepare_key(context: Context, task_name: str) -> str:
    """Address the stage by the task's section and the bytes of its local files."""
    section = context.recipe.tasks[task_name]
    part = {**rows_part(section, mode=context.recipe.mode), "adapt_rows": adapt_rows(context, task_name)}
    return stage_key("prepare", part, {"files": source_digest(context, section)})


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
        return {path.name: file_sha256(path)}
    if not path.is_dir():
        return {}
    try:
        return {
            file.relative_to(path).as_posix(): file_sha256(file) for file in sorted(path.rglob("*")) if file.is_file()
        }
    except OSError as error:
        raise DataError(f"Cannot read the folder {path}: {error}. Check its permissions.") from error
