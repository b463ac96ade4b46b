"""From scores to answers."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.errors import DataError, NumericsError
from tutelage.evaluate import evaluate_classification, items_from_scores, score_choices, teacher_items_from_scores

LABELS = ("negative", "positive")
OPTIONS = {"pad_id": 0, "token_budget": 64, "device": "cpu"}


def items_of(scores, **changes):
    scores = np.array(scores, dtype=np.float64)
    parts = {
        "item_keys": [f"item/{index}" for index in range(len(scores))],
        "gold_B": np.zeros(len(scores), dtype=np.int64),
        "valid_B": np.ones(len(scores), dtype=bool),
        "labels": LABELS,
    }
    return items_from_scores(scores, **parts | changes)


def test_a_model_answers_with_the_choice_of_the_highest_score(model, make_prompts):
    prompts = make_prompts([[5], [9, 8]])
    texts = [f"text {index}" for index in range(len(prompts))]
    items = evaluate_classification(model, prompts, labels=LABELS, texts=texts, **OPTIONS)
    scores = score_choices(model, prompts, **OPTIONS)
    np.testing.assert_array_equal(items.prediction_B, scores.logprobs_BC.argmax(1))
    np.testing.assert_array_equal(items.logprobs_BC, scores.logprobs_BC)
    np.testing.assert_array_equal(items.gold_B, [prompt.gold for prompt in prompts])
    np.testing.assert_array_equal(items.score_B, items.prediction_B == items.gold_B)
    np.testing.assert_array_equal(items.valid_B, [top in (5, 9) for top in scores.top1_B])
    assert items.item_keys == tuple(prompt.item_key for prompt in prompts)
    assert items.cluster_keys == tuple(prompt.cluster_key for prompt in prompts)
    assert items.texts == tuple(texts)
    assert len(items) == len(prompts)


def test_an_answer_is_valid_when_the_model_itself_would_begin_a_verbaliser(model, make_prompts):
    top = score_choices(model, make_prompts([[5], [9]]), **OPTIONS).top1_B
    common = int(np.bincount(top).argmax())
    never = next(token for token in range(1, 61) if token not in top)
    items = evaluate_classification(model, make_prompts([[common, 3], [never]]), labels=LABELS, **OPTIONS)
    np.testing.assert_array_equal(items.valid_B, top == common)
    assert items.valid_B.any()


def test_items_without_clusters_are_clusters_of_their_own(model, make_prompts):
    prompts = [dataclasses.replace(prompt, cluster_key="") for prompt in make_prompts([[5], [9]])]
    items = evaluate_classification(model, prompts, labels=LABELS, **OPTIONS)
    assert items.cluster_keys == items.item_keys
    given_keys = [f"c{index % 3}" for index in range(len(prompts))]
    items = evaluate_classification(model, prompts, labels=LABELS, cluster_keys=given_keys, **OPTIONS)
    assert items.cluster_keys == tuple(given_keys)


def test_confidence_is_the_share_of_the_choices_joint_mass():
    items = items_of([[np.log(0.06), np.log(0.02)], [-1000.0, -1001.0], [-3.0, -3.0], [0.0, -2000.0]])
    np.testing.assert_allclose(items.confidence_B, [0.75, 1 / (1 + np.exp(-1)), 0.5, 1.0], rtol=1e-12)
    np.testing.assert_array_equal(items.prediction_B, [0, 0, 0, 0])  # equal scores: the first label


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_an_error_and_never_an_answer(bad):
    with pytest.raises(NumericsError, match=r"1 of 3 items is not finite \(first: item/1\)"):
        items_of([[-1.0, -2.0], [-1.0, bad], [-1.0, -2.0]])


def test_parts_that_do_not_fit_together_are_refused():
    with pytest.raises(DataError, match=r"shape \(2, 2\).*3 items"):
        items_of([[-1.0, -2.0]] * 2, item_keys=["a", "b", "c"])
    with pytest.raises(DataError, match="labels"):
        items_of([[-1.0, -2.0, -3.0]])
    with pytest.raises(DataError, match="at least"):
        items_of(np.zeros((0, 2)), gold_B=np.zeros(0, dtype=np.int64))
    with pytest.raises(DataError, match="gold label is 0 or 2, expected 0 to 1"):
        items_of([[-1.0, -2.0]] * 2, gold_B=[0, 2])
    with pytest.raises(DataError, match="gold label is -1"):
        items_of([[-1.0, -2.0]] * 2, gold_B=[-1, 1])
    with pytest.raises(DataError, match=r"differ in length.*gold_B"):
        items_of([[-1.0, -2.0]] * 2, gold_B=[0])
    with pytest.raises(DataError, match=r"differ in length.*texts"):
        items_of([[-1.0, -2.0]] * 2, texts=["a"])


def test_the_teachers_items_from_cached_scores_equal_those_of_its_own_pass(model, make_prompts):
    prompts = make_prompts([[5], [9]])
    own = evaluate_classification(model, prompts, labels=LABELS, **OPTIONS)
    assert own.logprobs_BC is not None
    cached = teacher_items_from_scores(
        own.logprobs_BC,
        item_keys=[prompt.item_key for prompt in prompts],
        gold_B=[prompt.gold for prompt in prompts],
        labels=LABELS,
        cluster_keys=[prompt.cluster_key for prompt in prompts],
        valid_B=own.valid_B,
    )
    for field in dataclasses.fields(own):
        np.testing.assert_array_equal(getattr(cached, field.name), getattr(own, field.name), err_msg=field.name)


@given(st.lists(st.floats(-8, 8), min_size=3, max_size=12))
def test_what_scores_alone_prove_about_validity_is_true_and_complete_above_one_half(logits):
    logits = np.array(logits)
    logprobs = logits - np.logaddexp.reduce(logits)
    items = teacher_items_from_scores(logprobs[None, :2], item_keys=["a"], gold_B=[0], labels=LABELS)
    top_is_label = logprobs[:2].max() >= logprobs[2:].max() - 1e-9
    if items.valid_B[0]:
        assert top_is_label
    if np.exp(logprobs[:2].max()) > 0.5 + 1e-9:
        assert items.valid_B[0]
