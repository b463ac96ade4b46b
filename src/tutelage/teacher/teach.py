"""The teach stage: run the teacher once over rows and commit what it said, shard by shard.

In: the teacher, ``TeacherRow``s, columns. Out: committed shards and a ``TeachReport``.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tutelage.cache.class_scores import ClassScoresColumn
from tutelage.cache.column import Column
from tutelage.cache.final_hidden import FinalHiddenColumn
from tutelage.cache.layout import teacher_folder
from tutelage.cache.shard import Shard
from tutelage.cache.teacher_head import has_head, write_head
from tutelage.cache.write import ShardWriter
from tutelage.errors import PreemptedError
from tutelage.models.head import find_head, plain_model
from tutelage.store import folder_lock, require_free_space, sweep_temporaries
from tutelage.teacher.figures import TeachReport, make_report
from tutelage.teacher.live import detached
from tutelage.teacher.passes import Progress, TeacherPass
from tutelage.teacher.plan import ShardJob, check_rows, distinct_columns, intact_shards, plan_jobs
from tutelage.types import OutputHead, TeacherRow


def teach(
    model: nn.Module,
    rows: Sequence[TeacherRow],
    *,
    columns: Sequence[Column],
    root: Path,
    fingerprint: str,
    shard_rows: int = 512,
    token_budget: int = 8192,
    progress: Progress | None = None,
    provenance: dict[str, Any] | None = None,
    class_token_ids: Sequence[int] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> TeachReport:
    """Compute and store every column for every row, as far as it is not stored yet.

    One forward pass serves all columns. Rows are ordered by key and cut into shards; each shard
    is computed, then committed. A kill loses at most one shard, and the same rows, columns,
    ``shard_rows`` and ``token_budget`` give the same :func:`tutelage.cache.cache_digest`.
    Committed rows are read and checked first; a damaged shard is deleted and made anew.

    Args:
        model: The teacher, on its device; put into evaluation mode.
        rows: Equal ids may occur several times; their positions are united.
        columns: Signals to store, for example from ``build_column``. One that another serves (a
            smaller k) is not stored beside it.
        root: The cache's root folder.
        fingerprint: Identity of weights, config, adapter, dtype and compute settings.
        shard_rows: Rows per shard: the unit of work that a kill can lose.
        token_budget: Padded tokens per forward pass.
        progress: Called after every forward pass.
        provenance: Teacher's name, dtype, template, licences of data and teacher; JSON values. It
            goes into every manifest and into no digest.
        class_token_ids: Adds a ``class_scores`` column for these verbalisers.
        should_stop: Asked before every shard.

    Raises:
        PreemptedError: If ``should_stop`` said so; what was committed stays.
        DiskError: If the forecast does not fit on the disk, or the disk fills up.
        NumericsError: If the teacher's signal is not finite or not a distribution.
        AlignmentError: If a row has ids that the teacher does not know, or positions outside of it.
        LockedError: If another process teaches into the same cache.
    """
    if class_token_ids is not None:
        columns = [*columns, ClassScoresColumn(tuple(class_token_ids))]
    columns = distinct_columns(columns)
    check_rows(rows, num_ids=num_input_ids(model))
    folder = teacher_folder(root, fingerprint)
    with folder_lock(folder):
        began = time.monotonic()
        sweep_temporaries(folder)
        stored, repaired = open_stored(root, fingerprint, columns)
        jobs = plan_jobs(rows, columns, stored, shard_rows=shard_rows)
        head = detached(find_head(model.eval()))
        origin = {**(provenance or {}), "fingerprint": fingerprint}
        writers = {column: ShardWriter(root, fingerprint, column, provenance=origin) for column in columns}
        require_free_space(root, forecast_bytes(jobs, columns, root, fingerprint, head))
        if any(isinstance(column, FinalHiddenColumn) for column in columns):
            write_head(root, fingerprint, head, provenance=origin)
        num_to_compute = sum(len(job.rows) for job in jobs if job.open_columns)
        passes = TeacherPass(model, head, writers, token_budget, progress, num_to_compute)
        for number, job in enumerate(jobs):
            if job.open_columns:
                stop_if_asked(should_stop, number, len(jobs))
                passes.do(job)
        return make_report(passes, rows, columns, root, fingerprint, time.monotonic() - began, repaired)


def num_input_ids(model: nn.Module) -> int:
    """Count the ids that a model can read."""
    embeddings = plain_model(model).get_input_embeddings()
    assert isinstance(embeddings.weight, Tensor)
    return embeddings.weight.shape[0]


def open_stored(
    root: Path, fingerprint: str, columns: Sequence[Column]
) -> tuple[dict[Column, list[Shard]], list[Path]]:
    """Read what is stored, row by row; delete the damaged shards, so that they are made anew.

    Returns:
        Per column, the good shards that serve it; the folders that were deleted.
    """
    stored: dict[Column, list[Shard]] = {}
    deleted: list[Path] = []
    for column in columns:
        stored[column], damaged = intact_shards(root, fingerprint, column)
        for path in damaged:
            shutil.rmtree(path)
        deleted.extend(damaged)
    return stored, deleted


def stop_if_asked(should_stop: Callable[[], bool] | None, number: int, num_jobs: int) -> None:
    """Stop between two shards.

    Raises:
        PreemptedError: If ``should_stop`` says so.
    """
    if should_stop is not None and should_stop():
        raise PreemptedError(
            f"Stopped before shard {number + 1} of {num_jobs} of the teacher cache; finished shards are kept. Run the "
            "same command again to go on from there."
        )


def forecast_bytes(
    jobs: Sequence[ShardJob], columns: Sequence[Column], root: Path, fingerprint: str, head: OutputHead
) -> int:
    """Count the bytes that are still to be written, the head included."""
    needs_head = any(isinstance(column, FinalHiddenColumn) for column in columns) and not has_head(root, fingerprint)
    return sum(job.forecast_bytes for job in jobs) + (head.weight_VD.nbytes if needs_head else 0)
