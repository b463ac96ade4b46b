"""What the teacher said, read back: a source of signals that needs no teacher.

In: a ``Batch`` with the teacher's row keys and positions. Out: a ``TeacherSignal``.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from tutelage.align import check_key
from tutelage.cache.column import Column
from tutelage.cache.final_hidden import FinalHiddenColumn
from tutelage.cache.find import find_column
from tutelage.cache.layout import teacher_folder
from tutelage.cache.read import CacheReader, stored_columns
from tutelage.cache.report import require_covered_mass
from tutelage.cache.teacher_head import read_head
from tutelage.cache.topk import TopKColumn
from tutelage.errors import AlignmentError, CacheError
from tutelage.teacher.measure import is_state_column
from tutelage.teacher.signals import as_signal, column_tokens
from tutelage.types import Batch, TeacherRow, TeacherSignal


class CachedTeacher:
    """Serve one column of one teacher's cache; the records are those of :class:`LiveTeacher`."""

    def __init__(self, root: Path, fingerprint: str, column: Column, *, device: torch.device | str = "cpu") -> None:
        """Open the cache and check that training from it makes sense.

        Args:
            root: The cache's root folder.
            fingerprint: The teacher's.
            column: What is wanted; a stored larger k serves. ``cache.find_column`` makes one
                without the teacher. For ``topk``, list only the temperatures that will be used:
                each must have at least 50 % of the mass covered.
            device: Where the signals go.

        Raises:
            CacheError: If the cache is damaged, or holds nothing that serves ``column``.
            CapabilityError: If a temperature was not stored, or a top-k column covers too little of the
                teacher's mass there.
        """
        self.fingerprint = fingerprint
        self.column = column
        self.device = torch.device(device)
        self.reader = CacheReader(root, fingerprint, column)
        if not self.reader.shards:
            raise missing_column(root, fingerprint, column)
        self.head = None
        if isinstance(column, FinalHiddenColumn):
            self.head = read_head(root, fingerprint, device=self.device)
        if isinstance(column, TopKColumn):
            require_covered_mass(root, fingerprint, column)

    def signal(self, batch: Batch) -> TeacherSignal:
        """Read the batch's supervised positions, or its rows' hidden states; every row's hash is checked.

        Raises:
            CacheError: If a row is damaged, missing, or lacks a position.
            AlignmentError: If the batch's positions and targets do not match in number, or a row's key is not that of
                its ids.
        """
        for row in batch.teacher_rows:
            check_key(row)
        num_positions = sum(len(row.positions) for row in batch.teacher_rows)
        if num_positions != batch.num_targets and not is_state_column(self.column):
            raise AlignmentError(
                f"The batch asks for {num_positions} teacher positions but has {batch.num_targets} supervised targets. "
                "Expected one teacher position per target; a control must permute whole rows of equal length."
            )
        positions = [self.column.positions_of(row) for row in batch.teacher_rows]
        tensors = self.reader.read([row.key for row in batch.teacher_rows], positions)
        moved = {name: tensor.to(self.device) for name, tensor in tensors.items()}
        return as_signal(self.column, moved, self.head, batch.teacher_rows)

    def num_tokens(self, rows: Sequence[TeacherRow]) -> dict[int, int]:
        """Count, by layer, the tokens of some rows whose hidden states are given; nothing for other signals."""
        return column_tokens(self.column, rows)


def missing_column(root: Path, fingerprint: str, column: Column) -> CacheError:
    """Say why nothing serves ``column``.

    Raises:
        CapabilityError: If a temperature was not stored; those that were are named.
        CacheError: If the kind, or a k that large, was not stored.
    """
    if isinstance(column, TopKColumn):
        find_column(root, fingerprint, kind="topk", k=column.k, temperatures=column.temperatures)
    held = ", ".join(stored.name for stored in stored_columns(root, fingerprint)) or "nothing"
    return CacheError(
        f"The teacher cache {teacher_folder(root, fingerprint)} holds {held}; expected {column.name}. List the signal "
        "in the recipe and run the teach stage."
    )
