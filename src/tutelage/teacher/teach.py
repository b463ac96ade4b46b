"""The teach stage: run the teacher once over rows and commit what it said, shard by shard.

In: the teacher, ``TeacherRow``s, columns. Out: committed shards and a ``TeachReport``.
"""

import shutil
import time
from collections import deque
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
from tutelage.models.taps import require_taps
from tutelage.store import require_free_space, sweep_temporaries
from tutelage.teacher.background import BackgroundWriter
from tutelage.teacher.claims import Claims, pause, stop_waiting
from tutelage.teacher.figures import TeachReport, make_report
from tutelage.teacher.live import detached
from tutelage.teacher.measure import is_state_column
from tutelage.teacher.passes import PartsByKey, Progress, TeacherPass, joined
from tutelage.teacher.plan import ShardJob, check_rows, distinct_columns, intact_shards, plan_jobs, without_committed
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

    One forward pass serves all columns. Rows are ordered by key and cut into shards; each shard is computed, then
    committed while the next one is computed. A kill loses at most these two, and the same rows, columns,
    ``shard_rows`` and ``token_budget`` give the same :func:`tutelage.cache.cache_digest`. Committed rows are read and
    checked first; a damaged shard is deleted and made anew.

    Several processes may fill one cache with the same call: each claims the next open shard, waits at the end for the
    others' shards, and takes over those of processes that died.

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
        ModelError: If hidden states are wanted and cannot be read from this model by layer number.
    """
    if class_token_ids is not None:
        columns = [*columns, ClassScoresColumn(tuple(class_token_ids))]
    columns = distinct_columns(columns)
    check_rows(rows, num_ids=num_input_ids(model))
    began = time.monotonic()
    head = detached(find_head(model.eval()))
    if any(is_state_column(column) for column in columns):
        require_taps(model)
    origin = {**(provenance or {}), "fingerprint": fingerprint}
    claims = Claims(root, fingerprint)
    with claims.planning(should_stop):
        sweep_temporaries(teacher_folder(root, fingerprint))
        stored, repaired = open_stored(root, fingerprint, columns)
        jobs = plan_jobs(rows, columns, stored, shard_rows=shard_rows)
        writers = {column: ShardWriter(root, fingerprint, column, provenance=origin) for column in columns}
        require_free_space(root, forecast_bytes(jobs, columns, root, fingerprint, head))
        if any(isinstance(column, FinalHiddenColumn) for column in columns):
            write_head(root, fingerprint, head, provenance=origin)
    num_to_compute = sum(len(job.rows) for job in jobs if job.open_columns)
    passes = TeacherPass(model, head, token_budget, progress, num_to_compute)
    fill_shards(jobs, passes.compute, writers, claims, should_stop)
    return make_report(passes, rows, columns, root, fingerprint, time.monotonic() - began, repaired)


def fill_shards(
    jobs: Sequence[ShardJob],
    compute: Callable[[ShardJob], PartsByKey],
    writers: dict[Column, ShardWriter],
    claims: Claims,
    should_stop: Callable[[], bool] | None,
) -> None:
    """Compute and commit every open shard, together with other processes that do the same.

    Raises:
        PreemptedError: If ``should_stop`` said so; what was computed is committed.
    """
    waiting = deque((number, job) for number, job in enumerate(jobs) if job.open_columns)
    num_passed_over = 0  # in a row: all that are left have been tried
    with BackgroundWriter() as background:
        while waiting:
            if num_passed_over == len(waiting):
                background.flush()  # the claim in the way may be our own, on a shard that is being written
                pause()
                stop_waiting(should_stop)
                num_passed_over = 0
            number, job = waiting.popleft()
            claim = claims.claim(job.plan)
            if claim is None:
                waiting.append((number, job))
                num_passed_over += 1
                continue
            num_passed_over = 0
            with claim:
                still_open = without_committed(job, {column: writer.folder for column, writer in writers.items()})
                if not still_open.open_columns:
                    continue
                stop_if_asked(should_stop, number, len(jobs))
                parts = compute(still_open)
                background.hand_over(shard_write(still_open, parts, writers), after=claim.pop_all().close)


def shard_write(job: ShardJob, parts: PartsByKey, writers: dict[Column, ShardWriter]) -> Callable[[], None]:
    """Return the function that encodes and commits a computed shard, column by column."""

    def write() -> None:
        for column, by_key in parts.items():
            rows = job.wanted[column]
            writers[column].write_shard(rows, joined(by_key, rows), plan=job.plan)

    return write


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
