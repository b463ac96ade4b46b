"""What goes into a column comes out of it, and what must not go in is refused."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_signals import damaged_block_of, random_tensors

from tutelage.cache import (
    COLUMNS,
    ClassScoresColumn,
    FinalHiddenColumn,
    FixedColumn,
    SampledColumn,
    TopKColumn,
    column_from_spec,
)
from tutelage.cache.topk import require_fp16_bound
from tutelage.errors import CacheError, CapabilityError, NumericsError

COLUMN_EXAMPLES: list[FixedColumn] = [
    FinalHiddenColumn(8, "fp32"),
    FinalHiddenColumn(7, "bf16"),
    FinalHiddenColumn(5, "fp16"),
    TopKColumn(4, (1, 2.5), 97),
    TopKColumn(3, (1,), 97, "fp16"),
    TopKColumn(97, (0.5, 4), 97),
    TopKColumn(2, (8,), 70_000),
    TopKColumn(6, (1, 2), 97, "q8"),
    TopKColumn(5, (1,), 70_000, "q8"),
    ClassScoresColumn((5, 9, 3)),
]


@pytest.mark.parametrize("column", COLUMN_EXAMPLES, ids=lambda column: column.name)
def test_a_column_survives_its_spec_as_json(column: FixedColumn) -> None:
    assert column_from_spec(json.loads(json.dumps(column.spec))) == column


@pytest.mark.parametrize("column", COLUMN_EXAMPLES, ids=lambda column: column.name)
def test_records_have_the_stated_bytes_and_encode_again_to_the_same(column: FixedColumn) -> None:
    records = column.encode(random_tensors(column, 11))
    assert records.dtype == np.uint8
    assert records.shape == (11, column.stride)
    assert np.array_equal(column.encode(column.decode(records)), records)


def test_names_differ_wherever_specs_differ() -> None:
    columns = [
        *COLUMN_EXAMPLES,
        TopKColumn(4, (1, 2.500001), 97),
        TopKColumn(4, (1, 2.5), 98),
        ClassScoresColumn((5, 3, 9)),
    ]
    assert len({column.name for column in columns}) == len(columns)


def test_every_registered_kind_has_an_example() -> None:
    elsewhere = {"sampled", "hidden", "pooled", "sequences"}  # in tests of their own
    assert {column.kind for column in COLUMN_EXAMPLES} | elsewhere == set(COLUMNS)


@pytest.mark.parametrize(("dtype", "torch_dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_hidden_states_of_the_stored_dtype_come_back_bit_for_bit(dtype: str, torch_dtype: torch.dtype) -> None:
    hidden_NE = torch.randn(50, 8).mul(100).to(torch_dtype)
    column = FinalHiddenColumn(8, dtype)
    assert torch.equal(column.decode(column.encode({"hidden_NE": hidden_NE}))["hidden_NE"], hidden_NE)


def test_float32_hidden_states_stored_as_bf16_are_rounded_to_nearest() -> None:
    hidden_NE = torch.randn(50, 8)
    column = FinalHiddenColumn(8, "bf16")
    decoded_NE = column.decode(column.encode({"hidden_NE": hidden_NE}))["hidden_NE"].float()
    assert not torch.equal(decoded_NE, hidden_NE)
    assert ((decoded_NE - hidden_NE).abs() <= hidden_NE.abs() * 2**-8).all()


@settings(max_examples=60, deadline=None)
@given(
    num_positions=st.integers(0, 9),
    k=st.integers(1, 30),
    temperatures=st.lists(st.sampled_from([0.5, 1.0, 2.0, 4.0]), min_size=1, unique=True),
    vocab_size=st.sampled_from([30, 97, 65_536, 65_537]),
    seed=st.integers(0, 1000),
)
def test_topk_in_float32_round_trips_exactly(
    num_positions: int, k: int, temperatures: list[float], vocab_size: int, seed: int
) -> None:
    column = TopKColumn(k, tuple(temperatures), vocab_size)
    tensors = random_tensors(column, num_positions, seed=seed)
    decoded = column.decode(column.encode(tensors))
    assert set(decoded) == set(tensors)
    assert all(torch.equal(decoded[name], tensors[name]) for name in tensors)


def test_topk_ids_take_two_bytes_up_to_65536_and_four_beyond() -> None:
    assert TopKColumn(64, (1,), 65_536).parts == {"ids": 128, "values": 256, "log_z": 0}
    assert TopKColumn(64, (1, 2), 65_537, "fp16").parts == {"ids": 256, "values": 128, "log_z": 4}
    largest = {"ids_NK": torch.tensor([[65_535]]), "logprobs_NK": torch.zeros(1, 1), "log_z_NT": torch.empty(1, 0)}
    column = TopKColumn(1, (1,), 65_536)
    assert column.decode(column.encode(largest))["ids_NK"].item() == 65_535


def test_topk_in_float16_keeps_its_bound_and_is_refused_outside_of_it() -> None:
    column = TopKColumn(4, (1,), 97, "fp16")
    tensors = random_tensors(column, 200)
    error_NK = (column.decode(column.encode(tensors))["logprobs_NK"] - tensors["logprobs_NK"]).abs()
    assert error_NK.max() > 0
    assert (error_NK <= tensors["logprobs_NK"].abs() * 2**-11 + 2**-25).all()
    with pytest.raises(NumericsError, match="does not fit into float16"):
        column.encode({**tensors, "logprobs_NK": tensors["logprobs_NK"] - 70_000})


@settings(max_examples=40, deadline=None)
@given(
    num_positions=st.integers(0, 9),
    k=st.integers(1, 30),
    vocab_size=st.sampled_from([30, 97, 65_537]),
    seed=st.integers(0, 1000),
)
def test_compressed_topk_keeps_ids_and_log_z_exactly_and_log_probabilities_within_a_step(
    num_positions: int, k: int, vocab_size: int, seed: int
) -> None:
    column = TopKColumn(k, (1, 2), vocab_size, "q8")
    tensors = random_tensors(column, num_positions, seed=seed)
    counts = np.array([num_positions // 2, 0, num_positions - num_positions // 2])
    blocks = [np.frombuffer(block, np.uint8) for block in column.encode_rows(tensors, counts)]
    num_bytes = np.array(list(map(len, blocks)))
    assert column.fits(num_bytes, counts)
    assert sum(column.count_parts(blocks, counts).values()) == num_bytes.sum()
    decoded = column.decode_rows(blocks, counts)
    assert decoded["ids_NK"].equal(tensors["ids_NK"])
    assert decoded["ids_NK"].dtype == torch.int64
    assert decoded["log_z_NT"].equal(tensors["log_z_NT"])
    exact_NK = tensors["logprobs_NK"]
    step_N1 = (exact_NK[:, :1] - exact_NK[:, -1:]) / 255
    bound_NK = step_N1 + (1 + exact_NK[:, -1:].abs()) * 2**-10
    assert ((decoded["logprobs_NK"] - exact_NK).abs() <= bound_NK).all()
    assert column.first_problem(decoded) is None  # still sorted, not above 0, mass at most 1


def test_compressed_topk_takes_as_many_bytes_as_an_id_needs() -> None:
    assert TopKColumn(64, (1,), 65_536, "q8").parts == {"ids": 128, "values": 68, "log_z": 0}
    assert TopKColumn(64, (1,), 131_072, "q8").parts == {"ids": 192, "values": 68, "log_z": 0}
    assert TopKColumn(3, (1, 2), 2**31, "q8").parts == {"ids": 12, "values": 7, "log_z": 4}
    column = TopKColumn(1, (1,), 2**31, "q8")
    largest = {"ids_NK": torch.tensor([[2**31 - 1]]), "logprobs_NK": torch.zeros(1, 1), "log_z_NT": torch.empty(1, 0)}
    assert column.decode(column.encode(largest))["ids_NK"].item() == 2**31 - 1


def test_compressed_topk_takes_fewer_bytes_than_its_records() -> None:
    column = TopKColumn(20, (1,), 5000, "q8")
    (block,) = column.encode_rows(random_tensors(column, 300), np.array([300]))
    assert len(block) < 0.85 * 300 * column.stride


def test_positions_of_compressed_topk_are_read_by_their_places() -> None:
    column, counts = TopKColumn(5, (1, 2), 97, "q8"), np.array([30, 0, 12])
    blocks = [np.frombuffer(block, np.uint8) for block in column.encode_rows(random_tensors(column, 42), counts)]
    whole, places = column.decode_rows(blocks, counts), np.array([41, 3, 3])
    chosen = column.decode_places(blocks, counts, places)
    assert all(chosen[name].equal(whole[name][places]) for name in whole)


def test_compressed_ids_beyond_the_vocabulary_and_levels_beyond_a_byte_are_refused() -> None:
    column = TopKColumn(4, (1,), 97, "q8")
    records = column.encode(random_tensors(column, 2))
    for place in (slice(0, 1), slice(4, 8)):
        wrong = records.copy()
        wrong[1, place] = 255
        with pytest.raises(CacheError, match="does not decode"):
            column.decode(wrong)


def test_compressed_blocks_that_were_changed_are_refused_or_decode_within_the_vocabulary() -> None:
    column, counts = TopKColumn(9, (1, 2), 3000, "q8"), np.array([40, 3])
    blocks = [np.frombuffer(block, np.uint8) for block in column.encode_rows(random_tensors(column, 43), counts)]
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        number = int(generator.integers(0, 2))
        changed = list(blocks)
        changed[number] = damaged_block_of(blocks[number], generator)
        try:
            decoded = column.decode_rows(changed, counts)
        except CacheError:
            refused += 1
            continue
        assert int(decoded["ids_NK"].max()) < 3000
    assert refused > 150


@pytest.mark.parametrize("dtype", ["q6", "q5", "q4"])
def test_depths_of_earlier_versions_are_refused(dtype: str) -> None:
    with pytest.raises(CapabilityError, match="Expected one of fp32, fp16, q8"):
        TopKColumn(4, (1,), 97, dtype)


@pytest.mark.parametrize(
    "spec",
    [
        SampledColumn(5, 1, 0, 97).spec | {"layout": 1},
        SampledColumn(5, 1, 0, 97).spec | {"layout": 3},
        {name: value for name, value in SampledColumn(5, 1, 0, 97).spec.items() if name != "layout"},
        {"kind": "topk", "k": 4, "temperatures": [1], "vocab_size": 97, "dtype": "q8"},
        {"kind": "topk", "k": 4, "temperatures": [1], "vocab_size": 97, "dtype": "q5"},
        {"kind": "topk", "k": 4, "temperatures": [1], "vocab_size": 97, "dtype": "fp16", "layout": 2},
    ],
)
def test_a_column_in_another_layout_is_refused_with_the_command_that_teaches_it_again(spec: dict) -> None:
    with pytest.raises(CacheError, match="tutelage cache verify --repair RECIPE"):
        column_from_spec(spec)


def test_settings_that_this_version_does_not_store_are_refused_as_a_cache_error() -> None:
    with pytest.raises(CacheError, match="not understood"):
        column_from_spec({"kind": "topk", "k": 4, "temperatures": [1], "vocab_size": 97, "dtype": "fp12"})


def test_a_float16_codec_that_truncates_instead_of_rounding_is_refused() -> None:
    logprobs_NK = -torch.rand(5, 4).add(1)
    require_fp16_bound(logprobs_NK, logprobs_NK.half())
    with pytest.raises(NumericsError, match="error bound"):
        require_fp16_bound(logprobs_NK, logprobs_NK.half() * (1 - 2**-10))


def test_a_logprob_one_rounding_above_zero_is_stored_as_zero() -> None:
    column = TopKColumn(1, (1,), 97)
    tensors = {"ids_NK": torch.tensor([[3]]), "logprobs_NK": torch.tensor([[5e-7]]), "log_z_NT": torch.empty(1, 0)}
    assert column.first_problem(tensors) is None
    assert column.decode(column.encode(tensors))["logprobs_NK"].item() == 0.0


BAD_TOPK = {
    "nan": ("logprobs_NK", [-1.0, float("nan")], "not finite"),
    "infinite": ("logprobs_NK", [-1.0, float("-inf")], "not finite"),
    "positive": ("logprobs_NK", [0.01, -5.0], "above 0"),
    "unsorted": ("logprobs_NK", [-5.0, -1.0], "not sorted"),
    "mass": ("logprobs_NK", [-0.1, -0.2], "sum to more than 1"),
    "duplicate": ("ids_NK", [7, 7], "occurs twice"),
    "negative id": ("ids_NK", [-1, 7], "outside of"),
    "id beyond the vocabulary": ("ids_NK", [7, 97], "outside of"),
    "log_z": ("log_z_NT", [float("nan")], "log_z is not finite"),
}


@pytest.mark.parametrize("case", BAD_TOPK)
def test_topk_that_is_no_distribution_is_found_at_its_position(case: str) -> None:
    name, values, reason = BAD_TOPK[case]
    column = TopKColumn(2, (2,), 97)
    tensors = random_tensors(column, 6)
    assert column.first_problem(tensors) is None
    tensors[name] = tensors[name].clone()
    tensors[name][4] = torch.tensor(values, dtype=tensors[name].dtype)
    position, found = column.first_problem(tensors) or (None, "")
    assert position == 4
    assert reason in found


WRONG_VALUES = {
    "ids_NK": [-1, 0, 3, 96, 97, 2**40],
    "counts_NK": [-1, 0, 1, 2, 6],
    "logprobs_NK": [float("nan"), float("inf"), float("-inf"), 0.0, 5e-7, 1e-3, -0.5, -40.0],
    "log_z_NT": [float("nan"), float("inf"), -3.0],
}


@settings(max_examples=300, deadline=None)
@given(choices=st.data(), seed=st.integers(0, 50))
@pytest.mark.parametrize(
    "column",
    [TopKColumn(4, (2,), 97), TopKColumn(1, (1,), 97), SampledColumn(5, 1, 0, 97), SampledColumn(5, 1, 0, 97, 2)],
    ids=lambda column: column.name,
)
def test_the_quick_check_accepts_exactly_what_the_named_checks_accept(
    column: TopKColumn | SampledColumn, choices: st.DataObject, seed: int
) -> None:
    tensors = random_tensors(column, 3, seed=seed)
    for _ in range(choices.draw(st.integers(0, 2))):
        name = choices.draw(
            st.sampled_from([name for name in WRONG_VALUES if name in tensors and tensors[name].numel()])
        )
        place = tuple(choices.draw(st.integers(0, size - 1)) for size in tensors[name].shape)
        tensors[name][place] = choices.draw(st.sampled_from(WRONG_VALUES[name]))
    found = column.first_problem(tensors)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(column), "_is_sound", lambda *arrays: False)
        assert found == column.first_problem(tensors)


def test_runs_of_positions_change_neither_bytes_nor_the_position_of_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    column, counts = TopKColumn(4, (2,), 97, "fp16"), np.array([3, 0, 8])
    tensors = random_tensors(column, 11)
    blocks = column.encode_rows(tensors, counts)
    monkeypatch.setattr("tutelage.cache.column.RUN_ENTRIES", 9)  # two positions at a time
    assert column.encode_rows(tensors, counts) == blocks
    assert [len(block) for block in blocks] == [3 * column.stride, 0, 8 * column.stride]
    tensors["ids_NK"][7] = 5
    assert column.first_problem(tensors) == (7, "an id occurs twice")


def test_hidden_states_that_overflow_the_stored_dtype_are_found() -> None:
    assert FinalHiddenColumn(2, "fp16").first_problem({"hidden_NE": torch.tensor([[0.0, 1.0], [1e6, 0.0]])}) == (
        1,
        "a hidden value is not finite in fp16",
    )


def test_class_scores_above_zero_are_found() -> None:
    column = ClassScoresColumn((1, 2))
    assert column.first_problem({"scores_NC": torch.tensor([[-1.0, -2.0]])}) is None
    assert column.first_problem({"scores_NC": torch.tensor([[-1.0, 0.5]])}) is not None
    assert column.first_problem({"scores_NC": torch.tensor([[-1.0, float("nan")]])}) is not None


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: TopKColumn(98, (1,), 97), "k = 98"),
        (lambda: TopKColumn(0, (1,), 97), "k = 0"),
        (lambda: TopKColumn(5, (), 97), "temperatures"),
        (lambda: TopKColumn(5, (0.0, 1.0), 97), "temperatures"),
        (lambda: TopKColumn(5, (float("inf"),), 97), "temperatures"),
        (lambda: TopKColumn(5, (1,), 97, "bf16"), "bf16"),
        (lambda: FinalHiddenColumn(8, "int8"), "int8"),
        (lambda: ClassScoresColumn((4, 4)), "all different"),
        (lambda: ClassScoresColumn((4,)), "at least two"),
    ],
)
def test_impossible_columns_are_refused(build: object, reason: str) -> None:
    assert callable(build)
    with pytest.raises(CapabilityError, match=reason):
        build()


def test_unknown_kinds_and_settings_are_refused() -> None:
    with pytest.raises(CacheError, match="polynomial"):
        column_from_spec({"kind": "polynomial", "n": 12})
    with pytest.raises(CacheError, match="not understood"):
        column_from_spec({"kind": "final_hidden", "width": 8, "colour": "red"})


def test_only_a_larger_k_with_the_temperatures_serves() -> None:
    stored = TopKColumn(8, (1, 2, 4), 97)
    assert stored.serves(TopKColumn(8, (4,), 97))
    assert stored.serves(TopKColumn(3, (1, 2), 97))
    assert not stored.serves(TopKColumn(9, (1,), 97))
    assert not stored.serves(TopKColumn(3, (8,), 97))
    assert not stored.serves(TopKColumn(3, (1,), 98))
    assert not stored.serves(FinalHiddenColumn(8))
    assert FinalHiddenColumn(8).serves(FinalHiddenColumn(8))
    assert not FinalHiddenColumn(8).serves(FinalHiddenColumn(8, "fp32"))
