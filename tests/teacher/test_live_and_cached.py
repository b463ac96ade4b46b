"""A live and a cached teacher give the same record."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_teacher import FINGERPRINT, VOCAB_SIZE, batch_of, dense_logprobs, teacher_rows, tiny_llama
from transformers import LlamaForCausalLM

from tutelage.cache import (
    CacheReader,
    ClassScoresColumn,
    FinalHiddenColumn,
    HiddenColumn,
    PooledColumn,
    SampledColumn,
    TopKColumn,
)
from tutelage.cache.column import Column
from tutelage.errors import AlignmentError, CacheError, CapabilityError, ModelError
from tutelage.models import taps
from tutelage.teacher import CachedTeacher, LiveTeacher, build_column, teach
from tutelage.types import (
    Batch,
    ClassScores,
    DenseLogits,
    FinalHidden,
    HiddenStates,
    Pooled,
    Sampled,
    TeacherRow,
    TeacherSignal,
    TopK,
)

TEMPERATURES = (1, 2, 4)


def test_cached_final_hidden_equals_live_bit_for_bit_on_equal_batch_shapes(
    tmp_path: Path, teacher_model: LlamaForCausalLM
) -> None:
    rows = sorted(teacher_rows(6), key=lambda row: len(row.ids))
    column = build_column(teacher_model, kind="final_hidden")
    assert column == FinalHiddenColumn(32, "fp32")
    teach(teacher_model, rows, columns=[column], root=tmp_path, fingerprint=FINGERPRINT, token_budget=10_000)
    batch = batch_of(rows)
    live = LiveTeacher(teacher_model).signal(batch)
    cached = CachedTeacher(tmp_path, FINGERPRINT, column).signal(batch)
    assert isinstance(live, FinalHidden)
    assert isinstance(cached, FinalHidden)
    assert cached.hidden_NE.equal(live.hidden_NE)
    assert cached.head.weight_VD.equal(live.head.weight_VD)
    assert cached.head.logits(cached.hidden_NE).equal(live.head.logits(live.hidden_NE))


@pytest.mark.parametrize("packed", [False, True])
def test_cached_equals_live_in_other_orders_shapes_and_packings(
    tmp_path: Path, teacher_model: LlamaForCausalLM, packed: bool
) -> None:
    rows = teacher_rows(20)
    columns = [
        build_column(teacher_model, kind="final_hidden"),
        build_column(teacher_model, kind="topk", k=60, temperatures=TEMPERATURES),
    ]
    teach(teacher_model, rows, columns=columns, root=tmp_path, fingerprint=FINGERPRINT, shard_rows=7, token_budget=60)
    live_hidden = LiveTeacher(teacher_model)
    live_topk = LiveTeacher(teacher_model, kind="topk", k=60, temperatures=TEMPERATURES)
    cached_hidden, cached_topk = (CachedTeacher(tmp_path, FINGERPRINT, column) for column in columns)
    for chosen in ([3, 1, 19], list(range(20)), [7]):
        batch = batch_of([rows[number] for number in chosen], packed=packed)
        live, cached = live_hidden.signal(batch), cached_hidden.signal(batch)
        # other batch shapes move float32 by up to 2.5e-6 here, and log-probabilities by 6.7e-6
        assert torch.allclose(cached.hidden_NE, live.hidden_NE, rtol=0, atol=1e-5)
        live, cached = live_topk.signal(batch), cached_topk.signal(batch)
        assert isinstance(live, TopK)
        assert isinstance(cached, TopK)
        assert {field.name: type(getattr(live, field.name)) for field in fields(TopK)} == {
            field.name: type(getattr(cached, field.name)) for field in fields(TopK)
        }
        assert cached.ids_NK.dtype == live.ids_NK.dtype == torch.int64
        assert torch.allclose(cached.logprobs_NK, live.logprobs_NK, rtol=0, atol=2e-5)
        assert list(cached.log_z_N) == list(live.log_z_N) == [1.0, 2.0, 4.0]
        assert all(
            torch.allclose(cached.log_z_N[temperature], live.log_z_N[temperature], rtol=0, atol=2e-5)
            for temperature in live.log_z_N
        )
        assert cached.log_z_N[1.0].count_nonzero() == 0


# What other batch shapes move in float32 here (measured: final hidden states 2.5e-6, log-probabilities 6.7e-6, states
# before the final norm, as large as 80, 7.3e-5), doubled and rounded up; a stored format adds its own bound.
FINAL_NOISE, LOGPROB_NOISE, STATE_NOISE = 1e-5, 2e-5, 2e-4
EVERY_SIGNAL: dict[str, Column] = {
    "final_hidden": FinalHiddenColumn(32, "fp32"),
    "topk": TopKColumn(60, TEMPERATURES, VOCAB_SIZE),
    "class_scores": ClassScoresColumn((5, 6)),
    "sampled": SampledColumn(12, 1.0, 0, VOCAB_SIZE, logprob_bits=16),
    "sampled hot": SampledColumn(30, 4.0, 5, VOCAB_SIZE, logprob_bits=16),
    "sampled with a head": SampledColumn(9, 2.0, 0, VOCAB_SIZE, head_k=4, logprob_bits=16),
    "embeddings": HiddenColumn(0, 32, "fp32"),
    "hidden": HiddenColumn(2, 32, "fp32", 0.25, 3),
    "hidden int8": HiddenColumn(1, 32, "int8", 0.5),
    "pooled": PooledColumn(2, 32, "fp32"),
    "pooled fp8": PooledColumn(1, 32, "fp8"),
}


def assert_same_record(cached: TeacherSignal, live: TeacherSignal, column: Column) -> None:
    assert type(cached) is type(live)
    match cached, live:
        case FinalHidden(), FinalHidden():
            assert torch.allclose(cached.hidden_NE, live.hidden_NE, rtol=0, atol=FINAL_NOISE)
        case TopK(), TopK():
            assert torch.allclose(cached.logprobs_NK, live.logprobs_NK, rtol=0, atol=LOGPROB_NOISE)
            assert list(cached.log_z_N) == list(live.log_z_N)
        case ClassScores(), ClassScores():
            assert torch.allclose(cached.scores_BC, live.scores_BC, rtol=0, atol=LOGPROB_NOISE)
        case Sampled(), Sampled():
            assert (cached.temperature, cached.vocab_size) == (live.temperature, live.vocab_size)
            assert torch.equal(cached.ids_NK[:, : live.ids_NK.shape[1]], live.ids_NK[:, : cached.ids_NK.shape[1]])
            # float16 in the head; codes of 16 bits elsewhere
            assert torch.allclose(dense(cached), dense(live), rtol=0, atol=2**-11 + LOGPROB_NOISE)
        case HiddenStates(), HiddenStates():
            assert isinstance(column, HiddenColumn)
            assert cached.layer == live.layer == column.layer
            assert [tokens.tolist() for tokens in cached.tokens] == [tokens.tolist() for tokens in live.tokens]
            assert_close_states(cached.hidden_PE, live.hidden_PE, column.dtype)
        case Pooled(), Pooled():
            assert isinstance(column, PooledColumn)
            assert cached.layer == live.layer == column.layer
            assert_close_states(cached.pooled_BE, live.pooled_BE, column.dtype)
        case _:
            raise AssertionError(type(cached))


def dense(signal: Sampled) -> torch.Tensor:
    return torch.zeros(len(signal.ids_NK), signal.vocab_size).scatter_add_(1, signal.ids_NK, signal.weights_NK)


def assert_close_states(cached_NE: torch.Tensor, live_NE: torch.Tensor, dtype: str) -> None:
    largest_N1 = live_NE.abs().amax(dim=1, keepdim=True)  # width 32: one group
    codec = {"fp32": torch.zeros(1), "int8": largest_N1 / 250, "fp8": live_NE.abs() / 15 + largest_N1 / 448 / 1000}
    assert ((cached_NE - live_NE).abs() <= codec[dtype] + STATE_NOISE).all()
    assert dtype == "fp32" or (cached_NE - live_NE).abs().max() > 1e-3  # the codec is really in between


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory, teacher_model: LlamaForCausalLM) -> Path:
    root = tmp_path_factory.mktemp("taught")
    columns = list(EVERY_SIGNAL.values())
    teach(
        teacher_model,
        teacher_rows(20),
        columns=columns,
        root=root,
        fingerprint=FINGERPRINT,
        shard_rows=7,
        token_budget=60,
    )  # fmt: skip
    return root


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("chosen", [[3, 1, 19], list(range(20)), list(range(20))[::-1], [7]], ids=len)
@pytest.mark.parametrize("name", EVERY_SIGNAL)
def test_every_signal_cached_equals_live_whatever_the_order_subset_and_packing(
    taught: Path, teacher_model: LlamaForCausalLM, name: str, chosen: list[int], packed: bool
) -> None:
    rows, column = teacher_rows(20), EVERY_SIGNAL[name]
    batch = batch_of([rows[number] for number in chosen], packed=packed)
    live = LiveTeacher(teacher_model, column=column).signal(batch)
    assert_same_record(CachedTeacher(taught, FINGERPRINT, column).signal(batch), live, column)


def own_states(model: LlamaForCausalLM, row: TeacherRow, layer: int) -> torch.Tensor:
    """The model's own hidden states of a row alone, [S, 32]; the last entry has gone through the final norm."""
    assert layer < 2
    with torch.no_grad():
        return model(input_ids=torch.tensor(row.ids)[None].long(), output_hidden_states=True).hidden_states[layer][0]


@pytest.mark.parametrize("layer", [0, 1])
def test_hidden_states_are_those_of_the_models_own_layer_at_the_rows_own_tokens(
    tmp_path: Path, teacher_model: LlamaForCausalLM, layer: int
) -> None:
    rows = teacher_rows(9)
    columns = [HiddenColumn(layer, 32, "fp32", 0.5, 1), PooledColumn(layer, 32, "fp32")]
    teach(teacher_model, rows, columns=columns, root=tmp_path, fingerprint=FINGERPRINT, token_budget=60)
    hidden, pooled = (CachedTeacher(tmp_path, FINGERPRINT, column).signal(batch_of(rows)) for column in columns)
    assert isinstance(hidden, HiddenStates)
    assert isinstance(pooled, Pooled)
    expected = [own_states(teacher_model, row, layer) for row in rows]
    assert [len(tokens) for tokens in hidden.tokens] == [max(1, round(len(row.ids) / 2)) for row in rows]
    chosen_PE = torch.cat(
        [states[torch.from_numpy(tokens)] for states, tokens in zip(expected, hidden.tokens, strict=True)]
    )
    assert torch.allclose(hidden.hidden_PE, chosen_PE, rtol=0, atol=STATE_NOISE)
    # pooled over real tokens only: padding in either pass would move the mean
    assert torch.allclose(pooled.pooled_BE, torch.stack([states.mean(dim=0) for states in expected]), atol=STATE_NOISE)


def test_a_mean_over_padding_would_be_noticed(teacher_model: LlamaForCausalLM) -> None:
    rows = [teacher_rows(3)[0], TeacherRow(np.arange(40, dtype=np.int32), np.array([3]))]
    teacher = LiveTeacher(teacher_model, kind="pooled", layer=1)
    together = teacher.signal(batch_of(rows))
    assert isinstance(together, Pooled)
    alone = own_states(teacher_model, rows[0], 1)
    assert torch.allclose(together.pooled_BE[0], alone.mean(dim=0), rtol=0, atol=STATE_NOISE)
    assert (alone.sum(dim=0) / 40 - together.pooled_BE[0]).abs().max() > 1e-2


def test_hidden_states_of_rows_without_targets_are_kept(tmp_path: Path, teacher_model: LlamaForCausalLM) -> None:
    rows = [TeacherRow(row.ids, np.empty(0, dtype=np.int64)) for row in teacher_rows(3)]
    columns = [PooledColumn(1, 32, "fp32"), TopKColumn(4, (1,), VOCAB_SIZE)]
    report = teach(teacher_model, rows, columns=columns, root=tmp_path, fingerprint=FINGERPRINT)
    assert (report.num_rows, report.num_positions) == (3, 0)
    assert report.stored_positions == {columns[0].name: 3, columns[1].name: 0}
    assert len(CacheReader(tmp_path, FINGERPRINT, columns[0]).keys()) == 3


def test_a_batch_in_other_ids_than_the_teachers_has_no_live_hidden_states(teacher_model: LlamaForCausalLM) -> None:
    rows = teacher_rows(2)
    batch = batch_of(rows)
    batch.teacher_rows[0] = TeacherRow(np.arange(30, dtype=np.int32), rows[0].positions)
    with pytest.raises(AlignmentError, match="one tokenizer"):
        LiveTeacher(teacher_model, kind="hidden", layer=1).signal(batch)


def test_a_model_whose_layer_numbers_are_not_proven_gives_no_hidden_states(
    tmp_path: Path, teacher_model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taps, "compare_taps", lambda model, batch: "hidden states after layer 1 differ")
    with pytest.raises(ModelError, match="layer 1 differ"):
        LiveTeacher(teacher_model, kind="hidden", layer=1)
    options = {"root": tmp_path, "fingerprint": FINGERPRINT}
    with pytest.raises(ModelError, match="layer 1 differ"):
        teach(teacher_model, teacher_rows(2), columns=[PooledColumn(1, 32)], **options)
    teach(teacher_model, teacher_rows(2), columns=[TopKColumn(4, (1,), VOCAB_SIZE)], **options)


def test_no_gradient_reaches_the_teacher_through_any_signal(teacher_model: LlamaForCausalLM) -> None:
    batch: Batch = batch_of(teacher_rows(3))
    for column in EVERY_SIGNAL.values():
        signal = LiveTeacher(teacher_model, column=column).signal(batch)
        tensors = [value for value in vars(signal).values() if isinstance(value, torch.Tensor)]
        assert not any(tensor.requires_grad or tensor.is_inference() for tensor in tensors)


def test_both_equal_the_models_own_logits_in_float64(tmp_path: Path, teacher_model: LlamaForCausalLM) -> None:
    rows = teacher_rows(20)
    expected_NV = dense_logprobs(teacher_model, rows)
    columns = [
        FinalHiddenColumn(32, "fp32"),
        TopKColumn(VOCAB_SIZE, TEMPERATURES, VOCAB_SIZE),
        ClassScoresColumn((5, 6)),
    ]
    teach(teacher_model, rows, columns=columns, root=tmp_path, fingerprint=FINGERPRINT, shard_rows=6)
    hidden, topk, scores = (CachedTeacher(tmp_path, FINGERPRINT, column).signal(batch_of(rows)) for column in columns)
    assert isinstance(hidden, FinalHidden)
    assert isinstance(topk, TopK)
    assert isinstance(scores, ClassScores)
    found_NV = hidden.head.logits(hidden.hidden_NE).double().log_softmax(dim=1)
    assert torch.allclose(found_NV, expected_NV, rtol=0, atol=3e-5)
    for temperature in TEMPERATURES:
        tempered_NV = (expected_NV / temperature).log_softmax(dim=1).gather(1, topk.ids_NK)
        found_NK = topk.logprobs_NK / temperature - topk.log_z_N[float(temperature)][:, None]
        assert torch.allclose(found_NK.double(), tempered_NV, rtol=0, atol=3e-5)
    first_B = torch.tensor(np.cumsum([0, *(len(row.positions) for row in rows)])[:-1])
    assert torch.allclose(scores.scores_BC.double(), expected_NV[first_B][:, [5, 6]], rtol=0, atol=3e-5)
    live = LiveTeacher(teacher_model, kind="class_scores", class_token_ids=[5, 6]).signal(batch_of(rows))
    assert isinstance(live, ClassScores)
    assert torch.allclose(scores.scores_BC, live.scores_BC, rtol=0, atol=2e-5)
    dense = LiveTeacher(teacher_model, kind="dense").signal(batch_of(rows))
    assert isinstance(dense, DenseLogits)
    assert torch.allclose(dense.logits_NU.double().log_softmax(dim=1), expected_NV, rtol=0, atol=3e-5)


def test_a_bf16_teacher_is_stored_in_bf16_and_comes_back_exactly(tmp_path: Path) -> None:
    model = tiny_llama(dtype=torch.bfloat16)
    rows = sorted(teacher_rows(5), key=lambda row: len(row.ids))
    column = build_column(model, kind="final_hidden")
    assert column == FinalHiddenColumn(32, "bf16")
    teach(model, rows, columns=[column], root=tmp_path, fingerprint=FINGERPRINT)
    live = LiveTeacher(model).signal(batch_of(rows))
    cached = CachedTeacher(tmp_path, FINGERPRINT, column).signal(batch_of(rows))
    assert isinstance(live, FinalHidden)
    assert isinstance(cached, FinalHidden)
    assert cached.hidden_NE.dtype == cached.head.weight_VD.dtype == torch.bfloat16
    assert cached.hidden_NE.equal(live.hidden_NE)


def test_no_gradient_reaches_a_live_teacher_and_it_is_left_in_evaluation_mode() -> None:
    model = tiny_llama().train()
    teacher = LiveTeacher(model)
    signal = teacher.signal(batch_of(teacher_rows(3)))
    assert not model.training
    assert not signal.hidden_NE.requires_grad
    assert not signal.head.weight_VD.requires_grad
    student_NE = torch.randn_like(signal.hidden_NE).requires_grad_()
    (student_NE * signal.hidden_NE).sum().backward()  # an inference tensor could not be saved for this
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_smaller_k_at_fewer_temperatures_is_served(tmp_path: Path, teacher_model: LlamaForCausalLM) -> None:
    rows = teacher_rows(5)
    stored = build_column(teacher_model, kind="topk", k=80, temperatures=(1, 2, 4))
    teach(teacher_model, rows, columns=[stored], root=tmp_path, fingerprint=FINGERPRINT)
    signal = CachedTeacher(tmp_path, FINGERPRINT, TopKColumn(50, (2,), VOCAB_SIZE)).signal(batch_of(rows))
    live = LiveTeacher(teacher_model, kind="topk", k=50, temperatures=(2,)).signal(batch_of(rows))
    assert signal.ids_NK.shape[1] == 50
    assert list(signal.log_z_N) == [2.0]
    assert torch.allclose(signal.log_z_N[2.0], live.log_z_N[2.0], atol=2e-5)


def test_a_temperature_without_log_z_is_an_error_that_names_the_stored_ones(
    tmp_path: Path, teacher_model: LlamaForCausalLM
) -> None:
    stored = build_column(teacher_model, kind="topk", k=80, temperatures=(1, 2))
    teach(teacher_model, teacher_rows(5), columns=[stored], root=tmp_path, fingerprint=FINGERPRINT)
    with pytest.raises(CapabilityError, match=r"\[8.0\]; stored temperatures: \[1.0, 2.0\]"):
        CachedTeacher(tmp_path, FINGERPRINT, TopKColumn(80, (1, 8), VOCAB_SIZE))


def test_too_little_mass_is_refused_before_training(tmp_path: Path, teacher_model: LlamaForCausalLM) -> None:
    stored = build_column(teacher_model, kind="topk", k=3, temperatures=(1, 16))
    teach(teacher_model, teacher_rows(5), columns=[stored], root=tmp_path, fingerprint=FINGERPRINT)
    with pytest.raises(CapabilityError, match="final_hidden"):
        CachedTeacher(tmp_path, FINGERPRINT, TopKColumn(3, (16,), VOCAB_SIZE))


def test_a_signal_that_was_never_taught_is_an_error(tmp_path: Path, teacher_model: LlamaForCausalLM) -> None:
    with pytest.raises(CacheError, match="holds nothing; expected final_hidden-e32-fp32"):
        CachedTeacher(tmp_path, FINGERPRINT, FinalHiddenColumn(32, "fp32"))
    column = build_column(teacher_model, kind="topk", k=4)
    teach(teacher_model, teacher_rows(2), columns=[column], root=tmp_path, fingerprint=FINGERPRINT)
    with pytest.raises(CacheError, match="at least 5"):
        CachedTeacher(tmp_path, FINGERPRINT, TopKColumn(5, (1,), VOCAB_SIZE))
    with pytest.raises(CacheError, match="holds topk-k4-v97-t1-fp32; expected topk-k4-v98-t1-fp32"):
        CachedTeacher(tmp_path, FINGERPRINT, TopKColumn(4, (1,), VOCAB_SIZE + 1))


def test_positions_and_targets_that_differ_in_number_are_refused(
    tmp_path: Path, teacher_model: LlamaForCausalLM
) -> None:
    rows = teacher_rows(2)
    column = build_column(teacher_model, kind="final_hidden")
    teach(teacher_model, rows, columns=[column], root=tmp_path, fingerprint=FINGERPRINT)
    batch = batch_of(rows)
    batch.teacher_rows[0] = TeacherRow(rows[0].ids, rows[0].positions[:-1])
    with pytest.raises(AlignmentError, match="one teacher position per target"):
        CachedTeacher(tmp_path, FINGERPRINT, column).signal(batch)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"kind": "topk"}, CapabilityError),
        ({"kind": "class_scores"}, CapabilityError),
        ({"kind": "sampled"}, CapabilityError),
        ({"kind": "sequences"}, CapabilityError),
        ({"kind": "sampled", "draws": 4, "k": 4}, CapabilityError),
        ({"kind": "sampled", "draws": 4, "exact": VOCAB_SIZE}, CapabilityError),
        ({"kind": "hidden", "layer": 3}, CapabilityError),
        ({"kind": "pooled", "layer": -1}, CapabilityError),
        ({"kind": "hidden", "layer": 1, "token_subset_ratio": 0.0}, CapabilityError),
        ({"kind": "topk", "k": VOCAB_SIZE + 1}, CapabilityError),
        ({"kind": "class_scores", "class_token_ids": [1, VOCAB_SIZE]}, AlignmentError),
    ],
)
def test_signals_that_cannot_be_measured_are_refused(
    teacher_model: LlamaForCausalLM, settings: dict, error: type[Exception]
) -> None:
    with pytest.raises(error):
        LiveTeacher(teacher_model, **settings)


def test_a_teacher_in_float64_has_no_exact_codec() -> None:
    with pytest.raises(CapabilityError, match="float64"):
        build_column(tiny_llama(dtype=torch.float64), kind="final_hidden")


def test_rows_shuffled_against_the_cache_still_get_their_own_signal(
    tmp_path: Path, teacher_model: LlamaForCausalLM
) -> None:
    rows = teacher_rows(12)
    column = build_column(teacher_model, kind="final_hidden")
    teach(teacher_model, rows, columns=[column], root=tmp_path, fingerprint=FINGERPRINT, shard_rows=4)
    teacher = CachedTeacher(tmp_path, FINGERPRINT, column)
    alone = {row.key: teacher.signal(batch_of([row])).hidden_NE for row in rows}
    shuffled: list[TeacherRow] = [rows[number] for number in np.random.default_rng(1).permutation(12)]
    found_NE = teacher.signal(batch_of(shuffled)).hidden_NE
    assert found_NE.equal(torch.cat([alone[row.key] for row in shuffled]))
