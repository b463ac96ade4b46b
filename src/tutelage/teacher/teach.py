"""The teach stage: run the teacher once over rows and commit what it said, shard by shard.

In: the teacher, ``TeacherRow``s, columns. Out: committed shards and a ``TeachReport``.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tutelage.cache.column import ClassScoresColumn, Column, FinalHiddenColumn, TensorDict
from tutelage.cache.layout import column_folder, teacher_folder
from tutelage.cache.report import bytes_per_position, covered_mass
from tutelage.cache.shard import Shard
from tutelage.cache.teacher_head import has_head, write_head
from tutelage.cache.topk import TopKColumn
from tutelage.cache.verify import cache_digest
from tutelage.cache.write import ShardWriter
from tutelage.data.plan import reading_batches
from tutelage.errors import PreemptedError
from tutelage.models.head import final_hidden, find_head, plain_model
from tutelage.store import folder_lock, require_free_space, sweep_temporaries
from tutelage.teacher.batches import padded_batch
from tutelage.teacher.live import detached
from tutelage.teacher.measure import measure
from tutelage.teacher.plan import ShardJob, check_rows, distinct_columns, intact_shards, merge_rows, plan_jobs
from tutelage.types import OutputHead, TeacherRow

Progress = Callable[[int, int, float], None]  # rows done, rows to compute, real tokens per second


@dataclass(frozen=True)
class TeachReport:
    """What a teach stage did and what it cost; per column by ``Column.name``."""

    num_rows: int  # distinct rows asked for
    num_positions: int
    computed: int  # rows that went through the teacher now
    reused: int
    bytes: int  # on disk, all asked-for columns
    seconds: float
    tokens_per_second: float  # real tokens through the teacher, padding not counted; 0 when all was reused
    bytes_per_position: dict[str, dict[str, float]] = field(default_factory=dict)
    covered_mass: dict[str, dict[float, float]] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    repaired: tuple[str, ...] = ()  # folders that were damaged and were made anew


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
        run = _Run(model, head, writers, token_budget, progress, sum(len(job.rows) for job in jobs if job.open_columns))
        for number, job in enumerate(jobs):
            if job.open_columns:
                stop_if_asked(should_stop, number, len(jobs))
                run.do(job)
        return make_report(run, rows, columns, root, fingerprint, time.monotonic() - began, repaired)


class _Run:
    """The part of a teach stage that touches the teacher, with its running counts."""

    def __init__(
        self,
        model: nn.Module,
        head: OutputHead,
        writers: dict[Column, ShardWriter],
        token_budget: int,
        progress: Progress | None,
        num_to_compute: int,
    ) -> None:
        self.model, self.head, self.writers = model, head, writers
        self.token_budget, self.progress, self.num_to_compute = token_budget, progress, num_to_compute
        self.num_computed = self.num_tokens = 0
        self.seconds = 0.0

    def do(self, job: ShardJob) -> None:
        """Compute one shard and commit it, column by column."""
        parts: dict[Column, dict[bytes, TensorDict]] = {column: {} for column in job.open_columns}
        groups = reading_batches([len(row.ids) for row in job.rows], token_budget=self.token_budget)
        for group in reversed(groups):  # longest first: what does not fit into memory shows at the start
            self.read([job.rows[number] for number in group], job, parts)
        for column, by_key in parts.items():
            ordered = [by_key[row.key] for row in job.wanted[column]]
            tensors = {name: torch.cat([part[name] for part in ordered]) for name in ordered[0]}
            self.writers[column].write_shard(job.wanted[column], tensors, plan=job.plan)

    @torch.no_grad()
    def read(self, rows: list[TeacherRow], job: ShardJob, parts: dict[Column, dict[bytes, TensorDict]]) -> None:
        """Run one batch and keep each column's tensors by row."""
        began = time.monotonic()
        device = next(self.model.parameters()).device
        batch = padded_batch(rows, device=device)
        hidden_NE = final_hidden(self.model, batch)
        hidden_by_key = dict(
            zip(batch.teacher_keys, hidden_NE.split([len(row.positions) for row in rows]), strict=True)
        )
        positions = dict(zip(batch.teacher_keys, batch.teacher_positions, strict=True))
        for column, by_key in parts.items():
            members = [row for row in job.wanted[column] if row.key in positions]
            if not members:
                continue
            chosen = [
                hidden_by_key[row.key][torch.from_numpy(positions[row.key].searchsorted(row.positions)).to(device)]
                for row in members
            ]
            tensors = {name: tensor.cpu() for name, tensor in measure(torch.cat(chosen), self.head, column).items()}
            counts = [len(row.positions) for row in members]
            for name, tensor in tensors.items():
                for row, part in zip(members, tensor.split(counts), strict=True):
                    by_key.setdefault(row.key, {})[name] = part
        self.num_computed += len(rows)
        self.num_tokens += batch.num_tokens
        self.seconds += time.monotonic() - began
        if self.progress is not None:
            self.progress(self.num_computed, self.num_to_compute, self.tokens_per_second)

    @property
    def tokens_per_second(self) -> float:
        return self.num_tokens / self.seconds if self.seconds > 0 else 0.0


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


def make_report(
    run: _Run,
    rows: Sequence[TeacherRow],
    columns: Sequence[Column],
    root: Path,
    fingerprint: str,
    seconds: float,
    repaired: Sequence[Path],
) -> TeachReport:
    """Gather the figures of a finished teach stage."""
    merged = merge_rows(rows)
    folders = [column_folder(root, fingerprint, column) for column in columns]
    topk = [column for column in columns if isinstance(column, TopKColumn)] if merged else []
    return TeachReport(
        num_rows=len(merged),
        num_positions=sum(len(row.positions) for row in merged),
        computed=run.num_computed,
        reused=len(merged) - run.num_computed,
        bytes=sum(file.stat().st_size for path in folders for file in path.rglob("*") if file.is_file()),
        seconds=seconds,
        tokens_per_second=run.tokens_per_second,
        bytes_per_position={column.name: bytes_per_position(root, fingerprint, column) for column in columns},
        covered_mass={column.name: covered_mass(root, fingerprint, column) for column in topk},
        digests={column.name: cache_digest(root, fingerprint, column) for column in columns},
        repaired=tuple(str(path.relative_to(root)) for path in repaired),
    )
