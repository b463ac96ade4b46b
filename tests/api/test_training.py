"""Rows of one's own through the batch plan and the loop."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from transformers import LlamaConfig, LlamaForCausalLM

import tutelage
from tutelage.errors import ConfigError, DataError, TrainingError

VOCAB, PAD = 32, 0


def tiny_llama(hidden_size, seed):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=hidden_size, intermediate_size=2 * hidden_size, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=32, pad_token_id=PAD,
    )  # fmt: skip
    return LlamaForCausalLM(config)


@pytest.fixture(scope="module")
def rows():
    draw, made = np.random.default_rng(0), []
    for number in range(12):
        prompt = draw.integers(2, VOCAB, size=draw.integers(4, 8))
        ids = np.concatenate([prompt, prompt[:-4:-1], [1]])
        made.append(tutelage.make_row(ids, np.arange(len(ids)) >= len(prompt), name=f"row/{number}"))
    return made


@pytest.fixture(scope="module")
def teacher():
    model = tiny_llama(32, 1).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(10.0)
    return model


SETTINGS = {
    "pad_id": PAD, "temperature": 2.0, "learning_rate": 1e-2, "max_steps": 6, "per_device_train_batch_size": 4,
    "lr_scheduler_type": "constant", "save_steps": None, "show": lambda record: None,
}  # fmt: skip


def test_a_student_learns_from_a_live_teacher_as_it_does_from_the_teachers_cache(rows, teacher, tmp_path):
    cache = tutelage.teach_rows(teacher, rows, tmp_path / "cache")
    weights, results = [], []
    for name, source in (("live", teacher), ("cached", cache.teacher())):
        student = tiny_llama(16, 2)
        first: list[float] = []
        changes = {"show": lambda record, first=first: first.append(record.loss_nats)}
        results.append(tutelage.train_rows(student, rows, source, tmp_path / name, **SETTINGS | changes))
        weights.append(student.state_dict())
        assert results[-1].final_loss_nats < first[0]
    assert results[0].targets == 6 * 4 * 4  # steps, rows, targets of each
    for name, tensor in weights[0].items():
        assert_close(weights[1][name], tensor, rtol=1e-4, atol=1e-5)


def test_what_is_cached_of_a_model_in_memory_is_not_repeated(rows, teacher, tmp_path):
    cache = tutelage.teach_rows(teacher, rows, tmp_path, kind="topk", k=4, temperatures=(1.0, 2.0))
    (payload,) = cache.folder.glob("*/*/payload.bin")
    before = payload.stat().st_mtime_ns
    again = tutelage.teach_rows(teacher, rows, tmp_path, kind="topk", k=4, temperatures=(1.0, 2.0))
    assert again.columns == cache.columns
    assert payload.stat().st_mtime_ns == before
    assert cache.read(rows[:2], kind="topk", temperatures=(2.0,)).ids_NK.shape == (8, 4)


def test_the_same_call_again_gives_the_finished_weights(rows, teacher, tmp_path):
    first, second = tiny_llama(16, 2), tiny_llama(16, 2)
    done = tutelage.train_rows(first, rows, teacher, tmp_path, **SETTINGS)
    assert tutelage.train_rows(second, rows, teacher, tmp_path, **SETTINGS).final_loss_nats == done.final_loss_nats
    for name, tensor in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], tensor)
    with pytest.raises(TrainingError, match="run"):  # another student, other first weights
        tutelage.train_rows(tiny_llama(16, 3), rows, teacher, tmp_path, **SETTINGS)
    with pytest.raises(TrainingError, match="run"):
        tutelage.train_rows(tiny_llama(16, 2), rows, tiny_llama(32, 4), tmp_path, **SETTINGS)


class Served:
    """A teacher engine of a user's own: whatever it asks, it answers with the likeliest ids at the batch's targets."""

    def __init__(self, model):
        self.model = model

    @torch.no_grad()
    def signal(self, batch):
        logits = self.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits.flatten(0, 1)
        found = torch.log_softmax(logits[batch.logit_index_N], -1).topk(VOCAB)
        return tutelage.topk_record(found.indices, found.values, vocab_size=VOCAB)


def test_a_teacher_of_ones_own_is_anything_that_answers_for_a_batch(rows, teacher, tmp_path):
    settings = SETTINGS | {"temperature": 1.0}
    own = tutelage.train_rows(tiny_llama(16, 2), rows, Served(teacher), tmp_path / "own", **settings)
    live = tutelage.train_rows(tiny_llama(16, 2), rows, teacher, tmp_path / "live", **settings)
    assert own.final_loss_nats == pytest.approx(live.final_loss_nats, rel=1e-4)


def test_without_a_teacher_the_rows_alone_are_learned(rows, tmp_path):
    result = tutelage.train_rows(tiny_llama(16, 2), rows, None, tmp_path, **SETTINGS)
    assert result.steps == 6


def test_labels_as_transformers_has_them_mark_the_same_targets():
    ids = [5, 6, 7, 8]
    marked = tutelage.make_row(ids, [False, False, True, True])
    labelled = tutelage.make_row(ids, [-100, -100, 7, 8])
    assert labelled.target_mask.tolist() == marked.target_mask.tolist()
    assert labelled.teacher_key == marked.teacher_key


@pytest.mark.parametrize(
    ("ids", "targets", "message"),
    [
        ([5, 6, 7], [False, False, False], "no token is a target"),
        ([5, 6, 7], [True, True, True], "token 0 is a target"),
        ([5, 6, 7], [-100, 7, -100], "the label of token 1 is 7, its id 6"),
        ([5, 6, 7], [False, True], r"targets shape \(2,\)"),
        ([[5, 6, 7]], [[False, True, True]], r"expected whole numbers of shape \(T,\)"),
        ([0.5, 6, 7], [False, True, True], "dtype float64"),
    ],
)
def test_a_row_that_cannot_be_learned_is_refused(ids, targets, message):
    with pytest.raises(DataError, match=message):
        tutelage.make_row(ids, targets)


def test_wrong_arguments_are_answered_in_words(rows, teacher, tmp_path):
    student = tiny_llama(16, 2)
    with pytest.raises(ConfigError, match="no option 'learning_rat'; did you mean learning_rate"):
        tutelage.train_rows(student, rows, teacher, tmp_path, pad_id=PAD, learning_rat=1e-3)
    with pytest.raises(DataError, match="there are no rows"):
        tutelage.train_rows(student, [], teacher, tmp_path, pad_id=PAD)
    with pytest.raises(ValueError, match="divergence is 'kl'"):
        tutelage.train_rows(student, rows, teacher, tmp_path, pad_id=PAD, divergence="kl")
