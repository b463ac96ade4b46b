"""Hidden states come back within the stated bound, at the tokens that key and seed fix."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.cache import COLUMNS, HiddenColumn, PooledColumn, column_from_spec
from tutelage.cache import hidden as module
from tutelage.cache.hidden import FP8_ABSOLUTE_BOUND, STATE_DTYPES, token_subset
from tutelage.errors import CapabilityError, NumericsError
from tutelage.types import TeacherRow

WIDTHS = (1, 32, 50, 130)  # alone in its group; whole groups and parts of both sizes
COLUMNS_OF_STATES = [
    *(HiddenColumn(3, width, dtype) for width in WIDTHS for dtype in STATE_DTYPES),
    *(PooledColumn(0, width, dtype) for width in WIDTHS for dtype in STATE_DTYPES),
    HiddenColumn(3, 8, "bf16", 0.25),
    HiddenColumn(3, 8, "bf16", 0.25, 7),
]


def states(count: int, width: int, *, seed: int = 0) -> torch.Tensor:
    """Vectors of many sizes, with a few channels far larger than the rest, as transformers have them."""
    generator = torch.Generator().manual_seed(seed)
    sizes_N1 = torch.logspace(-3, 3, count)[:, None]
    values_NE = torch.randn(count, width, generator=generator) * sizes_N1
    values_NE[:, ::13] *= 30
    return values_NE


def row(length: int, positions: list[int] | None = None) -> TeacherRow:
    return TeacherRow(np.arange(length, dtype=np.int32), np.array(positions or [0], dtype=np.int64))


@pytest.mark.parametrize("column", COLUMNS_OF_STATES, ids=lambda column: column.name)
def test_a_column_survives_its_spec_as_json_and_its_bytes(column: HiddenColumn | PooledColumn) -> None:
    assert column_from_spec(json.loads(json.dumps(column.spec))) == column
    values_NE = states(11, column.width)
    records = column.encode({column.tensor: values_NE})
    assert records.shape == (11, column.stride)
    assert np.array_equal(column.encode(column.decode(records)), records) or column.dtype in ("int8", "sq8", "fp8")


def test_names_differ_wherever_specs_differ() -> None:
    assert len({column.name for column in COLUMNS_OF_STATES}) == len(COLUMNS_OF_STATES)
    assert {"hidden", "pooled"} <= set(COLUMNS)


def test_sizes_are_as_stated() -> None:
    assert HiddenColumn(1, 576, "bf16").stride == 1152
    assert HiddenColumn(1, 576, "int8").parts == {"values": 576, "scales": 36}
    assert HiddenColumn(1, 50, "int8").parts == {"values": 50, "scales": 4}
    assert HiddenColumn(1, 576, "sq8").parts == {"values": 576, "scales": 18}
    assert HiddenColumn(1, 65, "sq8").parts == {"values": 65, "scales": 4}
    assert HiddenColumn(1, 576, "fp8").parts == {"values": 576, "scales": 4}


@pytest.mark.parametrize("width", WIDTHS)
def test_int8_keeps_every_value_within_half_of_its_groups_scale(width: int) -> None:
    column, values_NE = HiddenColumn(2, width, "int8"), states(60, width)
    decoded_NE = column.decode(column.encode({"hidden_NE": values_NE}))["hidden_NE"]
    largest = module.grouped(values_NE, 32).abs().amax(dim=2, keepdim=True)
    allowed = (largest / 127 * (1 + 2**-9) + 2**-24) / 2 * (1 + 1e-4)
    error = (module.grouped(decoded_NE, 32) - module.grouped(values_NE, 32)).abs()
    assert (error <= allowed).all()
    assert width == 1 or error.max() > 0


@pytest.mark.parametrize("width", WIDTHS)
def test_sq8_keeps_every_value_within_the_root_of_its_size(width: int) -> None:
    column, values_NE = HiddenColumn(2, width, "sq8"), states(60, width)
    records = column.encode({"hidden_NE": values_NE})
    decoded_NE = column.decode(records)["hidden_NE"]
    scales = torch.from_numpy(records[:, width:].copy().view(np.float16).astype(np.float32))
    scale_NE = scales.repeat_interleave(64, dim=1)[:, :width]
    bound_NE = (scale_NE * values_NE.abs() / 127).sqrt() + scale_NE / 508
    error_NE = (decoded_NE - values_NE).abs()
    assert (error_NE <= bound_NE * (1 + 1e-4) + values_NE.abs() * 2**-20).all()
    assert (error_NE > 0.9 * bound_NE).any() == (width > 1)  # the bound is no wider than it must be


def test_sq8_is_nearer_than_int8_in_fewer_bytes_where_a_few_channels_are_large() -> None:
    values_NE = torch.randn(200, 576, generator=torch.Generator().manual_seed(0))
    values_NE[:, ::60] *= 15
    errors = {}
    for dtype in ("int8", "sq8"):
        column = HiddenColumn(2, 576, dtype)
        decoded_NE = column.decode(column.encode({"hidden_NE": values_NE}))["hidden_NE"]
        errors[dtype] = float((decoded_NE - values_NE).norm() / values_NE.norm())
    assert errors["sq8"] < 0.8 * errors["int8"]
    assert HiddenColumn(2, 576, "sq8").stride < HiddenColumn(2, 576, "int8").stride


def test_fp8_keeps_every_value_within_its_relative_bound() -> None:
    column, values_NE = HiddenColumn(2, 50, "fp8"), states(60, 50)
    decoded_NE = column.decode(column.encode({"hidden_NE": values_NE}))["hidden_NE"]
    scale_N1 = values_NE.abs().amax(dim=1, keepdim=True) / 448
    bound_NE = torch.maximum(values_NE.abs() / 16, scale_N1 * FP8_ABSOLUTE_BOUND) * (1 + 1e-5)
    assert ((decoded_NE - values_NE).abs() <= bound_NE).all()


def test_one_large_channel_does_not_cost_the_other_groups_their_digits() -> None:
    values_NE = torch.randn(20, 64)
    values_NE[:, 0] = 200.0
    decoded_NE = PooledColumn(2, 64, "int8").decode(PooledColumn(2, 64, "int8").encode({"pooled_NE": values_NE}))
    error_NE = (decoded_NE["pooled_NE"] - values_NE).abs()
    assert error_NE[:, 32:].max() < 0.02
    assert error_NE[:, 1:32].max() > 0.5  # what one scale per position would do to all of them


@pytest.mark.parametrize(("dtype", "torch_dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_the_teachers_own_dtype_comes_back_bit_for_bit(dtype: str, torch_dtype: torch.dtype) -> None:
    values_NE = torch.randn(9, 50).to(torch_dtype)
    column = HiddenColumn(2, 50, dtype)
    decoded_NE = column.decode(column.encode({"hidden_NE": values_NE}))["hidden_NE"]
    assert decoded_NE.dtype == torch_dtype
    assert torch.equal(decoded_NE, values_NE)


@pytest.mark.parametrize("dtype", ["int8", "sq8", "fp8"])
def test_zeros_and_the_smallest_values_survive(dtype: str) -> None:
    values_NE = torch.zeros(4, 40)
    values_NE[1] = 1e-30
    values_NE[2] = 1e-7
    values_NE[3, 5] = -3e-5
    decoded_NE = HiddenColumn(2, 40, dtype).decode(HiddenColumn(2, 40, dtype).encode({"hidden_NE": values_NE}))
    assert decoded_NE["hidden_NE"][0].count_nonzero() == 0
    assert (decoded_NE["hidden_NE"] - values_NE).abs().max() <= 1e-6


@pytest.mark.parametrize("dtype", ["int8", "sq8", "fp8"])
def test_a_codec_that_drifts_is_refused(monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    values_NE = torch.randn(5, 40)
    if dtype != "fp8":
        scales = module.group_scales
        monkeypatch.setattr(module, "group_scales", lambda groups: scales(groups) / 2)  # largest values are cut off
    else:
        monkeypatch.setattr(module, "FP8_LARGEST", 448.0 * 3)  # overflow to NaN
    with pytest.raises(NumericsError, match="within its bound"):
        HiddenColumn(2, 40, dtype).encode({"hidden_NE": values_NE})


@pytest.mark.parametrize("dtype", STATE_DTYPES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_states_are_found_at_their_position(dtype: str, bad: float) -> None:
    column, values_NE = PooledColumn(4, 40, dtype), torch.randn(6, 40)
    assert column.first_problem({"pooled_NE": values_NE}) is None
    values_NE[3, 17] = bad
    assert column.first_problem({"pooled_NE": values_NE}) == (
        3,
        f"a hidden value after layer 4 is not finite in {dtype}",
    )


@pytest.mark.parametrize(("dtype", "size"), [("fp16", 1e5), ("int8", 1e7), ("sq8", 1e7)])
def test_states_that_overflow_the_format_are_found(dtype: str, size: float) -> None:
    values_NE = torch.ones(2, 40)
    values_NE[1, 3] = size
    problem = HiddenColumn(4, 40, dtype).first_problem({"hidden_NE": values_NE})
    assert problem is not None
    assert problem[0] == 1


@settings(max_examples=80, deadline=None)
@given(
    key=st.binary(min_size=16, max_size=16),
    length=st.integers(1, 300),
    ratio=st.floats(0.001, 1.0),
    seed=st.integers(0, 2**31),
)
def test_a_subset_is_sorted_inside_of_the_row_and_has_the_right_size(
    key: bytes, length: int, ratio: float, seed: int
) -> None:
    found = token_subset(key, length, ratio=ratio, seed=seed)
    assert len(found) == max(1, round(ratio * length))
    assert (np.diff(found) > 0).all()
    assert 0 <= found[0] <= found[-1] < length
    assert np.array_equal(found, token_subset(key, length, ratio=ratio, seed=seed))
    assert set(found) <= set(token_subset(key, length, ratio=min(1.0, 1.7 * ratio), seed=seed))


def test_subsets_depend_on_key_and_seed_and_choose_every_token_equally_often() -> None:
    keys = [bytes([number, other]) + bytes(14) for number in range(40) for other in range(50)]
    chosen = np.concatenate([token_subset(key, 20, ratio=0.25, seed=3) for key in keys])
    counts = np.bincount(chosen, minlength=20)
    assert len(chosen) == 5 * len(keys)
    assert np.abs(counts - 500).max() < 5 * np.sqrt(2000 * 0.25 * 0.75)
    assert not np.array_equal(*(token_subset(keys[0], 200, ratio=0.25, seed=seed) for seed in (0, 1)))


def test_a_stored_subset_of_known_tokens_never_changes() -> None:
    # a cache that was written with these is read with these
    assert token_subset(bytes(range(16)), 12, ratio=0.25, seed=5).tolist() == [0, 5, 10]


def test_the_subset_ignores_the_wanted_positions_and_pooling_takes_position_zero() -> None:
    column = HiddenColumn(1, 8, token_subset_ratio=0.5, seed=2)
    assert np.array_equal(column.positions_of(row(10, [3])), column.positions_of(row(10, [1, 8])))
    assert HiddenColumn(1, 8).positions_of(row(4, [3])).tolist() == [0, 1, 2, 3]
    assert PooledColumn(1, 8).positions_of(row(10, [3])).tolist() == [0]


def test_all_tokens_serve_a_subset_and_a_larger_share_a_smaller_one_of_its_seed() -> None:
    half = HiddenColumn(1, 8, token_subset_ratio=0.5, seed=2)
    quarter = HiddenColumn(1, 8, token_subset_ratio=0.25, seed=2)
    assert half.serves(quarter)
    assert HiddenColumn(1, 8).serves(quarter)
    assert not quarter.serves(half)
    assert not half.serves(HiddenColumn(1, 8, token_subset_ratio=0.25, seed=3))
    assert not half.serves(HiddenColumn(2, 8, token_subset_ratio=0.25, seed=2))
    assert not half.serves(HiddenColumn(1, 8, "int8", 0.25, 2))
    assert HiddenColumn(1, 8, "bf16", 1, 5) == HiddenColumn(1, 8)


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: HiddenColumn(1, 8, "int4"), "int4"),
        (lambda: PooledColumn(1, 8, "auto"), "auto"),
        (lambda: HiddenColumn(-1, 8), "layer -1"),
        (lambda: HiddenColumn(1, 8, "bf16", 0.0), "token_subset_ratio 0"),
        (lambda: HiddenColumn(1, 8, "bf16", 1.5), "token_subset_ratio 1.5"),
        (lambda: HiddenColumn(1, 8, "bf16", 0.5, -1), "seed -1"),
    ],
)
def test_impossible_columns_are_refused(build: object, reason: str) -> None:
    assert callable(build)
    with pytest.raises(CapabilityError, match=reason):
        build()
