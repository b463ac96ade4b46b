"""The head in tiles gives what float64 over the whole vocabulary gives."""

import numpy as np
import pytest
import torch

from tutelage.cache import ClassScoresColumn, FinalHiddenColumn, SampledColumn, TopKColumn
from tutelage.cache.column import Column
from tutelage.teacher import logits as module
from tutelage.teacher.logits import TiledHead, head_logits
from tutelage.teacher.measure import measure, measure_vocabulary
from tutelage.teacher.signals import as_signal
from tutelage.types import OutputHead, Sampled, TeacherRow


def random_head(*, dtype: torch.dtype = torch.float32, scale: float = 1.0, softcap: float | None = None) -> OutputHead:
    generator = torch.Generator().manual_seed(3)
    weight_VD = torch.randn(97, 16, generator=generator).to(dtype)
    return OutputHead(weight_VD, torch.randn(97, generator=generator).to(dtype), scale, softcap)


def oracle_logits(hidden_NE: torch.Tensor, head: OutputHead) -> torch.Tensor:
    assert head.bias_V is not None
    z_NV = (hidden_NE.double() @ head.weight_VD.double().T + head.bias_V.double()) * head.scale
    return z_NV if head.softcap is None else head.softcap * torch.tanh(z_NV / head.softcap)


@pytest.mark.parametrize("tile_elements", [97, 300, 2**25])
def test_topk_and_log_z_equal_the_float64_oracle(monkeypatch: pytest.MonkeyPatch, tile_elements: int) -> None:
    monkeypatch.setattr(module, "TILE_ELEMENTS", tile_elements)
    hidden_NE = torch.randn(23, 16)
    head = random_head(scale=0.7, softcap=20.0)
    column = TopKColumn(9, (0.5, 1, 2, 8), 97)
    found = measure(hidden_NE, head, column)
    logprobs_NV = oracle_logits(hidden_NE, head).log_softmax(dim=1)
    top_NK = logprobs_NV.topk(9, dim=1)
    assert found["ids_NK"].equal(top_NK.indices)
    assert torch.allclose(found["logprobs_NK"].double(), top_NK.values, rtol=0, atol=2e-5)
    for place, temperature in enumerate((0.5, 2.0, 8.0)):
        log_z_N = (logprobs_NV / temperature).logsumexp(dim=1)
        assert torch.allclose(found["log_z_NT"][:, place].double(), log_z_N, rtol=0, atol=4e-5)


def test_logprobs_at_every_temperature_follow_from_the_stored_ones() -> None:
    hidden_NE = torch.randn(23, 16)
    head, column = random_head(), TopKColumn(97, (4,), 97)
    found = measure(hidden_NE, head, column)
    expected_NV = (oracle_logits(hidden_NE, head) / 4).log_softmax(dim=1)
    tempered_NK = found["logprobs_NK"] / 4 - found["log_z_NT"]
    assert torch.allclose(tempered_NK.double(), expected_NV.gather(1, found["ids_NK"]), rtol=0, atol=1e-5)


def test_log_softmax_runs_over_the_whole_vocabulary_and_not_over_the_kept_entries() -> None:
    found = measure(torch.randn(23, 16), random_head(scale=0.2), TopKColumn(4, (1,), 97))
    assert found["logprobs_NK"].exp().sum(dim=1).max() < 0.98


def test_class_scores_are_the_whole_vocabularys_logprobs() -> None:
    hidden_NE = torch.randn(7, 16)
    found = measure(hidden_NE, random_head(), ClassScoresColumn((90, 2, 31)))
    expected_NC = oracle_logits(hidden_NE, random_head()).log_softmax(dim=1)[:, [90, 2, 31]]
    assert torch.allclose(found["scores_NC"].double(), expected_NC, rtol=0, atol=2e-5)


def test_hidden_states_are_taken_as_they_are() -> None:
    hidden_NE = torch.randn(7, 16)
    assert measure(hidden_NE, random_head(), FinalHiddenColumn(16))["hidden_NE"] is hidden_NE


@pytest.mark.parametrize("vocab_block", [10, 97, 8192])
def test_a_bf16_head_is_applied_without_rounding_the_logits(monkeypatch: pytest.MonkeyPatch, vocab_block: int) -> None:
    monkeypatch.setattr(module, "VOCAB_BLOCK", vocab_block)
    hidden_NE = torch.randn(23, 16).mul(4).bfloat16()
    head = random_head(dtype=torch.bfloat16, scale=2.0, softcap=50.0)
    exact_NV = oracle_logits(hidden_NE, head)
    assert (head_logits(hidden_NE, head).double() - exact_NV).abs().max() < 1e-4
    assert (head.logits(hidden_NE).double() - exact_NV).abs().max() > 1e-2  # what the product in bf16 loses


def test_no_logprob_is_above_zero_when_one_entry_has_all_the_mass() -> None:
    hidden_NE = torch.randn(200, 16).mul(100)
    found = measure(hidden_NE, random_head(), TopKColumn(2, (1, 2), 97))
    assert found["logprobs_NK"].max() == 0
    assert TopKColumn(2, (1, 2), 97).first_problem(found) is None


def test_columns_that_share_the_tiles_get_what_each_gets_alone() -> None:
    hidden_NE, head = torch.randn(23, 16), random_head(scale=0.7)
    columns: list[Column] = [
        TopKColumn(5, (1, 2), 97),
        SampledColumn(6, 2.0, 1, 97),
        ClassScoresColumn((4, 9)),
        FinalHiddenColumn(16),
        SampledColumn(6, 0.5, 1, 97, head_k=3),
    ]
    together = measure_vocabulary(hidden_NE, TiledHead(head), columns)
    assert set(together) == set(columns)
    for column in columns:
        alone = measure(hidden_NE, head, column)
        assert all(torch.equal(alone[name], together[column][name]) for name in alone), column.name


def as_sampled(column: SampledColumn, tensors: dict[str, torch.Tensor]) -> Sampled:
    signal = as_signal(column, tensors, None)
    assert isinstance(signal, Sampled)
    return signal


def dense_weights(signal: Sampled) -> torch.Tensor:
    dense_NV = torch.zeros(len(signal.ids_NK), signal.vocab_size, dtype=torch.float64)
    return dense_NV.scatter_add_(1, signal.ids_NK, signal.weights_NK.double())


@pytest.mark.parametrize("head_k", [0, 5])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_samples_are_what_the_column_says(temperature: float, head_k: int) -> None:
    column = SampledColumn(12, temperature, 3, 97, head_k=head_k)
    hidden_NE, head = torch.randn(23, 16), random_head(scale=0.4)
    found = measure(hidden_NE, head, column)
    assert column.first_problem(found) is None
    logprobs_NV = (oracle_logits(hidden_NE, head) / temperature).log_softmax(dim=1)
    is_kept_NK = (found["counts_NK"] > 0) | (torch.arange(found["ids_NK"].shape[1]) < head_k)
    expected_NK = logprobs_NV.gather(1, found["ids_NK"]).where(is_kept_NK, 0)
    assert torch.allclose(found["logprobs_NK"].double(), expected_NK, rtol=0, atol=2e-5)
    assert torch.equal(found["ids_NK"][:, :head_k], logprobs_NV.topk(head_k, dim=1).indices)
    signal = as_sampled(column, found)
    assert torch.allclose(signal.weights_NK.sum(dim=1), torch.ones(23), rtol=0, atol=1e-6)
    assert (signal.weights_NK >= 0).all()
    assert (signal.weights_NK[~is_kept_NK] == 0).all()
    assert torch.allclose(signal.weights_NK[:, :head_k], found["logprobs_NK"][:, :head_k].exp(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("head_k", [0, 4])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_mean_of_the_weights_over_many_draws_is_the_teachers(temperature: float, head_k: int) -> None:
    num_seeds, num_rows, num_draws = 5, 400, 6
    hidden_NE = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    head = OutputHead(torch.randn(20, 16, generator=torch.Generator().manual_seed(1)).mul(0.4))
    probs_NV = (hidden_NE.double() @ head.weight_VD.double().T / temperature).softmax(dim=1)
    rows = [TeacherRow(np.array([number], np.int32), np.arange(3)) for number in range(num_rows)]
    total = torch.zeros_like(probs_NV)
    for seed in range(num_seeds):
        column = SampledColumn(num_draws, temperature, seed, 20, head_k=head_k)
        tensors = measure(hidden_NE.repeat(num_rows, 1), head, column, rows)
        total += dense_weights(as_sampled(column, tensors)).reshape(num_rows, 3, 20).sum(dim=0)
    num_samples = num_seeds * num_rows
    tail_NV = probs_NV.clone()
    tail_NV.scatter_(1, probs_NV.topk(head_k, dim=1).indices, 0.0)
    mass_N1 = tail_NV.sum(dim=1, keepdim=True)
    share_NV = tail_NV / mass_N1
    errors_NV = mass_N1 * (share_NV * (1 - share_NV) / (num_draws * num_samples)).sqrt()
    assert ((total / num_samples - probs_NV).abs() <= 4 * errors_NV + 1e-6).all()
    assert errors_NV.max() < 0.01  # so that a tail that is forgotten, or drawn evenly, would show


def test_the_draws_of_a_position_do_not_depend_on_the_batch_that_it_is_in() -> None:
    hidden_NE, head = torch.randn(12, 16), random_head(scale=0.5)
    rows = [TeacherRow(np.full(9, number, np.int32), np.array([1, 4, 7])) for number in range(4)]
    column = SampledColumn(9, 1.0, 0, 97, head_k=2)
    together = dense_weights(as_sampled(column, measure(hidden_NE, head, column, rows)))
    order = [2, 0, 3, 1]
    places = torch.tensor([3 * number + place for number in order for place in range(3)])
    shuffled = measure(hidden_NE[places], head, column, [rows[number] for number in order])
    assert torch.equal(dense_weights(as_sampled(column, shuffled)), together[places])
    subset = [TeacherRow(row.ids, row.positions[1:2]) for row in rows[2:]]
    alone = measure(hidden_NE[[7, 10]], head, column, subset)
    # other shapes of products move the weights of the head by a rounding, and no draw here
    assert torch.allclose(dense_weights(as_sampled(column, alone)), together[[7, 10]], rtol=0, atol=1e-6)
    # the defect: numbers counted through the batch
    nameless = dense_weights(as_sampled(column, measure(hidden_NE[places], head, column)))
    assert not torch.equal(nameless, together[places])


def test_a_tail_that_underflows_beside_its_head_is_still_drawn_from_in_proportion() -> None:
    head = OutputHead(torch.eye(20))
    hidden_NE = torch.zeros(400, 20)
    hidden_NE[:, 3] = 300.0  # float32 exponentials of all others are 0
    hidden_NE[:, 5] = 2.0
    column = SampledColumn(50, 1.0, 0, 20, head_k=1)
    found = measure(hidden_NE, head, column)
    assert column.first_problem(found) is None
    share = float((found["counts_NK"] * (found["ids_NK"] == 5)).sum()) / (400 * 50)
    expected = np.exp(2) / (np.exp(2) + 18)
    assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / (400 * 50))
    signal = as_sampled(column, found)
    assert torch.equal(signal.weights_NK[:, 0], torch.ones(400))


def test_the_mass_of_a_small_tail_keeps_its_digits() -> None:
    tensors = {
        "ids_NK": torch.tensor([[3, 8]]),
        "counts_NK": torch.tensor([[0, 4]]),
        "logprobs_NK": torch.tensor([[-1e-7, -17.0]]),
    }
    weights_NK = as_sampled(SampledColumn(4, 1.0, 0, 20, head_k=1), tensors).weights_NK
    assert weights_NK[0, 1].item() == pytest.approx(1e-7, rel=1e-5)
    tensors["logprobs_NK"][0, 0] = 0.0  # one rounding up: nothing is left for the tail
    assert as_sampled(SampledColumn(4, 1.0, 0, 20, head_k=1), tensors).weights_NK.tolist() == [[1.0, 0.0]]


def test_nan_logits_give_samples_that_the_column_refuses() -> None:
    hidden_NE = torch.randn(5, 16)
    hidden_NE[2] = float("nan")
    column = SampledColumn(4, 1.0, 0, 97)
    problem = column.first_problem(measure(hidden_NE, random_head(), column))
    assert problem is not None
    assert problem[0] == 2


@pytest.mark.parametrize("column", [TopKColumn(4, (1, 2), 97), SampledColumn(4, 1.0, 0, 97), ClassScoresColumn((1, 2))])
def test_no_position_at_all_gives_empty_tensors(column: Column) -> None:
    found = measure(torch.empty(0, 16), random_head(), column)
    assert all(len(tensor) == 0 for tensor in found.values())
