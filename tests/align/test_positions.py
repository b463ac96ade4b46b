import numpy as np
import pytest

from tutelage.align import logit_indices, row_places, token_index
from tutelage.data.collate import collate
from tutelage.errors import AlignmentError
from tutelage.types import StudentRow


def test_the_logit_index_is_the_target_index_minus_one():
    mask = np.array([False, False, True, True, False, True])
    indices = logit_indices(mask)
    assert indices.dtype == np.int64
    assert indices.tolist() == [1, 2, 4]


def test_the_logit_at_an_index_predicts_the_target():
    ids = np.array([11, 12, 13, 14])
    mask = np.array([False, True, False, True])
    next_token = np.append(ids[1:], -1)  # what a causal model predicts at each position
    assert (next_token[logit_indices(mask)] == ids[mask]).all()


@pytest.mark.parametrize("length", [0, 1, 5])
def test_no_target_gives_no_index(length):
    assert logit_indices(np.zeros(length, dtype=bool)).shape == (0,)


def test_a_supervised_first_token_is_refused():
    with pytest.raises(AlignmentError, match="token 0 is marked as a target"):
        logit_indices(np.array([True, True]))


@pytest.mark.parametrize("mask", [np.array([0, 1]), np.zeros((2, 3), dtype=bool), np.array([0.0, 1.0])])
def test_a_mask_of_another_kind_is_refused(mask):
    with pytest.raises(AlignmentError, match="one-dimensional bool"):
        logit_indices(mask)


def rows_of(lengths):
    return [
        StudentRow(f"row/{number}", np.arange(length, dtype=np.int32), np.zeros(length, dtype=bool), b"")
        for number, length in enumerate(lengths)
    ]


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_a_token_of_a_row_is_found_in_the_grid_in_either_layout(packed):
    rows = rows_of([4, 2, 5])  # a token's id is its number in the row
    batch = collate(rows, pad_id=9, packed=packed)
    tokens = [np.array([1, 3]), np.array([0]), np.array([0, 2, 4])]
    index = token_index(batch, tokens)
    assert batch.input_ids.flatten()[index].tolist() == np.concatenate(tokens).tolist()
    assert index.tolist() == ([1, 3, 4, 6, 8, 10] if packed else [1, 3, 5, 10, 12, 14])


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_a_token_beyond_its_row_is_refused_with_the_row(packed):
    batch = collate(rows_of([4, 2, 5]), pad_id=9, packed=packed)
    with pytest.raises(AlignmentError, match=r"Token 2 of row row/1 was chosen, but the student reads 2 tokens"):
        token_index(batch, [np.array([3]), np.array([0, 2]), np.array([0])])


def test_tokens_of_other_rows_than_the_batch_s_are_refused():
    batch = collate(rows_of([4, 2]), pad_id=9)
    with pytest.raises(AlignmentError, match="Tokens of 1 rows were chosen, but the batch has 2 rows"):
        token_index(batch, [np.array([0])])


def test_a_row_may_have_no_token_at_all():
    batch = collate(rows_of([4, 2]), pad_id=9)
    assert token_index(batch, [np.array([], dtype=np.int64), np.array([1])]).tolist() == [5]
    assert row_places(batch)[1].tolist() == [4, 2]
