"""The control that must lose: the same signal, shuffled among rows.

In: a teacher and the rows of a run. Out: a teacher that answers for another row.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from tutelage.align import logit_indices
from tutelage.errors import DataError
from tutelage.teacher import CachedTeacher
from tutelage.types import Batch, StudentRow, TeacherRow, TeacherSignal


class PermutedTeacher:
    """Gives every row the signal of another row with equally many targets.

    If a student learns as well from it as from the true signal, the gain was not distilled.
    """

    def __init__(self, teacher: CachedTeacher, rows: Sequence[StudentRow], *, seed: int) -> None:
        """Fix the permutation.

        Raises:
            DataError: If no row has a partner: nothing could be permuted.
        """
        self.teacher = teacher
        self.partner = derangement(rows, seed=seed)
        moved = sum(key != partner.key for key, partner in self.partner.items())
        if moved == 0:
            raise DataError(
                f"The permuted-teacher control needs at least two distinct rows with equally many targets, found "
                f"{len(rows)} rows without such a pair. Give more rows, or leave the control out."
            )

    def signal(self, batch: Batch) -> TeacherSignal:
        """Return the partners' signal at the partners' positions."""
        partners = [self.partner[row.key] for row in batch.teacher_rows]
        return self.teacher.signal(dataclasses.replace(batch, teacher_rows=partners))


def derangement(rows: Sequence[StudentRow], *, seed: int) -> dict[bytes, TeacherRow]:
    """Map each row's key to another teacher row: a seeded rotation within rows of equally many targets."""
    groups: defaultdict[int, dict[bytes, TeacherRow]] = defaultdict(dict)
    for row in rows:
        positions = logit_indices(row.target_mask)
        groups[len(positions)][row.teacher_key] = TeacherRow(row.ids, positions, row.teacher_key)
    partner = {}
    for size, members in groups.items():
        keys = list(members)
        order = np.random.default_rng([seed, size]).permutation(len(keys))
        for here, there in zip(order, np.roll(order, 1), strict=True):
            partner[keys[here]] = members[keys[there]]
    return partner
