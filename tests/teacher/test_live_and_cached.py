"""A live and a cached teacher give the same record."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from signal_bounds import SIDES, TEMPERATURES, Noise, assert_same_record, measure_noise, possible_counts
from tiny_sequences import GREEDY, SAMPLED, TOKENIZER, plain, prompts
from tiny_sequences import alone as answers_alone
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
from tutelage.cache.hidden import STATE_DTYPES
from tutelage.cache.sequences import SequencesColumn
from tutelage.cache.topk import TOPK_DTYPES
from tutelage.errors import AlignmentError, CacheError, CapabilityError, ModelError
from tutelage.models import taps
from tutelage.teacher import CachedTeacher, LiveTeacher, build_column, teach
from tutelage.teacher.measure import is_state_column
from tutelage.teacher.sequences import generate_sequences, read_sequences
from tutelage.types import (
    Batch,
    ClassScores,
    DenseLogits,
    FinalHidden,
    HiddenStates,
    Pooled,
    TeacherRow,
    TopK,
)


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


ROWS = teacher_rows(20)
EVERY_SIGNAL: dict[str, Column] = {
    **{f"final hidden {dtype}": FinalHiddenColumn(32, dtype) for dtype in ("fp32", "bf16", "fp16")},
    **{f"topk {dtype}": TopKColumn(60, TEMPERATURES, VOCAB_SIZE, dtype) for dtype in TOPK_DTYPES},
    "class scores": ClassScoresColumn((5, 6)),
    "sampled": SampledColumn(12, 1.0, 0, VOCAB_SIZE, logprob_bits=16),
    "sampled, means only": SampledColumn(12, 2.0, 0, VOCAB_SIZE),
    "sampled hot": SampledColumn(30, 4.0, 5, VOCAB_SIZE, logprob_bits=8),
    "sampled with a head": SampledColumn(9, 2.0, 0, VOCAB_SIZE, head_k=4, logprob_bits=16),
    "sampled with a head, means only": SampledColumn(9, 1.0, 1, VOCAB_SIZE, head_k=2),
    "embeddings": HiddenColumn(0, 32, "fp32"),
    **{f"hidden {dtype}": HiddenColumn(1, 32, dtype, 0.5, 3) for dtype in STATE_DTYPES},
    "hidden, every token": HiddenColumn(2, 32, "fp32"),
    "hidden, a quarter": HiddenColumn(2, 32, "int8", 0.25),
    **{f"pooled {dtype}": PooledColumn(2, 32, dtype) for dtype in STATE_DTYPES},
}
BY_POSITION = [
    name
    for name, column in EVERY_SIGNAL.items()
    if not isinstance(column, ClassScoresColumn) and not is_state_column(column)
]
# rows of one length whose positions are the same: only their ids tell them apart
TWINS = [
    TeacherRow(ids, np.array([9, 10]))
    for ids in np.random.default_rng(1).integers(0, VOCAB_SIZE, size=(6, 12)).astype(np.int32)
]
BATCHES = {
    "all, in another order": list(range(20))[::-1],
    "a few": [3, 1, 19],
    "one": [7],
    "one of them twice": [4, 11, 4],
}
DTYPES = {"a float32 teacher": torch.float32, "a bfloat16 teacher": torch.bfloat16}


@dataclass(frozen=True)
class Taught:
    """A teacher, the noise of its batches, and two caches of every signal."""

    model: LlamaForCausalLM
    noise: Noise
    at_once: Path
    grown: Path  # the same rows and columns, in three calls with other batches


@pytest.fixture(scope="module", params=DTYPES)
def taught(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Taught:
    model, columns = tiny_llama(dtype=DTYPES[request.param]), list(EVERY_SIGNAL.values())
    at_once, grown = (tmp_path_factory.mktemp(name) for name in ("at_once", "grown"))

    def fill(root: Path, rows: list[TeacherRow], columns: list[Column], *, shard_rows: int, token_budget: int) -> None:
        teach(
            model,
            rows,
            columns=columns,
            root=root,
            fingerprint=FINGERPRINT,
            shard_rows=shard_rows,
            token_budget=token_budget,
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)  # hundreds of commits; nothing is killed here
        fill(at_once, ROWS, columns, shard_rows=11, token_budget=60)
        first_positions = [TeacherRow(row.ids, row.positions[:1]) for row in ROWS[:9]]
        fill(grown, first_positions, columns[::2], shard_rows=20, token_budget=10_000)
        fill(grown, ROWS[5:14], columns, shard_rows=5, token_budget=30)
        fill(grown, ROWS[::-1], columns, shard_rows=20, token_budget=100)
    return Taught(model, measure_noise(model, [*ROWS, *TWINS]), at_once, grown)


@pytest.fixture(scope="module")
def noise(teacher_model: LlamaForCausalLM) -> Noise:
    return measure_noise(teacher_model, ROWS)


def test_the_noise_of_a_teacher_is_there_and_small(taught: Taught) -> None:
    noise, limit = taught.noise, 1e-4 if taught.model.dtype == torch.float32 else 1.0
    for figure in (noise.final, noise.logprob, noise.states[1], noise.states[2], noise.pooled[2]):
        assert 0 < figure < limit
    assert noise.states[0] == 0  # embeddings are looked up


@pytest.mark.parametrize("name", [name for name in EVERY_SIGNAL if name.startswith("sampled")])
def test_the_draws_of_a_float32_teacher_are_all_but_fixed(noise: Noise, name: str) -> None:
    column = EVERY_SIGNAL[name]
    assert isinstance(column, SampledColumn)
    least_NV, most_NV = possible_counts(column, ROWS, noise)
    num_open = (column.num_draws - least_NV.sum(dim=1)).sum()
    assert num_open <= 0.005 * column.num_draws * len(least_NV)
    assert (most_NV.sum(dim=1) - column.num_draws).sum() <= num_open


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("name", EVERY_SIGNAL)
def test_cached_equals_live_within_codec_and_noise_whatever_the_order_subset_packing_and_growth(
    taught: Taught, name: str, packed: bool
) -> None:
    column = EVERY_SIGNAL[name]
    live_teacher = LiveTeacher(taught.model, column=column)
    cached_teachers = [CachedTeacher(root, FINGERPRINT, column) for root in (taught.at_once, taught.grown)]
    for chosen in BATCHES.values():
        rows = [ROWS[number] for number in chosen]
        batch = batch_of(rows, packed=packed)
        live = live_teacher.signal(batch)
        for cached_teacher in cached_teachers:
            assert_same_record(cached_teacher.signal(batch), live, column, rows, taught.noise)


@pytest.mark.parametrize("name", BY_POSITION)
def test_some_of_a_rows_positions_are_those_of_the_whole_row(taught: Taught, name: str) -> None:
    column = EVERY_SIGNAL[name]
    rows = [TeacherRow(row.ids, row.positions[-1:]) for row in ROWS[4:12]]
    batch = batch_of(rows)
    cached = CachedTeacher(taught.grown, FINGERPRINT, column).signal(batch)
    assert_same_record(cached, LiveTeacher(taught.model, column=column).signal(batch), column, rows, taught.noise)


@pytest.mark.parametrize("name", EVERY_SIGNAL)
def test_the_comparison_finds_the_signal_of_the_next_row(taught: Taught, name: str) -> None:
    column = EVERY_SIGNAL[name]
    live = LiveTeacher(taught.model, column=column)
    signals = [live.signal(batch) for batch in (batch_of(TWINS), batch_of(TWINS, width=30), batch_of(TWINS[::-1]))]
    assert_same_record(signals[1], signals[0], column, TWINS, taught.noise)
    with pytest.raises(AssertionError):
        assert_same_record(signals[2], signals[0], column, TWINS, taught.noise)


@pytest.mark.parametrize(
    ("stored", "claimed"),
    [
        (TopKColumn(60, TEMPERATURES, VOCAB_SIZE, "q8"), TopKColumn(60, TEMPERATURES, VOCAB_SIZE, "fp16")),
        (FinalHiddenColumn(32, "bf16"), FinalHiddenColumn(32, "fp16")),
        (HiddenColumn(1, 32, "fp8", 0.5, 3), HiddenColumn(1, 32, "int8", 0.5, 3)),
        (PooledColumn(2, 32, "int8"), PooledColumn(2, 32, "bf16")),
        (SampledColumn(30, 4.0, 5, VOCAB_SIZE, logprob_bits=8), SampledColumn(30, 4.0, 5, VOCAB_SIZE, logprob_bits=9)),
    ],
    ids=lambda column: column.name,
)
def test_the_comparison_finds_a_codec_one_step_coarser_than_it_says(
    tmp_path: Path, teacher_model: LlamaForCausalLM, noise: Noise, stored: Column, claimed: Column
) -> None:
    teach(teacher_model, ROWS, columns=[stored], root=tmp_path, fingerprint=FINGERPRINT)
    batch = batch_of(ROWS)
    cached = CachedTeacher(tmp_path, FINGERPRINT, stored).signal(batch)
    live = LiveTeacher(teacher_model, column=stored).signal(batch)
    assert_same_record(cached, live, stored, ROWS, noise)
    with pytest.raises(AssertionError):
        assert_same_record(cached, live, claimed, ROWS, noise)


@pytest.mark.parametrize("column", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_cached_answers_are_those_that_each_prompt_gets_alone_whatever_the_growth_and_order(
    tmp_path: Path, teacher_model: LlamaForCausalLM, column: SequencesColumn
) -> None:
    rows = prompts(20)
    for part, sizes in ((rows[:7], (3, 30)), (rows[4:13], (5, 1000)), (rows[::-1], (6, 60))):
        shard_rows, token_budget = sizes
        generate_sequences(
            teacher_model,
            TOKENIZER,
            part,
            column=column,
            root=tmp_path,
            fingerprint=FINGERPRINT,
            shard_rows=shard_rows,
            token_budget=token_budget,
        )
    for chosen in BATCHES.values():
        asked = [rows[number] for number in chosen]
        found = read_sequences(tmp_path, FINGERPRINT, column, asked)
        assert plain(found) == plain([answers_alone(teacher_model, row, column) for row in asked])


def own_states(model: LlamaForCausalLM, row: TeacherRow, layer: int) -> torch.Tensor:
    """The model's own hidden states of a row alone, [S, 32]; the last entry has gone through the final norm."""
    assert layer < 2
    with torch.no_grad():
        return model(input_ids=torch.tensor(row.ids)[None].long(), output_hidden_states=True).hidden_states[layer][0]


@pytest.mark.parametrize("layer", [0, 1])
def test_hidden_states_are_those_of_the_models_own_layer_at_the_rows_own_tokens(
    tmp_path: Path, teacher_model: LlamaForCausalLM, noise: Noise, layer: int
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
    assert torch.allclose(hidden.hidden_PE, chosen_PE, rtol=0, atol=SIDES * noise.states[layer])
    # pooled over real tokens only: padding in either pass would move the mean
    means_BE = torch.stack([states.mean(dim=0) for states in expected])
    assert torch.allclose(pooled.pooled_BE, means_BE, rtol=0, atol=SIDES * noise.pooled[layer] + 1e-6)


def test_a_mean_over_padding_would_be_noticed(teacher_model: LlamaForCausalLM, noise: Noise) -> None:
    rows = [teacher_rows(3)[0], TeacherRow(np.arange(40, dtype=np.int32), np.array([3]))]
    teacher = LiveTeacher(teacher_model, kind="pooled", layer=1)
    together = teacher.signal(batch_of(rows))
    assert isinstance(together, Pooled)
    alone = own_states(teacher_model, rows[0], 1)
    assert torch.allclose(together.pooled_BE[0], alone.mean(dim=0), rtol=0, atol=SIDES * noise.pooled[1] + 1e-6)
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
    assert isinstance(signal, FinalHidden)
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
    assert isinstance(signal, TopK)
    assert isinstance(live, TopK)
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

    def states(rows: list[TeacherRow]) -> torch.Tensor:
        signal = teacher.signal(batch_of(rows))
        assert isinstance(signal, FinalHidden)
        return signal.hidden_NE

    alone = {row.key: states([row]) for row in rows}
    shuffled: list[TeacherRow] = [rows[number] for number in np.random.default_rng(1).permutation(12)]
    assert states(shuffled).equal(torch.cat([alone[row.key] for row in shuffled]))
