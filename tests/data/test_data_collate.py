import numpy as np
import pytest
import torch

from tutelage.data import collate
from tutelage.errors import AlignmentError
from tutelage.types import StudentRow, row_key

PAD = 0


def row(ids, targets, key="r"):
    ids = np.array(ids, dtype=np.int32)
    mask = np.zeros(len(ids), dtype=bool)
    mask[list(targets)] = True
    return StudentRow(key, ids, mask, row_key(ids))


ROWS = [row([11, 12, 13, 14], [2, 3], "a"), row([21, 22], [1], "b"), row([31, 32, 33], [2], "c")]


def test_padded_rows_are_real_tokens_then_padding():
    batch = collate(ROWS, pad_id=PAD)
    assert batch.input_ids.tolist() == [[11, 12, 13, 14], [21, 22, 0, 0], [31, 32, 33, 0]]
    assert batch.attention_mask is not None
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]]
    assert batch.position_ids[0].tolist() == [0, 1, 2, 3]


def test_packed_rows_are_one_line_whose_positions_restart():
    batch = collate(ROWS, pad_id=PAD, packed=True)
    assert batch.input_ids.tolist() == [[11, 12, 13, 14, 21, 22, 31, 32, 33]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 0, 1, 0, 1, 2]]
    assert batch.attention_mask is None


@pytest.mark.parametrize("packed", [False, True])
def test_each_supervised_position_is_the_token_before_its_label(packed):
    batch = collate(ROWS, pad_id=PAD, packed=packed)
    flat = batch.input_ids.flatten()
    assert batch.labels_N.tolist() == [13, 14, 22, 33]
    assert flat[batch.logit_index_N].tolist() == [12, 13, 21, 32]
    assert torch.equal(flat[batch.logit_index_N + 1], batch.labels_N)
    assert batch.num_targets == 4


@pytest.mark.parametrize("packed", [False, True])
def test_teacher_positions_are_logit_indices_within_the_row(packed):
    batch = collate(ROWS, pad_id=PAD, packed=packed)
    assert [each.positions.tolist() for each in batch.teacher_rows] == [[1, 2], [0], [1]]
    assert [each.key for each in batch.teacher_rows] == [each.teacher_key for each in ROWS]
    assert batch.item_keys == ["a", "b", "c"]
    assert batch.num_tokens == 9


def test_a_target_equal_to_the_padding_token_stays_supervised():
    batch = collate([row([5, PAD], [1]), row([5, 6, 7], [2])], pad_id=PAD)
    assert batch.labels_N.tolist() == [PAD, 7]


def test_a_first_token_cannot_be_a_target():
    with pytest.raises(AlignmentError):
        collate([row([5, 6], [0])], pad_id=PAD)


def test_a_row_without_targets_adds_no_position():
    batch = collate([row([5, 6], []), row([7, 8], [1])], pad_id=PAD)
    assert batch.labels_N.tolist() == [8]
    assert [len(each.positions) for each in batch.teacher_rows] == [0, 1]
