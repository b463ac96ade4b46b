"""A student that is the teacher agrees with its cached hidden states at every token: what is misaligned shows."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_teacher import FINGERPRINT, batch_of, teacher_rows, tiny_llama

from tutelage.align import token_index
from tutelage.cache import HiddenColumn, PooledColumn
from tutelage.losses import hidden_cosine, hidden_mse, relation_distance
from tutelage.models.taps import pooled_rows, read_states
from tutelage.teacher import CachedTeacher, teach

LAYER = 1
HIDDEN = HiddenColumn(LAYER, 32, "fp32", 0.5, 3)
POOLED = PooledColumn(LAYER, 32, "fp32")
ROWS = teacher_rows(8)
SHUFFLED = [ROWS[i] for i in (5, 2, 7, 0, 3, 6, 1, 4)]
LAYOUTS = {"padded": {"width": 20}, "packed": {"packed": True}}

on_both_layouts = pytest.mark.parametrize("layout", LAYOUTS)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        teach(tiny_llama(), ROWS, columns=[HIDDEN, POOLED], root=root, fingerprint=FINGERPRINT)
    return root


def twin_states(batch) -> torch.Tensor:
    with torch.no_grad():
        return read_states(tiny_llama(), batch, [LAYER]).tapped[LAYER]


def feature_loss(grid, index, teacher) -> float:
    """Mean over the tokens of both kinds: one that sees sizes, one that sees directions."""
    pairs = [loss(grid[index], teacher) for loss in (hidden_mse, hidden_cosine)]
    return max(pair.total.item() / pair.count for pair in pairs)


@on_both_layouts
def test_a_twin_agrees_with_the_cache_in_any_order_of_the_rows(cache, layout):
    batch = batch_of(SHUFFLED, **LAYOUTS[layout])
    states = CachedTeacher(cache, FINGERPRINT, HIDDEN).signal(batch)
    assert feature_loss(twin_states(batch), token_index(batch, states.tokens), states.hidden_PE) < 1e-6


@on_both_layouts
def test_states_aligned_by_batch_index_are_caught(cache, layout):
    batch = batch_of(SHUFFLED, **LAYOUTS[layout])
    teacher = CachedTeacher(cache, FINGERPRINT, HIDDEN)
    tokens = teacher.signal(batch).tokens
    # The defect: the first stored row for the first row of the batch, and so on.
    by_index = teacher.signal(batch_of(ROWS)).hidden_PE[: sum(map(len, tokens))]
    assert feature_loss(twin_states(batch), token_index(batch, tokens), by_index) > 0.1


@on_both_layouts
@pytest.mark.parametrize("shift", [-1, 1])
def test_tokens_shifted_by_one_are_caught(cache, layout, shift):
    batch = batch_of(SHUFFLED, **LAYOUTS[layout])
    states = CachedTeacher(cache, FINGERPRINT, HIDDEN).signal(batch)
    grid = twin_states(batch)
    index = (token_index(batch, states.tokens) + shift).clamp(0, len(grid) - 1)
    assert feature_loss(grid, index, states.hidden_PE) > 0.1


def test_padding_taken_for_tokens_is_caught(cache):
    batch = batch_of(SHUFFLED, width=20)
    states = CachedTeacher(cache, FINGERPRINT, HIDDEN).signal(batch)
    lengths = [len(row.ids) for row in SHUFFLED]
    starts = np.cumsum([0, *lengths])[:-1]  # the defect: rows one behind another in a batch that is padded
    index = torch.tensor(np.concatenate([s + own for s, own in zip(starts, states.tokens, strict=True)]))
    assert feature_loss(twin_states(batch), index, states.hidden_PE) > 0.1


@on_both_layouts
def test_a_twins_pooled_rows_stand_to_each_other_as_the_teachers(cache, layout):
    batch = batch_of(SHUFFLED, **LAYOUTS[layout])
    pooled_BE = CachedTeacher(cache, FINGERPRINT, POOLED).signal(batch).pooled_BE
    student_BD = pooled_rows(twin_states(batch), batch)
    assert relation_distance(student_BD, pooled_BE, (4, 4)).total.item() < 1e-6


def test_pooling_over_padding_and_rows_by_batch_index_are_caught(cache):
    batch = batch_of(SHUFFLED, width=20)
    teacher = CachedTeacher(cache, FINGERPRINT, POOLED)
    pooled_BE = teacher.signal(batch).pooled_BE
    over_padding_BD = twin_states(batch).reshape(len(SHUFFLED), 20, -1).mean(dim=1)
    assert relation_distance(over_padding_BD, pooled_BE, (4, 4)).total.item() > 0.01
    by_index_BE = teacher.signal(batch_of(ROWS)).pooled_BE
    student_BD = pooled_rows(twin_states(batch), batch)
    assert relation_distance(student_BD, by_index_BE, (4, 4)).total.item() > 0.01
