"""Objectives over hidden states on the tiny run: a deeper, wider teacher, two pairs of layers, groups of rows."""

import dataclasses

import numpy as np
import torch
from test_step import cut
from tiny_training import KD_TERMS, TinyTeacher, tiny_model, tiny_rows, tiny_student

from tutelage.models.projectors import Projectors
from tutelage.teacher import LiveTeacher
from tutelage.train.module import DistillationModule
from tutelage.types import StateTerm

PAIRS = ((1, 1), (2, 3))
TEACHER_WIDTH = 24
GROUP = 4
FEATURE = StateTerm("hidden_normalised_mse", 0.7, PAIRS)
DISTANCE = StateTerm("relation_distance", 3.0, ((2, 3),), per_sample=2)
ANGLE = StateTerm("relation_angle", 0.5, ((2, 3),), per_sample=3)
TERMS = {
    "feature": (KD_TERMS[0], FEATURE),
    "relation": (KD_TERMS[0], DISTANCE, ANGLE),
    "all": (*KD_TERMS, FEATURE, DISTANCE, ANGLE),
}


def state_module(what="all", *, kind="full", dropout=0.0, dtype=torch.float32, **settings):
    projectors = None if what == "relation" else Projectors(PAIRS, 16, TEACHER_WIDTH, seed=5)
    student = tiny_student(kind, dropout=dropout)
    return DistillationModule(student, TERMS[what], projectors=projectors, **settings).to(dtype)


def state_teachers(what="all", *, dtype=torch.float32, ratio=0.5):
    """A live teacher per signal: what a cached one says, without a cache."""
    model = tiny_model(9, layers=3, hidden=TEACHER_WIDTH, dropout=0.0).to(dtype)
    hidden = [
        LiveTeacher(model, kind="hidden", layer=layer, dtype="fp32", token_subset_ratio=ratio, seed=1)
        for layer in (1, 3)
    ]
    pooled = [LiveTeacher(model, kind="pooled", layer=3)]
    distribution = TinyTeacher()
    distribution.model.to(dtype)
    chosen = {"feature": hidden, "relation": pooled, "all": [distribution, *hidden, *pooled]}
    return tuple(chosen[what])


def cut_groups(rows, sizes):
    """Cut the rows into micro-batches of the given sizes, each of whole groups; a group's seed is its number."""
    step = cut(rows, sizes)
    micro_batches, first = [], 0
    for micro in step.micro_batches:
        num = len(micro.row_indices) // GROUP
        micro_batches.append(
            dataclasses.replace(micro, group_sizes=(GROUP,) * num, group_seeds=tuple(range(first, first + num)))
        )
        first += num
    return dataclasses.replace(step, micro_batches=tuple(micro_batches), num_groups=first)


def shared_rows(num_rows=12):
    """Rows of uneven lengths, so that micro-batches differ in tokens and targets."""
    rows = tiny_rows(num_rows)
    assert len({len(row.ids) for row in rows}) > 3
    assert np.std([row.target_mask.sum() for row in rows]) > 0
    return rows
