"""Likelihoods are those of the model's own logits; items, metrics and their file agree."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tutelage.data import TextItem, Turn
from tutelage.errors import DataError, IntegrityError, NumericsError, PreemptedError
from tutelage.evaluate import (
    OwnAnswer,
    RowLikelihoods,
    TextItems,
    read_text_items,
    row_likelihoods,
    text_items,
    text_metrics,
    write_text_items,
)
from tutelage.types import StudentRow, row_key


def row(key, ids, targets):
    mask = np.zeros(len(ids), dtype=bool)
    mask[targets] = True
    array = np.array(ids, dtype=np.int32)
    return StudentRow(key, array, mask, row_key(array))


ROWS = [
    row("a", [5, 6, 7, 8, 9, 10], [1, 2, 3, 4, 5]),
    row("a#1", [10, 11, 12], [1, 2]),
    row("b", [20, 21, 22, 23], [3]),
    row("c", [30, 31, 32, 33, 34, 35, 36], [2, 3, 6]),
]
ITEMS = [TextItem(key, f"cluster {key}", (Turn("document", f"text {key}"),)) for key in "abcd"]


def scored(model, rows=ROWS, *, token_budget=64, should_stop=None):
    return row_likelihoods(model, rows, pad_id=0, token_budget=token_budget, device="cpu", should_stop=should_stop)


def oracle(model, each):
    """Score one row alone, unpadded, in float64, with the model's own forward."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor(each.ids[None].astype(np.int64))).logits[0].double()
    places = np.flatnonzero(each.target_mask)
    logprobs = logits[places - 1].log_softmax(dim=1)
    labels = torch.tensor(each.ids[places].astype(np.int64))
    return logprobs.gather(1, labels[:, None]).sum().item(), int((logprobs.argmax(dim=1) == labels).sum())


def test_a_stop_between_two_batches_gives_no_likelihoods_rather_than_certain_ones(make_model):
    answers = iter([False, True])
    with pytest.raises(PreemptedError):
        scored(make_model(), token_budget=1, should_stop=lambda: next(answers))


@pytest.mark.parametrize("token_budget", [1, 14, 64])
def test_likelihoods_are_those_of_the_models_own_logits_however_rows_are_batched(make_model, token_budget):
    model = make_model()
    found = scored(model, token_budget=token_budget)
    for index, each in enumerate(ROWS):
        logprob, num_right = oracle(model, each)
        assert found.logprob_R[index] == pytest.approx(logprob, abs=1e-4)
        assert found.num_right_R[index] == num_right
    assert found.num_targets_R.tolist() == [5, 2, 1, 3]


def test_right_tokens_are_counted(make_model):
    model = make_model()
    ids = [5]
    for _ in range(6):
        with torch.no_grad():
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    found = scored(model, [row("greedy", ids, [1, 2, 3, 4, 5, 6]), row("other", [5, (ids[1] + 1) % 61], [1])])
    assert found.num_right_R.tolist() == [6, 0]


def test_rows_without_targets_and_weights_that_are_not_finite_are_refused(make_model):
    with pytest.raises(DataError, match="there are no rows"):
        scored(make_model(), [])
    with pytest.raises(DataError, match="row x has none"):
        scored(make_model(), [row("x", [1, 2], [])])
    model = make_model()
    with torch.no_grad():
        model.get_output_embeddings().weight.fill_(float("nan"))
    with pytest.raises(NumericsError, match="log-probability of 4 of 4 items"):
        scored(model)


FOUND = RowLikelihoods(np.log([0.5**5, 0.25**2, 0.1, 0.2**3]), np.array([4, 2, 0, 1]), np.array([5, 2, 1, 3]))


def test_the_rows_of_one_text_are_one_item_and_texts_without_rows_are_none():
    items = text_items(ITEMS, ROWS, FOUND, [10, 4, 2, 6])
    assert items.item_keys == ("a", "b", "c")
    assert items.cluster_keys == ("cluster a", "cluster b", "cluster c")
    assert items.num_targets_B.tolist() == [7, 1, 3]
    assert items.num_bytes_B.tolist() == [14, 2, 6]
    assert items.score_B.tolist() == pytest.approx([6 / 7, 0, 1 / 3])
    assert items.token_probability_B.tolist() == pytest.approx([2 ** (-9 / 7), 0.1, 0.2])
    with pytest.raises(DataError, match="Row a belongs to none of the 1 items"):
        text_items(ITEMS[1:2], ROWS, FOUND, [1, 1, 1, 1])


def test_metrics_are_means_over_items_and_sums_over_tokens():
    found = text_metrics(text_items(ITEMS, ROWS, FOUND, [10, 4, 2, 6]))
    nats = 9 * math.log(2) + math.log(10) + 3 * math.log(5)
    assert found["token_accuracy"] == pytest.approx((6 / 7 + 1 / 3) / 3)
    assert found["nll"] == pytest.approx(nats / 11)
    assert found["perplexity"] == pytest.approx(math.exp(nats / 11))
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / 22)
    assert found["n"] == 3


def test_a_hopeless_model_has_a_finite_perplexity():
    worst = RowLikelihoods(np.full(4, -1e6), np.zeros(4, dtype=np.int64), np.array([5, 2, 1, 3]))
    assert math.isfinite(text_metrics(text_items(ITEMS, ROWS, worst, [1, 1, 1, 1]))["perplexity"])


def test_a_uniform_model_has_the_perplexity_of_its_vocabulary(make_model):
    model = make_model()
    with torch.no_grad():
        model.get_output_embeddings().weight.zero_()
    vocab_size = model.get_output_embeddings().weight.shape[0]
    found = text_metrics(text_items(ITEMS, ROWS, scored(model), [1, 1, 1, 1]))
    assert found["perplexity"] == pytest.approx(vocab_size)
    assert found["token_probability"] == pytest.approx(1 / vocab_size)


@pytest.mark.parametrize("score_name", ["token_accuracy", "token_probability"])
def test_the_file_gives_the_items_back_and_holds_the_score_that_statistics_compare(tmp_path, score_name):
    import pyarrow.parquet as pq

    items = text_items(ITEMS, ROWS, FOUND, [10, 4, 2, 6], score_name=score_name)
    write_text_items(tmp_path / "items.parquet", items)
    read = read_text_items(tmp_path / "items.parquet")
    assert (read.score_name, read.item_keys, read.texts) == (score_name, items.item_keys, items.texts)
    assert text_metrics(read) == text_metrics(items)
    table = pq.read_table(tmp_path / "items.parquet")
    assert np.mean(table["score"].to_pylist()) == pytest.approx(text_metrics(items)[score_name])
    write_text_items(tmp_path / "again.parquet", read)
    assert (tmp_path / "again.parquet").read_bytes() == (tmp_path / "items.parquet").read_bytes()


def test_another_score_and_another_file_are_refused(tmp_path):
    with pytest.raises(DataError, match="no score 'nll'; expected one of token_accuracy"):
        text_items(ITEMS, ROWS, FOUND, [1, 1, 1, 1], score_name="nll")
    (tmp_path / "items.parquet").write_bytes(b"no")
    with pytest.raises(IntegrityError, match="cannot be read as Parquet"):
        read_text_items(tmp_path / "items.parquet")


def test_the_answers_that_a_model_writes_itself_are_counted_and_kept(tmp_path):
    answers = (
        OwnAnswer("", "Ann rules", has_ended=True, runs_on=False, num_tokens=1),
        OwnAnswer("Ann rules.\nUser: and", "Ann rules", has_ended=False, runs_on=True, num_tokens=9),
        None,
    )
    items = TextItems(
        "token_accuracy",
        ("a", "b", "c"),
        ("a", "b", "c"),
        np.array([-1.0, -2.0, -3.0]),
        np.array([2, 2, 2]),
        np.array([1, 1, 1]),
        np.array([9, 9, 9]),
        ("x", "y", "z"),
        answers,
    )
    metrics = text_metrics(items)
    assert {name: metrics[name] for name in metrics if name.startswith("answer")} == {
        "answers_empty": 0.5,
        "answers_ended": 0.5,
        "answers_run_on": 0.5,
        "answer_f1": pytest.approx((0 + 2 * 2 / (2 + 4)) / 2),
        "answer_tokens": 5.0,
        "answers_n": 2,
    }
    write_text_items(tmp_path / "items.parquet", items)
    assert read_text_items(tmp_path / "items.parquet").answers == answers
    silent = replace(items, answers=())
    assert not any(name.startswith("answer") for name in text_metrics(silent))
