"""The control's teacher: what it says about a row was said about another one."""

import numpy as np
import pytest
import torch

from tutelage.data.collate import collate, teacher_row
from tutelage.errors import DataError
from tutelage.experiment.control import PermutedTeacher, derangement, equal_targets
from tutelage.teacher import CachedTeacher
from tutelage.types import HiddenStates, Pooled, StudentRow, row_key

NUM_TARGETS = (1, 1, 2, 2, 3)  # of rows of 4, 5, .. tokens; the last has nobody to change places with


def student_rows() -> list[StudentRow]:
    rows = []
    for number, num_targets in enumerate(NUM_TARGETS):
        ids = np.arange(4 + number, dtype=np.int32) + 10 * number
        mask = np.zeros(len(ids), dtype=bool)
        mask[-num_targets:] = True
        rows.append(StudentRow(f"row/{number}", ids, mask, row_key(ids)))
    return rows


ROWS = student_rows()


class EveryOther(CachedTeacher):
    """A teacher of hidden states at every other token: the token's id is its state."""

    def __init__(self):
        self.column = self

    def positions_of(self, row):
        return np.arange(0, len(row.ids), 2)

    def signal(self, batch):
        tokens = [self.positions_of(row) for row in batch.teacher_rows]
        ids = np.concatenate([row.ids[own] for row, own in zip(batch.teacher_rows, tokens, strict=True)])
        return HiddenStates(3, torch.from_numpy(ids).float()[:, None], tokens)

    def num_tokens(self, rows):
        return {3: sum(len(self.positions_of(row)) for row in rows)}


class FirstIds(CachedTeacher):
    """A teacher of one vector per row: its first id."""

    def __init__(self):
        pass

    def signal(self, batch):
        return Pooled(3, torch.tensor([[float(row.ids[0])] for row in batch.teacher_rows]))


def partners(alike=equal_targets):
    return derangement(ROWS, seed=1, alike=alike)


def test_rows_with_equally_many_targets_change_places():
    partner = partners()
    assert partner[ROWS[0].teacher_key].key == ROWS[1].teacher_key
    assert partner[ROWS[3].teacher_key].key == ROWS[2].teacher_key
    assert partner[ROWS[4].teacher_key].key == ROWS[4].teacher_key


def test_for_hidden_states_any_row_may_be_a_partner():
    partner = partners(alike=None)
    assert all(key != other.key for key, other in partner.items())
    assert sorted(other.key for other in partner.values()) == sorted(partner)


def test_hidden_states_come_from_the_partner_at_the_same_relative_place_under_the_row_s_own_tokens():
    partner = partners(alike=None)
    teacher = PermutedTeacher(EveryOther(), partner)
    batch = collate(ROWS, pad_id=0)
    states = teacher.signal(batch)
    assert isinstance(states, HiddenStates)
    start = 0
    for row, tokens in zip(ROWS, states.tokens, strict=True):
        own, other = np.arange(0, len(row.ids), 2), partner[row.teacher_key]
        assert tokens.tolist() == own.tolist()
        said = other.ids[::2]
        expected = [said[i * len(said) // len(own)] for i in range(len(own))]
        assert states.hidden_PE[start : start + len(own), 0].tolist() == expected
        assert not set(expected) & set(row.ids.tolist())
        start += len(own)
    assert teacher.num_tokens([teacher_row(row) for row in ROWS]) == {3: start}


def test_a_row_s_states_do_not_depend_on_the_rows_beside_it():
    teacher = PermutedTeacher(EveryOther(), partners(alike=None))
    together = teacher.signal(collate(ROWS, pad_id=0))
    apart = [teacher.signal(collate([row], pad_id=0)) for row in ROWS]
    assert torch.equal(together.hidden_PE, torch.cat([each.hidden_PE for each in apart]))  # type: ignore[union-attr]


def test_pooled_vectors_are_the_partner_s():
    partner = partners(alike=None)
    pooled = PermutedTeacher(FirstIds(), partner).signal(collate(ROWS, pad_id=0))
    assert isinstance(pooled, Pooled)
    assert pooled.pooled_BE[:, 0].tolist() == [float(partner[row.teacher_key].ids[0]) for row in ROWS]


def test_rows_without_any_partner_are_refused():
    with pytest.raises(DataError, match="with equally many targets, found 2 rows"):
        derangement([ROWS[0], ROWS[4]], seed=1)
    with pytest.raises(DataError, match="two distinct rows, found 1 rows"):
        derangement(ROWS[:1], seed=1, alike=None)
