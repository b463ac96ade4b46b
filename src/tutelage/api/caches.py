"""Open a teacher's cache, fill one from a model in memory, and read rows out of it as records for the losses.

In: a recipe, a folder, or a model and rows. Out: a ``Cache``.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tutelage.api.recipes import load
from tutelage.cache import CacheReader, find_column, read_head, stored_columns
from tutelage.cache.final_hidden import FinalHiddenColumn
from tutelage.cache.inspect import EntryReader, RowEntries
from tutelage.cache.overview import TeacherCache, cache_figures, find_caches
from tutelage.data.collate import teacher_row
from tutelage.errors import DataError
from tutelage.experiment.notebook import html_table
from tutelage.experiment.stored import recipe_context, require_fingerprints
from tutelage.models.device import describe_device, identity_of
from tutelage.models.fingerprint import model_fingerprint
from tutelage.teacher import CachedTeacher, build_column, teach
from tutelage.teacher.signals import as_signal
from tutelage.types import StudentRow, TeacherSignal

SHOWN = ("column", "rows", "positions", "bytes per position")


class Cache:
    """What one teacher said, addressed by the token ids of the rows that it read."""

    def __init__(self, root: Path, fingerprint: str) -> None:
        self.root, self.fingerprint = root, fingerprint

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.root / self.fingerprint

    @property
    def columns(self) -> list[str]:
        """The stored signals, by name: kind and settings."""
        return [column.name for column in stored_columns(self.root, self.fingerprint)]

    def keys(self) -> list[bytes]:
        """List the keys of all stored rows."""
        readers = [CacheReader(self.root, self.fingerprint, each) for each in self._stored()]
        return sorted({key for reader in readers for shard in reader.shards for key in shard.keys})

    def read(
        self, rows: Sequence[StudentRow], *, kind: str = "final_hidden", temperatures: Sequence[float] = (1.0,)
    ) -> TeacherSignal:
        """Read what the teacher said at the targets of some rows, laid end to end: a record for ``kd_loss``.

        Args:
            rows: From :func:`make_row`; every row's hash is checked.
            kind: final_hidden, topk, sampled, class_scores, hidden or pooled.
            temperatures: Of topk: at which it will be compared.

        Raises:
            CacheError: If the cache holds no such signal, or a row is missing, damaged or lacks a target.
            CapabilityError: If a temperature was not stored.
        """
        column = find_column(self.root, self.fingerprint, kind=kind, temperatures=temperatures)
        asked = [teacher_row(row) for row in rows]
        positions = [column.positions_of(row) for row in asked]
        tensors = CacheReader(self.root, self.fingerprint, column).read([row.key for row in asked], positions)
        head = read_head(self.root, self.fingerprint) if isinstance(column, FinalHiddenColumn) else None
        return as_signal(column, tensors, head, asked)

    def teacher(
        self,
        kind: str = "final_hidden",
        *,
        temperatures: Sequence[float] = (1.0,),
        device: torch.device | str = "cpu",
    ) -> CachedTeacher:
        """Return the cache as the teacher of :func:`train_rows`.

        Raises:
            CacheError: If the cache holds no such signal.
            CapabilityError: If a temperature was not stored, or top-k covers too little of the mass there.
        """
        column = find_column(self.root, self.fingerprint, kind=kind, temperatures=temperatures)
        return CachedTeacher(self.root, self.fingerprint, column, device=device)

    def entries(self, key: bytes | StudentRow, *, count: int = 5) -> RowEntries | None:
        """Return the most likely ids at every stored position of a row; None where no distribution is stored."""
        key = key.teacher_key if isinstance(key, StudentRow) else key
        return EntryReader(self.root, self.fingerprint).entries(key, count=count)

    def _stored(self) -> list[Any]:
        return stored_columns(self.root, self.fingerprint)

    def __repr__(self) -> str:
        return f"<Cache {self.folder}: {', '.join(self.columns)}>"

    def _repr_html_(self) -> str:
        figures = cache_figures(TeacherCache(self.root, self.fingerprint))
        rows = [
            (each.column, f"{each.num_rows:,}", f"{each.num_positions:,}", f"{each.bytes_per_position:,.1f}")
            for each in figures
        ]
        return html_table(SHOWN, rows, caption=str(self.folder))


def open_cache(where: str | os.PathLike[str]) -> Cache:
    """Open the cache of a recipe's teacher, or the one below a folder: a workspace, its cache, a teacher's folder.

    Raises:
        DataError: If there is none, or a folder holds those of several teachers.
    """
    path = Path(where)
    if path.is_file():
        context = recipe_context(load(path, (), None, None), show=lambda line: None)
        found = [TeacherCache(context.folders.cache, each) for each in require_fingerprints(context).values()]
    else:
        found = find_caches(path)
    names = sorted({str(each.folder) for each in found})
    if len(names) > 1:
        raise DataError(f"{path} holds the caches of {len(names)} teachers: {', '.join(names)}. Name one of these.")
    return Cache(found[0].root, found[0].teacher)


def teach_rows(
    model: nn.Module,
    rows: Sequence[StudentRow],
    folder: str | os.PathLike[str],
    *,
    kind: str = "final_hidden",
    token_budget: int = 8192,
    **settings: Any,
) -> Cache:
    """Let a model in memory read rows once, and keep what it says at their targets; what is stored is not repeated.

    Args:
        model: A causal language model of transformers, on its device; put into evaluation mode.
        rows: From :func:`make_row`, in the model's own ids.
        folder: The cache's root; the model's rows lie in a folder named by its weights, config, dtype and device.
        kind: final_hidden, topk, sampled, hidden or pooled.
        token_budget: Padded tokens per forward pass.
        **settings: Of the kind: ``k`` and ``temperatures`` of topk, ``draws`` and ``temperature`` of sampled, ``layer``
            of hidden and pooled, ``dtype``.

    Raises:
        CapabilityError: If a setting does not fit the kind or the model.
        AlignmentError: If a row holds an id that the model does not know.
        NumericsError: If what the model says is not finite.
    """
    parameter = next(model.parameters())
    compute = describe_device(parameter.device, parameter.dtype)
    fingerprint = model_fingerprint(model, dtype=parameter.dtype, extra=identity_of(compute))
    teach(
        model,
        [teacher_row(row) for row in rows],
        columns=[build_column(model, kind=kind, **settings)],
        root=Path(folder),
        fingerprint=fingerprint,
        token_budget=token_budget,
    )
    return Cache(Path(folder), fingerprint)
