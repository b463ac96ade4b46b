import numpy as np
import pytest

from tutelage.align import Reader, check_ids, compare_vocabularies
from tutelage.errors import AlignmentError


class Words:
    def __init__(self, added: tuple[int, ...] = (), **ids: int):
        self.ids = ids
        self.added_tokens_decoder = dict.fromkeys(added, "")

    def get_vocab(self) -> dict[str, int]:
        return dict(self.ids)


NAMES = ("student S", "the teacher")


def compare(first, second):
    return compare_vocabularies(first, second, names=NAMES)


def test_equal_maps_have_no_difference_in_any_order():
    found = compare(Words(a=0, b=1), Words(b=1, a=0))
    assert (found.num_shared, found.foreign_to_first, found.foreign_to_second) == (2, {}, {})


def test_ordinary_tokens_under_other_ids_are_of_another_family_and_the_counts_are_true():
    with pytest.raises(AlignmentError) as found:
        compare(Words(a=0, b=1, c=2, d=3), Words(a=0, b=2, c=1))
    message = str(found.value)
    assert "student S (4 tokens) and of the teacher (3 tokens)" in message
    assert "of 3 ids that both have, 2 stand for another token; the first is id 1: 'b' and 'c'" in message


def test_vocabularies_that_share_nothing_are_of_another_family():
    with pytest.raises(AlignmentError, match="of 0 ids that both have, 0 stand for another"):
        compare(Words(a=0), Words(b=1))
    with pytest.raises(AlignmentError, match="of 1 ids that both have, 1 stand for another"):
        compare(Words(added=(0,), a=0), Words(b=0))


def test_tokens_that_one_side_lacks_are_counted_and_named():
    found = compare(Words(a=0, b=1, extra=2), Words(a=0, b=1, other=7))
    assert found.num_shared == 2
    assert (found.foreign_to_first, found.foreign_to_second) == ({7: "other"}, {2: "extra"})


def test_a_renamed_reserved_token_differs_and_a_renamed_ordinary_one_is_another_family():
    found = compare(Words(added=(2,), a=0, b=1, reserved=2), Words(added=(2,), a=0, b=1, think=2))
    assert found.num_shared == 2
    assert (found.foreign_to_first, found.foreign_to_second) == ({2: "think"}, {2: "reserved"})
    with pytest.raises(AlignmentError, match="two families"):
        compare(Words(a=0, b=1, c=2), Words(a=0, b=1, d=2))


def test_a_reserved_token_may_move():
    """Llama 3.1 gave two reserved ids names, and the reserved names moved up."""
    found = compare(Words(added=(2, 3), a=0, b=1, r0=2, r1=3), Words(added=(2, 3, 4), a=0, b=1, pad=2, r0=3, r1=4))
    assert found.foreign_to_first == {2: "pad", 3: "r0", 4: "r1"}


def rows(*ids):
    return [(f"row {number}", np.array(own, dtype=np.int32)) for number, own in enumerate(ids)]


def test_a_reader_passes_rows_that_use_none_of_the_foreign_tokens():
    Reader("student S", 9, {7: "other"}).check(rows([0, 1], [], [8]), Words(a=0, b=1, other=7))


def test_a_reader_names_rows_and_tokens_that_it_does_not_have():
    reader = Reader("student S", 9, {7: "other"}, "Do this.")
    with pytest.raises(AlignmentError) as found:
        reader.check(rows([0, 7], [1], [9, 7, 7], [10]), Words(a=0, b=1, other=7, new=9))
    assert str(found.value) == (
        "3 rows (row 0, row 2, row 3) with tokens that student S does not have: 'other' (id 7, 2 rows), 'new' (id 9, "
        "1 row), id 10. Do this."
    )


def test_a_negative_id_is_not_read():
    with pytest.raises(AlignmentError, match="id -100"):
        Reader("student S", 9, {}).check(rows([-100]), Words(a=0))


def test_known_ids_pass():
    check_ids(np.array([[0, 4], [2, 3]]), 5, "row 0")
    check_ids(np.array([], dtype=np.int32), 5, "row 0")


@pytest.mark.parametrize(("ids", "found"), [([1, 5], "token id 5 at index 1"), ([-100, 2], "token id -100 at index 0")])
def test_a_foreign_id_is_refused_with_its_place(ids, found):
    with pytest.raises(AlignmentError, match=f"row 17 of train.jsonl: {found}; expected ids from 0 to 4"):
        check_ids(np.array(ids), 5, "row 17 of train.jsonl")
