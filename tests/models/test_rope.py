"""Rotary positions that depend on the length: a row's numbers are those of the row alone, in any batch."""

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tutelage.data import collate
from tutelage.evaluate.likelihood import row_likelihoods
from tutelage.models.head import final_hidden
from tutelage.models.rope import choose_rope_by_row, rope_types, row_lengths
from tutelage.types import StudentRow, row_key

SHORT = 16  # positions that the models were made for
HALF_HEAD = 4
ROPES = {
    "longrope": {
        "short_factor": [1.0] * HALF_HEAD,
        "long_factor": [3.0, 5.0, 7.0, 9.0],
        "original_max_position_embeddings": SHORT,
        "factor": 4.0,
    },
    "dynamic": {"factor": 4.0},
}
LENGTHS = (5, 16, 17, 40, 9, 25, 30, 6)


def long_model(rope_type):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=SHORT if rope_type == "dynamic" else 4 * SHORT, initializer_range=0.5,
        rope_parameters={"rope_type": rope_type, "rope_theta": 100.0, **ROPES[rope_type]},
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def rows_of(lengths):
    generator = np.random.default_rng(1)
    rows = []
    for number, length in enumerate(lengths):
        ids = generator.integers(1, 50, size=length).astype(np.int32)
        rows.append(StudentRow(f"row/{number}", ids, np.arange(length) >= length - 3, row_key(ids)))
    return rows


def scores(model, token_budget):
    return row_likelihoods(
        model, rows_of(LENGTHS), pad_id=0, token_budget=token_budget, device=torch.device("cpu")
    ).logprob_R


def alone(rope_type):
    """What each row is given by a fresh model that reads nothing else, without our change."""
    found = []
    for row in rows_of(LENGTHS):
        with torch.no_grad():
            logprobs = long_model(rope_type)(torch.tensor(row.ids)[None].long()).logits[0].log_softmax(-1)
        found.append(float(sum(logprobs[place - 1, row.ids[place]] for place in np.flatnonzero(row.target_mask))))
    return np.array(found)


@pytest.mark.parametrize("rope_type", ROPES)
def test_a_row_in_any_batch_has_the_numbers_of_the_row_alone(rope_type):
    expected = alone(rope_type)
    plain = long_model(rope_type)
    assert np.abs(scores(plain, 400) - expected).max() > 1e-2  # what transformers does: the batch decides
    choose_rope_by_row(plain)
    for token_budget in (40, 100, 400):
        np.testing.assert_allclose(scores(plain, token_budget), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rope_type", ROPES)
def test_a_packed_document_has_the_numbers_of_the_document_alone(rope_type):
    model, rows = long_model(rope_type), rows_of(LENGTHS)
    choose_rope_by_row(model)
    with torch.no_grad():
        packed = final_hidden(model, collate(rows, pad_id=0, packed=True))
        single = torch.cat([final_hidden(model, collate([row], pad_id=0)) for row in rows])
    torch.testing.assert_close(packed, single, rtol=1e-4, atol=1e-4)


def test_other_positions_are_left_alone_and_the_change_is_made_once():
    model = long_model("dynamic")
    choose_rope_by_row(model)
    kind = type(model.model.rotary_emb)
    choose_rope_by_row(model)
    assert type(model.model.rotary_emb) is kind
    plain = LlamaForCausalLM(LlamaConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1))
    before = type(plain.model.rotary_emb)
    choose_rope_by_row(plain)
    assert type(plain.model.rotary_emb) is before
    assert rope_types(model.config) == {"dynamic"}


def test_documents_of_a_packed_row_are_told_apart_by_their_positions():
    positions = torch.tensor([[0, 1, 2, 0, 1, 0], [0, 1, 2, 2, 2, 2]])
    assert row_lengths(positions).tolist() == [[3, 3, 3, 2, 2, 1], [3] * 6]


def test_padding_has_no_position_beyond_its_row():
    batch = collate(rows_of((4, 6)), pad_id=0)
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 3, 3], [0, 1, 2, 3, 4, 5]]
