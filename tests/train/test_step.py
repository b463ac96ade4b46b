"""One step is one sum over all supervised positions, however it is cut."""

import dataclasses

import numpy as np
import pytest
import torch
from tiny_training import (
    CE_TERMS,
    KD_TERMS,
    PAD,
    TinyTeacher,
    run_tiny,
    tiny_options,
    tiny_rows,
    tiny_student,
    trainable,
)

from tutelage.data.collate import collate
from tutelage.data.plan import MicroBatch, Step
from tutelage.errors import NumericsError
from tutelage.train.loop import make_learner, make_stepper
from tutelage.train.module import DistillationModule
from tutelage.train.step import rank_share
from tutelage.types import TeacherSignals

# A reduction in another order: float64 sums of ~100 terms, through one AdamW step (eps 1e-8) at lr 1e-2.
FLOAT64_TOLERANCE = 1e-9
FLOAT32_TOLERANCE = 2e-4  # seven steps at lr 1e-2; a wrong normalisation moves weights by > 1e-2


class DoubleTeacher(TinyTeacher):
    def __init__(self):
        super().__init__()
        self.model.double()


def cut(rows, sizes):
    """Cut the rows into micro-batches of the given sizes."""
    ends = np.cumsum(sizes).tolist()
    groups = [tuple(range(end - size, end)) for end, size in zip(ends, sizes, strict=True)]

    def count(indices):
        return sum(len(rows[i].ids) for i in indices), sum(int(rows[i].target_mask.sum()) for i in indices)

    micro_batches = tuple(MicroBatch(group, *count(group)) for group in groups)
    num_tokens, num_targets = count(range(ends[-1]))
    return Step(0, micro_batches, num_targets, num_tokens)


def make(rows, *, kind="full", terms=KD_TERMS, teachers=None, dtype=torch.float64, **options):
    module = DistillationModule(tiny_student(kind, dropout=0.0).to(dtype), terms)
    settings = tiny_options(**{"warmup_ratio": 0.0, **options})
    learner = make_learner(module, settings, 10)
    return module, learner, make_stepper(module, learner, rows, teachers or (DoubleTeacher(),), settings, pad_id=PAD)


def largest_difference(left, right):
    assert left.keys() == right.keys()
    return max(float((left[name] - right[name]).abs().max()) for name in left)


@pytest.mark.parametrize("sizes", [(4, 4), (2, 2, 2, 2), (1, 7), (1,) * 8], ids=str)
@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_step_does_not_depend_on_how_it_is_cut(sizes, kind, packed):
    rows = tiny_rows(8)
    assert len({int(row.target_mask.sum()) for row in rows}) > 2, "uneven counts are the point of this test"
    results = []
    for layout, is_packed in (((8,), False), (sizes, packed)):
        module, _, stepper = make(rows, kind=kind, packed=is_packed)
        results.append((stepper.run(cut(rows, layout), number=1), trainable(module)))
    (whole, weights), (parts, weights_of_parts) = results
    assert whole.objective == pytest.approx(parts.objective, rel=1e-9)
    assert whole.parts == pytest.approx(parts.parts, rel=1e-9)
    assert whole.grad_norm == pytest.approx(parts.grad_norm, rel=1e-7)
    assert largest_difference(weights, weights_of_parts) < FLOAT64_TOLERANCE


def test_a_mean_of_means_would_be_caught():
    """The uneven rows above tell the two normalisations apart by far more than the tolerance."""
    rows = tiny_rows(8)
    norms = []
    for sizes in ((8,), (2, 2, 2, 2)):
        module, learner, stepper = make(rows, terms=CE_TERMS)
        step = cut(rows, sizes)
        for micro in step.micro_batches:
            batch = stepper_batch(stepper, micro)
            (module(batch, TeacherSignals())["targets"].objective.total / (micro.num_targets * len(sizes))).backward()
        norms.append(float(sum(p.grad.norm() ** 2 for p in learner.parameters.values() if p.grad is not None) ** 0.5))
    assert abs(norms[0] - norms[1]) > 1e-3


def stepper_batch(stepper, micro):
    return collate([stepper.rows[i] for i in micro.row_indices], pad_id=PAD)


@pytest.mark.parametrize("changes", [{"token_budget": 12}, {"token_budget": 30}, {"packed": True}], ids=str)
def test_a_whole_run_does_not_depend_on_memory_settings(tmp_path, changes):
    def run(name, **settings):
        module = DistillationModule(tiny_student(dropout=0.0), KD_TERMS)
        return run_tiny(tmp_path / name, module=module, **settings)

    one, result = run("one", token_budget=1000)
    other, other_result = run("other", **changes)
    assert largest_difference(trainable(one), trainable(other)) < FLOAT32_TOLERANCE
    assert (result.tokens, result.targets) == (other_result.tokens, other_result.targets)


def test_the_gradient_is_that_of_the_sum_divided_by_the_targets_of_the_step():
    rows = tiny_rows(8)
    module, learner, stepper = make(rows, terms=CE_TERMS, max_grad_norm=None)
    total, count = 0.0, 0
    for row in rows:
        logits = module.student(torch.tensor(row.ids)[None].long()).logits[0, :-1]
        mask = torch.tensor(row.target_mask[1:])
        labels = torch.tensor(row.ids[1:]).long()
        total = total + torch.nn.functional.cross_entropy(logits[mask], labels[mask], reduction="sum")
        count += int(mask.sum())
    (total / count).backward()
    expected = float(torch.cat([p.grad.flatten() for p in learner.parameters.values()]).norm())
    module.zero_grad()
    means = stepper.run(cut(rows, (3, 5)), number=1)
    assert means.grad_norm == pytest.approx(expected, rel=1e-9)
    assert means.objective == pytest.approx(total.item() / count, rel=1e-9)
    assert means.parts == {"cross_entropy": pytest.approx(total.item() / count, rel=1e-9)}


def test_gradients_above_the_limit_are_scaled_to_it_and_others_left_alone():
    rows = tiny_rows(8)
    kept = {}

    def keep(module):
        def hook(optimizer, args, kwargs):
            kept["norm"] = float(torch.cat([p.grad.flatten() for p in module.parameters()]).norm())

        return hook

    norms = []
    for limit in (None, 0.01, 1e6):
        module, learner, stepper = make(rows, max_grad_norm=limit)
        learner.optimizer.register_step_pre_hook(keep(module))
        norms.append((stepper.run(cut(rows, (8,)), number=1).grad_norm, kept["norm"]))
    (free, free_used), (clipped, clipped_used), (loose, loose_used) = norms
    assert free == clipped == loose == pytest.approx(free_used) == loose_used
    assert clipped_used == pytest.approx(0.01, rel=1e-4)


def test_a_step_leaves_no_gradient_behind():
    rows = tiny_rows(8)
    module, _, stepper = make(rows)
    stepper.run(cut(rows, (4, 4)), number=1)
    assert all(p.grad is None for p in module.parameters())


@pytest.mark.parametrize(("num_micro", "world"), [(1, 2), (3, 2), (4, 2), (5, 4), (4, 1)])
def test_every_rank_gets_as_many_micro_batches_and_each_counts_once(num_micro, world):
    micro_batches = [MicroBatch((i,), 1, 1) for i in range(num_micro)]
    shares = [rank_share(micro_batches, rank=rank, world=world) for rank in range(world)]
    assert len({len(share) for share in shares}) == 1
    counted = [micro.row_indices[0] for share in shares for micro, weight in share if weight == 1.0]
    assert sorted(counted) == list(range(num_micro))
    assert {weight for share in shares for _, weight in share} <= {0.0, 1.0}


def test_an_unreachable_loss_is_refused():
    """A gradient of exactly zero under a loss that is not zero: the graph is cut somewhere."""
    rows = tiny_rows(8)
    module, learner, stepper = make(rows)
    for parameter in module.parameters():
        parameter.register_hook(torch.zeros_like)
    before = trainable(module)
    with pytest.raises(NumericsError, match=r"norm is 0\.0"):
        stepper.run(cut(rows, (8,)), number=4)
    assert largest_difference(before, trainable(module)) == 0.0
    assert not learner.optimizer.state


def test_no_other_setting_of_accelerate_can_change_the_step(monkeypatch):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    rows = tiny_rows(8)
    _, _, stepper = make(rows)
    sums = stepper.run(cut(rows, (8,)), number=1)
    assert stepper.accelerator.gradient_accumulation_steps == 1
    assert stepper.accelerator.mixed_precision == "no"
    monkeypatch.undo()
    _, _, stepper = make(rows)
    assert dataclasses.astuple(stepper.run(cut(rows, (8,)), number=1)) == dataclasses.astuple(sums)
