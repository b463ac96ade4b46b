"""A live and a cached teacher give the same record."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_teacher import FINGERPRINT, VOCAB_SIZE, batch_of, dense_logprobs, teacher_rows, tiny_llama
from transformers import LlamaForCausalLM

from tutelage.cache import ClassScoresColumn, FinalHiddenColumn, TopKColumn
from tutelage.errors import AlignmentError, CacheError, CapabilityError
from tutelage.teacher import CachedTeacher, LiveTeacher, build_column, teach
from tutelage.types import ClassScores, DenseLogits, FinalHidden, TeacherRow, TopK

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
