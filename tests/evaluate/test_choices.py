"""The score of a choice is its log-probability after the prompt, whatever shares its batch."""

import dataclasses

import numpy as np
import pytest
import torch

from tutelage.errors import DataError, NumericsError
from tutelage.evaluate import choices, score_choices
from tutelage.models.head import final_hidden, find_head

OPTIONS = {"pad_id": 0, "token_budget": 64, "device": "cpu"}
# float32 sums over 16 features, padded or not, another order of additions: seen 2e-6 on scores of -20 nats.
TOLERANCE = 2e-5

SINGLE = [[5], [9], [30]]
LONG = [[5, 7], [9, 8, 12]]
MIXED = [[5], [9, 8, 12], [9, 8, 13], [30, 2]]


def oracle_scores(model, prompts, oracle_logprobs):
    scores, tops = [], []
    for prompt in prompts:
        own = []
        for ids in prompt.choice_ids:
            logprobs = oracle_logprobs(model, np.concatenate([prompt.prompt_ids, ids]))
            start = len(prompt.prompt_ids) - 1
            own.append(sum(logprobs[start + step, token] for step, token in enumerate(ids)))
        scores.append(own)
        tops.append(oracle_logprobs(model, prompt.prompt_ids)[-1].argmax())
    return np.array(scores), np.array(tops)


@pytest.mark.parametrize("verbalisers", [SINGLE, LONG, MIXED], ids=["single", "long", "mixed"])
def test_scores_equal_those_of_whole_unpadded_sequences_in_float64(model, make_prompts, oracle_logprobs, verbalisers):
    prompts = make_prompts(verbalisers)
    scores = score_choices(model, prompts, **OPTIONS)
    expected, tops = oracle_scores(model, prompts, oracle_logprobs)
    np.testing.assert_allclose(scores.logprobs_BC, expected, atol=TOLERANCE)
    np.testing.assert_array_equal(scores.top1_B, tops)
    assert scores.logprobs_BC.dtype == np.float64
    assert np.ptp(expected) > 2  # the model is not so uniform that everything would pass


def test_a_single_token_scores_the_same_beside_longer_choices(model, make_prompts):
    alone = score_choices(model, make_prompts([[5], [30]]), **OPTIONS)
    beside = score_choices(model, make_prompts([[5], [30], [9, 8, 12]]), **OPTIONS)
    np.testing.assert_allclose(beside.logprobs_BC[:, :2], alone.logprobs_BC, atol=TOLERANCE)
    np.testing.assert_array_equal(beside.top1_B, alone.top1_B)


@pytest.mark.parametrize("verbalisers", [SINGLE, MIXED], ids=["single", "mixed"])
def test_results_are_in_the_order_of_the_prompts_whatever_the_batches(model, make_prompts, verbalisers):
    prompts = make_prompts(verbalisers)
    whole = score_choices(model, prompts, **OPTIONS)
    order = np.random.default_rng(0).permutation(len(prompts))
    shuffled = score_choices(model, [prompts[index] for index in order], **OPTIONS)
    np.testing.assert_allclose(shuffled.logprobs_BC, whole.logprobs_BC[order], atol=TOLERANCE)
    np.testing.assert_array_equal(shuffled.top1_B, whole.top1_B[order])


@pytest.mark.parametrize("verbalisers", [SINGLE, MIXED], ids=["single", "mixed"])
def test_padding_does_not_change_scores(model, make_prompts, verbalisers):
    prompts = make_prompts(verbalisers)
    alone = score_choices(model, prompts, **OPTIONS | {"token_budget": 1})  # every sequence by itself, no padding
    together = score_choices(model, prompts, **OPTIONS | {"token_budget": 10_000})
    np.testing.assert_allclose(together.logprobs_BC, alone.logprobs_BC, atol=TOLERANCE)
    other_pad = score_choices(model, prompts, **OPTIONS | {"token_budget": 10_000, "pad_id": 60})
    np.testing.assert_allclose(other_pad.logprobs_BC, together.logprobs_BC, atol=1e-7)


def test_single_tokens_cost_one_sequence_per_prompt_and_one_position_of_the_head(model, make_prompts, monkeypatch):
    seen = []

    def spy(model, batch):
        seen.append((batch.input_ids.shape[0], batch.num_targets, batch.num_tokens))
        return final_hidden(model, batch)

    monkeypatch.setattr(choices, "final_hidden", spy)
    prompts = make_prompts(SINGLE)
    score_choices(model, prompts, **OPTIONS)
    rows, positions, tokens = np.array(seen).sum(axis=0)
    assert rows == positions == len(prompts)
    assert tokens == sum(len(prompt.prompt_ids) for prompt in prompts)

    seen.clear()
    score_choices(model, make_prompts(MIXED), **OPTIONS)
    rows, positions, _ = np.array(seen).sum(axis=0)
    assert rows == 3 * len(prompts)  # [9, 8, 12] and [9, 8, 13] share a pass
    assert positions == (1 + 3 + 2) * len(prompts)


def test_no_more_than_a_chunk_of_logits_is_alive(model, make_prompts, monkeypatch):
    prompts = make_prompts(MIXED)
    whole = score_choices(model, prompts, **OPTIONS)
    sizes = []
    real = choices.head_logits
    monkeypatch.setattr(choices, "CHUNK_BYTES", 3 * 61 * 4)
    monkeypatch.setattr(choices, "head_logits", lambda hidden, head: sizes.append(len(hidden)) or real(hidden, head))
    chunked = score_choices(model, prompts, **OPTIONS)
    assert max(sizes) == 3
    assert sum(sizes) == 6 * len(prompts)
    np.testing.assert_allclose(chunked.logprobs_BC, whole.logprobs_BC, atol=TOLERANCE)
    np.testing.assert_array_equal(chunked.top1_B, whole.top1_B)


def test_under_autocast_the_heads_product_keeps_float32_digits(model, make_prompts):
    prompts = make_prompts(SINGLE, number=1)
    ids = torch.tensor(prompts[0].prompt_ids[None].astype(np.int64))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        scores = score_choices(model, prompts, **OPTIONS).logprobs_BC[0]
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[0, -1].float()
        coarse = torch.nn.functional.linear(hidden, find_head(model).weight_VD).float().log_softmax(-1)[[5, 9, 30]]
    fine = torch.nn.functional.linear(hidden, find_head(model).weight_VD).log_softmax(-1)[[5, 9, 30]].detach()
    np.testing.assert_allclose(scores, fine.double().numpy(), atol=1e-5)
    assert np.abs(coarse.double().numpy() - scores).max() > 1e-3  # what a bfloat16 head would have said


def test_the_models_mode_and_gradients_are_left_as_they_were(make_model, make_prompts):
    model = make_model(dropout=0.5)
    model.train()
    model.model.layers[0].eval()
    before = {name: module.training for name, module in model.named_modules()}
    prompts = make_prompts(SINGLE)
    first = score_choices(model, prompts, **OPTIONS)
    np.testing.assert_array_equal(score_choices(model, prompts, **OPTIONS).logprobs_BC, first.logprobs_BC)  # no dropout
    assert {name: module.training for name, module in model.named_modules()} == before
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.is_grad_enabled()


def test_the_mode_comes_back_after_an_error_too(make_model, make_prompts, monkeypatch):
    model = make_model().train()

    def fail(model, batch):
        raise ZeroDivisionError

    monkeypatch.setattr(choices, "final_hidden", fail)
    with pytest.raises(ZeroDivisionError):
        score_choices(model, make_prompts(SINGLE), **OPTIONS)
    assert all(module.training for module in model.modules())


def test_scores_that_are_not_finite_are_an_error_that_names_the_items(make_model, make_prompts):
    model = make_model()
    prompts = make_prompts(SINGLE)
    token = next(
        t for t in range(1, 61) if sum(t in prompt.prompt_ids for prompt in prompts) == 1 and t not in (5, 9, 30)
    )
    hit = next(prompt.item_key for prompt in prompts if token in prompt.prompt_ids)
    untied = model.get_input_embeddings().weight.detach().clone()
    model.set_output_embeddings(torch.nn.Linear(16, 61, bias=False))
    model.get_output_embeddings().weight.data = untied.clone()
    with torch.no_grad():
        model.get_input_embeddings().weight[token] = float("nan")
    with pytest.raises(NumericsError, match=rf"1 of 12 items is not finite \(first: {hit}\)") as caught:
        score_choices(model, prompts, **OPTIONS)
    assert caught.value.exit_code == 6


def test_prompts_that_cannot_be_scored_are_refused_by_name(model, make_prompts):
    prompts = make_prompts(SINGLE)
    with pytest.raises(DataError, match="found 0 prompts"):
        score_choices(model, [], **OPTIONS)
    for change in (
        {"prompt_ids": np.array([], dtype=np.int32)},
        {"choice_ids": [np.array([5], dtype=np.int32), np.array([], dtype=np.int32), np.array([6], dtype=np.int32)]},
        {"choice_ids": [np.array([5], dtype=np.int32)]},
    ):
        bad = [*prompts[:3], dataclasses.replace(prompts[3], **change)]
        with pytest.raises(DataError, match="Item item/3"):
            score_choices(model, bad, **OPTIONS)
