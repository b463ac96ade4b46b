"""The control that must lose: the same signal, shuffled among rows.

In: a teacher and the rows of a run. Out: a teacher that answers for another row.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from tutelage.data.collate import teacher_row
from tutelage.errors import DataError
from tutelage.teacher import CachedTeacher
from tutelage.types import Batch, HiddenStates, StudentRow, TeacherRow, TeacherSignal


class PermutedTeacher:
    """Gives every row the signal of another row, its partner.

    If a student learns as well from it as from the true signal, the gain was not distilled. Hidden states come from
    other tokens than the row's own: the i-th of a row's p tokens gets the state of its partner's token at the same
    relative place, ``i * p' // p``. The number of tokens, and so what divides the loss, stays the row's own.
    """

    def __init__(self, teacher: CachedTeacher, partner: Mapping[bytes, TeacherRow]) -> None:
        """Shuffle a teacher.

        Args:
            teacher: Of any signal.
            partner: From :func:`derangement`; a distribution needs partners with equally many targets.
        """
        self.teacher = teacher
        self.partner = partner

    def signal(self, batch: Batch) -> TeacherSignal:
        """Return the partners' signal at the partners' positions, or at the rows' own tokens."""
        partners = [self.partner[row.key] for row in batch.teacher_rows]
        signal = self.teacher.signal(dataclasses.replace(batch, teacher_rows=partners))
        return self._at_own_tokens(signal, batch) if isinstance(signal, HiddenStates) else signal

    def num_tokens(self, rows: Sequence[TeacherRow]) -> dict[int, int]:
        """Count the tokens of some rows whose hidden states are given: their own, not their partners'."""
        return self.teacher.num_tokens(rows)

    def _at_own_tokens(self, states: HiddenStates, batch: Batch) -> HiddenStates:
        own = [self.teacher.column.positions_of(row) for row in batch.teacher_rows]
        counts = [len(tokens) for tokens in states.tokens]
        starts = np.cumsum([0, *counts])[:-1]
        chosen = [
            start + np.arange(len(tokens)) * count // len(tokens)
            for start, count, tokens in zip(starts, counts, own, strict=True)
        ]
        index_P = torch.from_numpy(np.concatenate(chosen)).to(states.hidden_PE.device)
        return HiddenStates(states.layer, states.hidden_PE[index_P], own)


def equal_targets(row: TeacherRow) -> int:
    """Let rows with equally many targets be partners: only then can distributions change places one by one."""
    return len(row.positions)


def derangement(
    rows: Sequence[StudentRow], *, seed: int, alike: Callable[[TeacherRow], int] | None = equal_targets
) -> dict[bytes, TeacherRow]:
    """Map each row's key to another teacher row: a seeded rotation among rows that are alike.

    Args:
        rows: Of a run.
        seed: Of the rotation.
        alike: Rows for which it is equal may be partners; None: any two rows.

    Raises:
        DataError: If no row has a partner: nothing could be permuted.
    """
    groups: defaultdict[int, dict[bytes, TeacherRow]] = defaultdict(dict)
    for row in rows:
        asked = teacher_row(row)
        groups[0 if alike is None else alike(asked)][row.teacher_key] = asked
    partner = {}
    for size, members in groups.items():
        keys = list(members)
        order = np.random.default_rng([seed, size]).permutation(len(keys))
        for here, there in zip(order, np.roll(order, 1), strict=True):
            partner[keys[here]] = members[keys[there]]
    if all(key == other.key for key, other in partner.items()):
        kind = " with equally many targets" if alike is equal_targets else ""
        raise DataError(
            f"The permuted-teacher control needs at least two distinct rows{kind}, found {len(rows)} rows without such "
            "a pair. Give more rows, or leave the control out."
        )
    return partner
