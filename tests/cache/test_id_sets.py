"""Sets of ids and their counts come back from any code, whatever the vocabulary."""

import numpy as np
import pytest

from tutelage.cache.bits import BitReader, pack_bits
from tutelage.cache.count_code import count_bits, read_counts
from tutelage.cache.id_classes import FINENESS_BITS, RowCode, base_classes, choose_code
from tutelage.cache.id_sets import read_row_codes, read_sets, row_code_bits, set_bits
from tutelage.errors import CacheError

VOCABULARIES = [1, 2, 3, 255, 257, 49_152, 131_072, 262_145, 2**31]


def random_sets(generator: np.random.Generator, num_sets: int, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Sets of 1 to 30 ids, most of them small ones, so that some occur often."""
    sets = []
    for _ in range(num_sets):
        spread = vocab_size ** generator.random(int(generator.integers(1, 31)))
        sets.append(np.unique(np.minimum(spread.astype(np.int64) - 1, vocab_size - 1)))
    return np.concatenate(sets), np.array([len(part) for part in sets], dtype=np.int64)


def round_trip(ids: np.ndarray, sizes: np.ndarray, code: RowCode, vocab_size: int) -> np.ndarray:
    block = pack_bits([*row_code_bits(code, vocab_size), *set_bits(ids, sizes, code, vocab_size)])
    reader = BitReader([np.frombuffer(block, np.uint8)])
    num_sets = np.array([len(sizes)])
    found = read_sets(reader, sizes, num_sets, read_row_codes(reader, num_sets, vocab_size), vocab_size)
    reader.finish()
    return found


def sorted_sets(ids: np.ndarray, sizes: np.ndarray) -> list[list[int]]:
    return [sorted(part.tolist()) for part in np.split(ids, np.cumsum(sizes)[:-1])]


@pytest.mark.parametrize("fineness", range(1 << FINENESS_BITS))
@pytest.mark.parametrize("vocab_size", VOCABULARIES)
def test_base_classes_cover_the_vocabulary_once(vocab_size: int, fineness: int) -> None:
    classes = base_classes(vocab_size, fineness)
    ends = classes.starts + (1 << classes.widths)
    assert classes.starts[0] == 0
    assert np.array_equal(classes.starts[1:], ends[:-1])
    assert vocab_size <= ends[-1] <= 2 * vocab_size
    ids = np.array([0, vocab_size // 2, vocab_size - 1])
    found = classes.find(ids)
    assert ((classes.starts[found] <= ids) & (ids < ends[found])).all()


@pytest.mark.parametrize("vocab_size", VOCABULARIES)
def test_sets_come_back_under_the_chosen_code(vocab_size: int) -> None:
    generator = np.random.default_rng(vocab_size)
    for num_sets in (1, 2, 60):
        ids, sizes = random_sets(generator, num_sets, vocab_size)
        code = choose_code(ids, num_sets, vocab_size)
        assert sorted_sets(round_trip(ids, sizes, code, vocab_size), sizes) == sorted_sets(ids, sizes)


def test_sets_come_back_under_every_fineness_with_and_without_a_dictionary() -> None:
    generator = np.random.default_rng(5)
    ids, sizes = random_sets(generator, 40, 5000)
    dictionary = generator.permutation(np.unique(ids))[:7]
    for fineness in range(1 << FINENESS_BITS):
        for widths, entries in (([], dictionary[:0]), ([0, 1, 2], dictionary)):
            code = RowCode(fineness, np.array(widths, dtype=np.int64), entries)
            assert sorted_sets(round_trip(ids, sizes, code, 5000), sizes) == sorted_sets(ids, sizes)


def test_a_dictionary_is_chosen_where_ids_repeat_and_left_out_where_they_do_not() -> None:
    generator = np.random.default_rng(0)
    often = generator.choice(49_152, 10, replace=False)
    sets = [np.unique(np.concatenate([generator.choice(often, 5), generator.choice(49_152, 3)])) for _ in range(200)]
    code = choose_code(np.concatenate(sets), len(sets), 49_152)
    assert set(often) <= set(code.dictionary)
    assert len(code.dictionary) == (1 << code.dictionary_widths).sum()
    alone = np.sort(generator.choice(49_152, 400, replace=False))
    assert len(choose_code(alone, 40, 49_152).dictionary) == 0


def test_the_code_of_a_row_does_not_depend_on_the_order_of_its_sets() -> None:
    generator = np.random.default_rng(9)
    ids, sizes = random_sets(generator, 100, 49_152)
    first = choose_code(ids, len(sizes), 49_152)
    second = choose_code(generator.permutation(ids), len(sizes), 49_152)
    assert first.fineness == second.fineness
    assert np.array_equal(first.dictionary, second.dictionary)
    assert np.array_equal(first.dictionary_widths, second.dictionary_widths)


def test_sets_of_likely_ids_take_few_bits() -> None:
    sizes = np.full(500, 12)
    ids = np.concatenate([np.arange(12)] * 500)
    code = choose_code(ids, 500, 49_152)
    assert sum(len(bits) for bits in set_bits(ids, sizes, code, 49_152)) < 3.5 * len(ids)


def test_marks_or_places_that_no_set_has_are_refused() -> None:
    def read_to_the_end(marks: np.ndarray, places: np.ndarray) -> None:
        reader = BitReader([np.frombuffer(pack_bits([marks, places]), np.uint8)])
        read_sets(reader, np.array([1, 1]), np.array([2]), [code], 5000)
        reader.finish()

    code = RowCode(0, np.empty(0, np.int64), np.empty(0, np.int64))
    marks, places = set_bits(np.array([3, 4000]), np.array([1, 1]), code, 5000)
    read_to_the_end(marks, places)
    both_in_the_first_set = np.array([True, True, False, False])
    for wrong in (np.zeros_like(marks), np.ones_like(marks), both_in_the_first_set):
        with pytest.raises(CacheError):
            read_to_the_end(wrong, places)
    with pytest.raises(CacheError):  # an id beyond the vocabulary
        read_to_the_end(marks, np.ones_like(places))


@pytest.mark.parametrize("num_draws", [1, 2, 25, 1000, 2**30])
def test_counts_come_back_and_the_last_of_a_set_is_free(num_draws: int) -> None:
    generator = np.random.default_rng(num_draws)
    sizes = generator.integers(1, min(num_draws, 20) + 1, 50)
    parts = []
    for size in sizes:
        cuts = np.sort(generator.integers(0, num_draws - size + 1, size - 1))
        parts.append(np.diff(np.concatenate([[0], cuts, [num_draws - size]])) + 1)
    counts = np.concatenate(parts)
    sections = count_bits(counts, sizes)
    reader = BitReader([np.frombuffer(pack_bits(sections), np.uint8)])
    assert read_counts(reader, sizes, np.array([50]), num_draws).tolist() == counts.tolist()
    reader.finish()
    assert not len(np.concatenate(count_bits(np.array([7, 7]), np.array([1, 1]))))


def test_counts_that_exceed_the_draws_are_refused() -> None:
    sizes = np.array([2, 2])
    block = np.frombuffer(pack_bits(count_bits(np.array([6, 1, 3, 4]), sizes)), np.uint8)
    with pytest.raises(CacheError):
        read_counts(BitReader([block]), sizes, np.array([2]), 6)
