"""The head in tiles gives what float64 over the whole vocabulary gives."""

import pytest
import torch

from tutelage.cache import ClassScoresColumn, FinalHiddenColumn, TopKColumn
from tutelage.teacher import measure as module
from tutelage.teacher.measure import head_logits, measure
from tutelage.types import OutputHead


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
