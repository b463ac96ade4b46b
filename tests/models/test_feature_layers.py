"""A student made of the teacher's first layers says at each of them what the teacher says: a wrong layer shows."""

import copy

import pytest
import torch
from tiny_families import padded, tiny_model

from tutelage.align import layer_pairs
from tutelage.losses import hidden_cosine, hidden_mse
from tutelage.models.projectors import Projectors
from tutelage.models.shrink import choose_layers, drop_layers
from tutelage.models.taps import read_states

NUM_LAYERS, NUM_KEPT = 4, 3
BATCH = padded([[5, 6, 7, 8, 9], [10, 11, 12]])
KEPT = choose_layers(NUM_LAYERS, NUM_KEPT, by="first")


@pytest.fixture(scope="module")
def models():
    teacher = tiny_model()
    return drop_layers(copy.deepcopy(teacher), KEPT), teacher


def right_pairs():
    return layer_pairs(
        "shrink", student_layers=NUM_KEPT, teacher_layers=NUM_LAYERS, available=range(1, NUM_LAYERS + 1), kept=KEPT
    )


@torch.no_grad()
def feature_losses(models, pairs) -> list[float]:
    student, teacher = models
    width = student.config.hidden_size
    projectors = Projectors(pairs, width, width, seed=0, learned=False)
    of_student = read_states(student, BATCH, [s for s, _ in pairs]).tapped
    of_teacher = read_states(teacher, BATCH, [t for _, t in pairs]).tapped
    return [hidden_cosine(projectors(s, t, of_student[s]), of_teacher[t]).total.item() for s, t in pairs]


def test_the_copied_layers_agree(models):
    assert right_pairs() == [(1, 1), (2, 2), (3, 3)]
    assert max(feature_losses(models, right_pairs())) < 1e-6


@pytest.mark.parametrize("shift", [-1, 1])
def test_an_off_by_one_between_the_layers_of_student_and_teacher_is_caught(models, shift):
    shifted = [(s, t + shift) for s, t in right_pairs()]  # -1: the kept index taken for a layer's number
    assert min(feature_losses(models, shifted)) > 0.01


@torch.no_grad()
def test_a_student_state_behind_the_final_norm_is_caught(models):
    student, teacher = models
    own = student(BATCH.input_ids, attention_mask=BATCH.attention_mask, output_hidden_states=True).hidden_states
    of_teacher = read_states(teacher, BATCH, [1, 2, 3]).tapped
    losses = [hidden_mse(own[n].flatten(0, 1), of_teacher[n]).total.item() for n in (1, 2, 3)]
    assert max(losses[:2]) < 1e-6
    assert losses[2] > 0.01  # the library's last entry is not what the last layer gives
