"""Random samples come back as they were drawn, and what no teacher draws is refused."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_signals import TEACHER, damaged_block_of, draw, num_positions, random_rows, random_tensors

from tutelage.cache import CacheReader, SampledColumn, ShardWriter, column_from_spec, find_column
from tutelage.cache.column import TensorDict
from tutelage.cache.planes import pack_planes
from tutelage.errors import CacheError, CapabilityError, NumericsError

PLAIN = SampledColumn(12, 1, 0, 97)
WITH_HEAD = SampledColumn(9, 2.5, 3, 70_000, head_k=4, logprob_bits=6)


def blocks_of(column: SampledColumn, tensors: TensorDict, counts: list[int]) -> list[np.ndarray]:
    return [np.frombuffer(block, np.uint8) for block in column.encode_rows(tensors, np.array(counts))]


@pytest.mark.parametrize("column", [PLAIN, WITH_HEAD], ids=lambda column: column.name)
def test_a_sampled_column_survives_its_spec_as_json(column: SampledColumn) -> None:
    assert column_from_spec(json.loads(json.dumps(column.spec))) == column


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(0, 9), max_size=5),
    num_draws=st.sampled_from([1, 2, 7, 25, 300]),
    head_k=st.integers(0, 5),
    vocab_size=st.sampled_from([6, 97, 3000]),
    logprob_bits=st.sampled_from([0, 5, 12]),
    seed=st.integers(0, 1000),
)
def test_ids_and_counts_come_back_exactly(
    counts: list[int], num_draws: int, head_k: int, vocab_size: int, logprob_bits: int, seed: int
) -> None:
    column = SampledColumn(num_draws, 1, 0, vocab_size, head_k, logprob_bits)
    tensors = random_tensors(column, sum(counts), seed=seed)
    assert column.first_problem(tensors) is None
    blocks = blocks_of(column, tensors, counts)
    sizes = np.array([len(block) for block in blocks], dtype=np.int64)
    assert column.fits(sizes, np.array(counts, dtype=np.int64))
    decoded = column.decode_rows(blocks, np.array(counts, dtype=np.int64))
    assert {name: tensor.dtype for name, tensor in decoded.items()} == {
        "ids_NK": torch.int64,
        "counts_NK": torch.int64,
        "logprobs_NK": torch.float32,
    }
    assert decoded["ids_NK"].equal(tensors["ids_NK"])
    assert decoded["counts_NK"].equal(tensors["counts_NK"])
    head_NH = tensors["logprobs_NK"][:, :head_k]
    assert ((decoded["logprobs_NK"][:, :head_k] - head_NH).abs() <= head_NH.abs() * 2**-11 + 2**-25).all()
    parts = column.count_parts(blocks, np.array(counts, dtype=np.int64))
    assert sum(parts.values()) == sizes.sum()
    assert min(parts.values(), default=0) >= 0


def test_without_bits_of_their_own_drawn_ids_come_back_with_the_mean_of_all_draws() -> None:
    tensors = random_tensors(PLAIN, 200)
    decoded = PLAIN.decode_rows(blocks_of(PLAIN, tensors, [200]), np.array([200]))
    found_N, exact_N = ((t["logprobs_NK"] * t["counts_NK"]).sum(dim=1) / 12 for t in (decoded, tensors))
    step = 8 / (2**12 - 1)
    assert ((found_N - exact_N).abs() <= step * exact_N.abs().sqrt() + step**2 / 4 + 1e-5).all()
    assert (found_N != exact_N).any()


def test_with_bits_of_their_own_every_log_probability_comes_back_within_its_bound() -> None:
    column = SampledColumn(12, 1, 0, 97, logprob_bits=6)
    tensors = random_tensors(column, 200)
    decoded = column.decode_rows(blocks_of(column, tensors, [200]), np.array([200]))
    step = 8 / 63
    error_NK = (decoded["logprobs_NK"] - tensors["logprobs_NK"]).abs()
    bound_NK = step * tensors["logprobs_NK"].abs().sqrt() + step**2 / 4 + 1e-5
    assert (error_NK <= bound_NK)[tensors["counts_NK"] > 0].all()
    assert (decoded["logprobs_NK"][tensors["counts_NK"] == 0] == 0).all()


@pytest.mark.parametrize("vocab_size", [1, 2**16, 2**16 + 1, 2**31])
def test_the_last_id_of_any_vocabulary_is_stored(vocab_size: int) -> None:
    column = SampledColumn(3, 1, 0, vocab_size)
    tensors = {
        "ids_NK": torch.tensor([[vocab_size - 1]] * 40),
        "counts_NK": torch.tensor([[3]] * 40),
        "logprobs_NK": torch.zeros(40, 1),
    }
    decoded = column.decode_rows(blocks_of(column, tensors, [40]), np.array([40]))
    assert all(decoded[name].equal(tensors[name]) for name in tensors)


def test_a_peaked_teacher_costs_two_bytes_per_position() -> None:
    column = SampledColumn(25, 1, 0, 49_152)
    tensors = {
        "ids_NK": torch.full((1000, 1), 314),
        "counts_NK": torch.full((1000, 1), 25),
        "logprobs_NK": torch.full((1000, 1), -1e-4),
    }
    (block,) = blocks_of(column, tensors, [1000])
    assert len(block) / 1000 < 3


def test_a_row_is_encoded_without_regard_to_its_neighbours() -> None:
    tensors = random_tensors(WITH_HEAD, 30)
    together = WITH_HEAD.encode_rows(tensors, np.array([10, 20]))
    last = {name: tensor[10:] for name, tensor in tensors.items()}
    assert WITH_HEAD.encode_rows(last, np.array([20])) == together[1:]


def test_the_reader_gives_back_subsets_in_any_order(tmp_path) -> None:
    rows = random_rows(12)
    tensors = random_tensors(PLAIN, num_positions(rows))
    ShardWriter(tmp_path, TEACHER, PLAIN).write_shard(rows, tensors)
    reader = CacheReader(tmp_path, TEACHER, PLAIN)
    starts = np.cumsum([0, *(len(row.positions) for row in rows)])
    chosen = [7, 2, 7]
    found = reader.read([rows[i].key for i in chosen], [rows[i].positions[-1:] for i in chosen])
    expected = torch.from_numpy(np.array([starts[i + 1] - 1 for i in chosen]))
    width = found["ids_NK"].shape[1]
    assert found["ids_NK"].equal(tensors["ids_NK"][expected, :width])
    assert found["counts_NK"].equal(tensors["counts_NK"][expected, :width])
    assert (tensors["counts_NK"][expected, width:] == 0).all()


@pytest.mark.parametrize("column", [PLAIN, WITH_HEAD, SampledColumn(40, 1, 0, 5000)], ids=lambda column: column.name)
def test_damaged_blocks_decode_to_something_else_or_to_a_cache_error(column: SampledColumn) -> None:
    generator = np.random.default_rng(0)
    blocks = blocks_of(column, random_tensors(column, 120), [60, 1, 59])
    counts = np.array([60, 1, 59])
    refused = 0
    for _ in range(400):
        changed = list(blocks)
        number = int(generator.integers(0, 3))
        changed[number] = damaged_block_of(blocks[number], generator)
        try:
            decoded = column.decode_rows(changed, counts)
        except CacheError:
            refused += 1
            continue
        ids_NJ, drawn_NJ = decoded["ids_NK"][:, column.head_k :], decoded["counts_NK"][:, column.head_k :] > 0
        assert int(decoded["ids_NK"].max()) < column.vocab_size
        assert ((ids_NJ.diff(dim=1) > 0) | ~drawn_NJ[:, 1:]).all()
        assert (decoded["counts_NK"].sum(dim=1) == column.num_draws).all()
    assert refused > 200


def block_of(num_ids: int, *planes: list[int]) -> np.ndarray:
    return np.frombuffer(num_ids.to_bytes(4, "little") + pack_planes(map(bytes, planes)), np.uint8)


LOW, HIGH = [0, 0], [0, 0]  # the two bytes of the mean of each of two positions


def test_a_block_is_read_as_counts_gaps_and_means() -> None:
    decoded = PLAIN.decode_rows([block_of(3, [12, 4, 8], [5, 0, 95], LOW, HIGH)], np.array([2]))
    assert decoded["ids_NK"].tolist() == [[5, 0], [0, 96]]
    assert decoded["counts_NK"].tolist() == [[12, 0], [4, 8]]


@pytest.mark.parametrize(
    ("num_ids", "planes"),
    [
        (3, ([12, 4, 7], [5, 0, 95], LOW, HIGH)),
        (3, ([12, 0, 12], [5, 0, 95], LOW, HIGH)),
        (3, ([11, 5, 8], [5, 0, 95], LOW, HIGH)),
        (4, ([12, 4, 8, 12], [5, 0, 95, 0], LOW, HIGH)),
        (3, ([12, 4, 8], [5, 0, 96], LOW, HIGH)),
        (3, ([12, 4, 8], [5, 0, 95], LOW, [0, 16])),
        (1, ([12], [5], LOW, HIGH)),
        (25, ([1] * 25, [0] * 25, LOW, HIGH)),
        (2**32 - 1, ([12, 4, 8], [5, 0, 95], LOW, HIGH)),
        (3, ([12, 4, 8], [5, 0, 95], LOW, [0, 0, 0])),
        (3, ([12, 4, 8], [5, 0, 95], LOW, [0])),
    ],
    ids=[
        "too few draws", "a count of 0", "counts across positions", "a position too many", "an id beyond",
        "a mean that has no code", "fewer ids than positions", "more ids than draws", "a forged number", "a byte left",
        "a byte short",
    ],
)  # fmt: skip
def test_a_block_that_no_writer_made_is_refused(num_ids: int, planes: tuple[list[int], ...]) -> None:
    with pytest.raises(CacheError, match="does not decode"):
        PLAIN.decode_rows([block_of(num_ids, *planes)], np.array([2]))


def test_draws_that_end_in_the_next_row_are_refused() -> None:
    blocks = [block_of(2, [12, 4], [5, 0], [0], [0]), block_of(2, [8, 12], [95, 0], LOW, HIGH)]
    with pytest.raises(CacheError, match="does not decode"):
        PLAIN.decode_rows(blocks, np.array([1, 2]))


def test_blocks_of_impossible_sizes_do_not_fit() -> None:
    assert PLAIN.fits(np.array([0, 40]), np.array([0, 3]))
    assert not PLAIN.fits(np.array([1]), np.array([0]))
    assert not PLAIN.fits(np.array([5]), np.array([3]))
    assert not PLAIN.fits(np.array([4000]), np.array([3]))


BAD = {
    "nan": ("logprobs_NK", 2, float("nan"), "not finite"),
    "positive": ("logprobs_NK", 2, 0.1, "above 0"),
    "mass": ("logprobs_NK", 2, -1e-3, "sum to more than 1"),
    "unsorted head": ("logprobs_NK", 0, -9.0, "not sorted"),
    "count": ("counts_NK", 2, 9, "do not sum to 12"),
    "negative count": ("counts_NK", 2, -3, "negative"),
    "count in the head": ("counts_NK", 0, 1, "do not sum"),
    "id beyond": ("ids_NK", 3, 97, "outside of"),
    "negative id": ("ids_NK", 2, -1, "outside of"),
    "drawn twice": ("ids_NK", 3, 40, "occurs twice"),
    "drawn from the head": ("ids_NK", 2, 5, "occurs twice"),
    "not ascending": ("ids_NK", 3, 30, "not ascending"),
    "id in the padding": ("ids_NK", 4, 3, "padding"),
    "log-probability in the padding": ("logprobs_NK", 4, -1.0, "padding"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_no_teacher_draws_is_found_at_its_position(case: str) -> None:
    column = SampledColumn(12, 1, 0, 97, head_k=2)
    row = {
        "ids_NK": torch.tensor([[9, 5, 40, 60, 0]]),
        "counts_NK": torch.tensor([[0, 0, 4, 8, 0]]),
        "logprobs_NK": torch.tensor([[-0.5, -2.0, -3.0, -2.5, 0.0]]),
    }
    tensors = {name: tensor.repeat(4, 1) for name, tensor in row.items()}
    assert column.first_problem(tensors) is None
    name, place, value, reason = BAD[case]
    tensors[name][2, place] = value
    position, found = column.first_problem(tensors) or (None, "")
    assert position == 2
    assert reason in found


def test_draws_after_padding_are_found() -> None:
    tensors = {
        "ids_NK": torch.tensor([[4, 0, 60]]),
        "counts_NK": torch.tensor([[4, 0, 8]]),
        "logprobs_NK": torch.tensor([[-3.0, 0.0, -2.5]]),
    }
    assert PLAIN.first_problem(tensors) == (0, "the drawn ids do not follow the exact head")


def test_an_exact_head_below_float16_is_refused() -> None:
    column = SampledColumn(1, 1, 0, 97, head_k=1)
    tensors = {
        "ids_NK": torch.tensor([[1, 2]]),
        "counts_NK": torch.tensor([[0, 1]]),
        "logprobs_NK": torch.tensor([[-70_000.0, -1.0]]),
    }
    with pytest.raises(NumericsError, match="float16"):
        column.encode_rows(tensors, np.array([1]))


@pytest.mark.parametrize(
    ("settings_", "reason"),
    [
        ({"num_draws": 0}, "0 draws"),
        ({"head_k": 97}, "exact head of 97"),
        ({"head_k": -1}, "exact head of -1"),
        ({"temperature": 0}, "temperature"),
        ({"logprob_bits": 17}, "logprob_bits"),
    ],
)
def test_impossible_sampled_columns_are_refused(settings_: dict, reason: str) -> None:
    with pytest.raises(CapabilityError, match=reason):
        SampledColumn(**{"num_draws": 12, "temperature": 1, "seed": 0, "vocab_size": 97, **settings_})


def test_names_of_sampled_columns_differ_wherever_specs_differ() -> None:
    plain = {"num_draws": 12, "temperature": 1, "seed": 0, "vocab_size": 97}
    changes = [{}, {"num_draws": 13}, {"temperature": 1.5}, {"seed": 1}, {"vocab_size": 98}, {"head_k": 1}]
    columns = [SampledColumn(**{**plain, **change}) for change in [*changes, {"logprob_bits": 4}]]
    assert len({column.name for column in columns}) == len(columns)
    assert not any(a.serves(b) for a in columns for b in columns if a != b)


def test_of_several_draws_none_is_chosen_silently(tmp_path) -> None:
    rows = random_rows(3)
    columns = [SampledColumn(5, 1, 0, 97), SampledColumn(5, 1, 1, 97)]
    for number, column in enumerate(columns):
        ShardWriter(tmp_path, TEACHER, column).write_shard(rows, random_tensors(column, num_positions(rows)))
        if number == 0:
            assert find_column(tmp_path, TEACHER, kind="sampled") == column
    with pytest.raises(CacheError, match="several sampled signals"):
        find_column(tmp_path, TEACHER, kind="sampled")


def test_drawing_helper_draws_from_the_tail_only() -> None:
    column = SampledColumn(50, 1, 0, 20, head_k=3)
    tensors = draw(torch.randn(5, 20).log_softmax(dim=1), column, torch.Generator().manual_seed(1))
    assert (tensors["counts_NK"][:, :3] == 0).all()
    assert (tensors["counts_NK"].sum(dim=1) == 50).all()
