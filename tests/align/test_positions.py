import numpy as np
import pytest

from tutelage.align import logit_indices
from tutelage.errors import AlignmentError


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
