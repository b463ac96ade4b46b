import numpy as np
import pytest

from tutelage.align import check_ids, check_same_tokenizer
from tutelage.errors import AlignmentError


class Words:
    def __init__(self, **ids: int):
        self.ids = ids

    def get_vocab(self) -> dict[str, int]:
        return dict(self.ids)


def test_equal_maps_pass_in_any_order():
    check_same_tokenizer(Words(a=0, b=1), Words(b=1, a=0))


def test_shifted_ids_are_refused_and_the_first_differing_token_is_named():
    with pytest.raises(AlignmentError, match=r"2 of 3 tokens; the first is 'b': student id 1, teacher id 2"):
        check_same_tokenizer(Words(a=0, b=1, c=2), Words(a=0, b=2, c=1))


def test_a_token_that_one_side_lacks_is_refused():
    with pytest.raises(AlignmentError, match="'extra': student id 2, teacher id none"):
        check_same_tokenizer(Words(a=0, b=1, extra=2), Words(a=0, b=1))
    with pytest.raises(AlignmentError, match="'extra': student id none, teacher id 2"):
        check_same_tokenizer(Words(a=0, b=1), Words(a=0, b=1, extra=2))


def test_known_ids_pass():
    check_ids(np.array([[0, 4], [2, 3]]), 5, "row 0")
    check_ids(np.array([], dtype=np.int32), 5, "row 0")


@pytest.mark.parametrize(("ids", "found"), [([1, 5], "token id 5 at index 1"), ([-100, 2], "token id -100 at index 0")])
def test_a_foreign_id_is_refused_with_its_place(ids, found):
    with pytest.raises(AlignmentError, match=f"row 17 of train.jsonl: {found}; expected ids from 0 to 4"):
        check_ids(np.array(ids), 5, "row 17 of train.jsonl")
