"""Objectives over hidden states: one step is one sum however it is cut, resumed runs are exact, bad signals stop it."""

import dataclasses
import os
import signal

import numpy as np
import pytest
import torch
from test_step import FLOAT64_TOLERANCE, largest_difference
from tiny_states import (
    ANGLE,
    DISTANCE,
    FEATURE,
    GROUP,
    PAIRS,
    TEACHER_WIDTH,
    TERMS,
    cut_groups,
    shared_rows,
    state_module,
    state_teachers,
)
from tiny_training import CE_TERMS, PAD, run_tiny, tiny_options, tiny_student, trainable

from tutelage.data.collate import collate
from tutelage.errors import AlignmentError, NumericsError, PreemptedError, TrainingError
from tutelage.losses import relation_angle, relation_distance
from tutelage.models.projectors import Projectors
from tutelage.train.loop import make_learner, make_stepper
from tutelage.train.module import DistillationModule
from tutelage.train.step import Stepper
from tutelage.types import HiddenStates, TeacherSignals

ROWS = shared_rows()


def make(what, *, kind="full", dtype=torch.float64, teachers=None, module=None, **options):
    module = state_module(what, kind=kind, dtype=dtype) if module is None else module
    settings = tiny_options(**{"warmup_ratio": 0.0, "group_rows": GROUP, **options})
    learner = make_learner(module, settings, 10)
    teachers = state_teachers(what, dtype=dtype) if teachers is None else teachers
    return module, make_stepper(module, learner, ROWS, teachers, settings, pad_id=PAD)


def run_step(what, sizes, **settings):
    module, stepper = make(what, **settings)
    return stepper.run(cut_groups(ROWS, sizes), number=1), trainable(module)


@pytest.fixture(scope="module")
def whole():
    return {what: run_step(what, (12,)) for what in TERMS}


@pytest.mark.parametrize("sizes", [(4, 4, 4), (8, 4)], ids=str)
@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_a_step_with_groups_does_not_depend_on_how_it_is_cut(whole, sizes, packed):
    assert_same_step(whole["all"], run_step("all", sizes, packed=packed))


@pytest.mark.parametrize("sizes", [(1, 4, 7), (6, 6)], ids=str)
@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_a_step_over_tokens_does_not_depend_on_how_it_is_cut(whole, sizes, packed):
    assert_same_step(whole["feature"], run_step("feature", sizes, packed=packed))


def assert_same_step(expected, found):
    assert found[0].parts == pytest.approx(expected[0].parts, rel=1e-9)
    assert found[0].objective == pytest.approx(expected[0].objective, rel=1e-9)
    assert found[0].grad_norm == pytest.approx(expected[0].grad_norm, rel=1e-7)
    assert largest_difference(expected[1], found[1]) < FLOAT64_TOLERANCE


@pytest.mark.parametrize("unit", ["tokens", "groups"])
def test_a_sum_that_is_divided_by_another_count_is_refused(monkeypatch, unit):
    """Such as a micro-batch's own count, which would make one step of every cut."""
    real = Stepper.counts
    monkeypatch.setattr(Stepper, "counts", lambda self, step: {**real(self, step), unit: real(self, step)[unit] - 1})
    with pytest.raises(AlignmentError, match=f"losses counted .* {unit}, the plan"):
        run_step("all", (8, 4))


def test_the_objective_is_the_weighted_sum_of_its_parts(whole):
    for what, terms in TERMS.items():
        means = whole[what][0]
        expected = sum(term.weight * means.parts[term.name] for term in terms)
        assert means.objective == pytest.approx(expected, rel=1e-12)


def test_the_feature_part_is_the_mean_over_pairs_of_the_mean_over_stored_tokens(whole):
    """Told again row by row, with the models' own lists of hidden states."""
    module = state_module("feature", dtype=torch.float64)
    teacher = state_teachers("feature", dtype=torch.float64)[0]
    means = []
    for own, other in PAIRS:
        values = []
        for row in ROWS:
            ids = torch.tensor(row.ids)[None].long()
            asked = collate([row], pad_id=PAD).teacher_rows[0]
            tokens = teacher.column.positions_of(asked)
            student = states_before_norm(module.student, ids, own)[tokens]
            weight = module.projectors.get_submodule(f"s{own}_t{other}").weight
            left = student @ weight.T
            right = states_before_norm(teacher.model, ids, other)[tokens]
            values += [1 - torch.cosine_similarity(a, b, dim=0) for a, b in zip(left, right, strict=True)]
        means.append(2 * torch.stack(values).mean())  # the squared distance of unit vectors
    assert whole["feature"][0].parts["hidden_normalised_mse"] == pytest.approx(float(sum(means).detach() / 2), rel=1e-9)


def states_before_norm(model, ids, layer):
    """Hidden states after a layer; after the last one ``transformers`` would give normed ones, so it is hooked."""
    found = []
    handle = model.model.layers[layer - 1].register_forward_hook(lambda module, inputs, output: found.append(output))
    with torch.no_grad():
        model(ids)
    handle.remove()
    return (found[0][0] if isinstance(found[0], tuple) else found[0]).reshape(ids.shape[1], -1)


def test_the_relation_parts_are_means_over_groups_of_pooled_rows(whole):
    module = state_module("relation", dtype=torch.float64)
    teacher = state_teachers("relation", dtype=torch.float64)[0]
    ids = [torch.tensor(row.ids)[None].long() for row in ROWS]
    student = torch.stack([states_before_norm(module.student, each, 2).mean(dim=0) for each in ids])
    other = torch.stack([states_before_norm(teacher.model, each, 3).mean(dim=0) for each in ids])
    sizes, seeds = (GROUP,) * 3, (0, 1, 2)
    distance = relation_distance(student, other, sizes, pairs_per_sample=DISTANCE.per_sample, seeds=seeds)
    angle = relation_angle(student, other, sizes, triplets_per_sample=ANGLE.per_sample, seeds=seeds)
    parts = whole["relation"][0].parts
    assert parts["relation_distance"] == pytest.approx(float(distance.total) / 3, rel=1e-9)
    assert parts["relation_angle"] == pytest.approx(float(angle.total) / 3, rel=1e-9)


def test_gradient_checkpointing_under_adapters_changes_nothing():
    results = []
    for recompute in (False, True):
        module = state_module("all", kind="lora", dtype=torch.float64)
        if recompute:
            module.enable_gradient_checkpointing()
        module.train()
        _, stepper = make("all", module=module)
        results.append((stepper.run(cut_groups(ROWS, (12,)), number=1), trainable(module)))
    assert_same_step(*results)


@pytest.mark.parametrize("what", ["feature", "relation"])
def test_the_states_pull_on_the_student(what):
    """Without the gold labels, every body weight up to the last compared layer still gets a gradient."""
    module = state_module(what)
    module.head_terms = ()
    _, stepper = make(what, module=module, teachers=state_teachers(what))
    stepper.run(cut_groups(ROWS, (12,)), number=1)
    moved = {
        name
        for name, p in module.named_parameters()
        if not torch.equal(p, dict(state_module(what).named_parameters())[name])
    }
    assert any("layers.0" in name for name in moved)
    assert any("layers.1" in name for name in moved)
    assert any("projectors" in name for name in moved) == (what == "feature")


def test_a_resumed_run_equals_an_uninterrupted_one_projectors_included(tmp_path):
    def run(folder, **settings):
        module = state_module("all", dropout=0.1)
        return run_tiny(
            folder,
            module=module,
            teacher=state_teachers(),
            rows=ROWS,
            group_rows=GROUP,
            max_steps=4,
            evaluate=False,
            **settings,
        )[0]

    def stop_after(step):
        return lambda record: os.kill(os.getpid(), signal.SIGTERM) if record.step == step else None

    expected = trainable(run(tmp_path / "whole"))
    with pytest.raises(PreemptedError, match="after step 2 of 4"):
        run(tmp_path / "cut", show=stop_after(2))
    torch.rand(3)  # the generators are elsewhere when the run goes on
    resumed = trainable(run(tmp_path / "cut"))
    assert {name for name in expected if name.startswith("projectors.")} == {
        "projectors.s1_t1.weight", "projectors.s2_t3.weight",
    }  # fmt: skip
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in expected.items())
    drawn = dict(Projectors(PAIRS, 16, TEACHER_WIDTH, seed=5).named_parameters())
    assert not torch.equal(expected["projectors.s1_t1.weight"], drawn["s1_t1.weight"]), "they learn"


class Broken:
    """A teacher whose answer is changed on the way."""

    def __init__(self, teacher, change):
        self.teacher, self.change = teacher, change

    def signal(self, batch):
        return self.change(self.teacher.signal(batch))

    def num_tokens(self, rows):
        return self.teacher.num_tokens(rows)


def poison(states):
    states.hidden_PE[-1, 0] = float("nan")
    return states


def drop_last_row(states):
    kept = len(states.hidden_PE) - len(states.tokens[-1])
    return dataclasses.replace(states, hidden_PE=states.hidden_PE[:kept], tokens=states.tokens[:-1])


def drop_a_token(states):
    return dataclasses.replace(
        states, hidden_PE=states.hidden_PE[1:], tokens=[states.tokens[0][1:], *states.tokens[1:]]
    )


def beyond_the_row(states):
    tokens = [*states.tokens]
    tokens[3] = np.append(tokens[3][:-1], len(ROWS[3].ids))
    return dataclasses.replace(states, tokens=tokens)


def narrow(states):
    return dataclasses.replace(states, hidden_PE=states.hidden_PE[:, :5])


def another_layer(states):
    return dataclasses.replace(states, layer=2)


DEFECTS = {
    poison: (NumericsError, r"layer 1 are not finite at 1 of \d+ places, rows row/11\."),
    drop_last_row: (AlignmentError, "11 rows, the batch has 12 rows"),
    drop_a_token: (AlignmentError, r"the losses counted \d+ tokens, the plan \d+"),
    beyond_the_row: (AlignmentError, "of row row/3 was chosen, but the student reads"),
    narrow: (AlignmentError, "Expected projectors of the teacher's width"),
    another_layer: (AlignmentError, r"teacher layer 1, but the teachers gave layers \[2, 3\]"),
}


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.__name__)
def test_a_signal_that_does_not_belong_to_the_batch_is_refused_and_nothing_changes(defect):
    first, second = state_teachers("feature")
    changes = [defect, drop_a_token] if defect is drop_a_token else [defect, lambda states: states]
    teachers = tuple(Broken(each, change) for each, change in zip((first, second), changes, strict=True))
    module, stepper = make("feature", dtype=torch.float32, teachers=teachers)
    before = trainable(module)
    error, message = DEFECTS[defect]
    with pytest.raises(error, match=message):
        stepper.run(cut_groups(ROWS, (12,)), number=1)
    assert largest_difference(before, trainable(module)) == 0.0


def test_pooled_vectors_that_are_not_finite_name_their_row():
    def poison_row(vectors):
        vectors.pooled_BE[7, 0] = float("inf")
        return vectors

    (teacher,) = state_teachers("relation")
    _, stepper = make("relation", dtype=torch.float32, teachers=(Broken(teacher, poison_row),))
    with pytest.raises(NumericsError, match=r"layer 3 are not finite .* rows row/7\."):
        stepper.run(cut_groups(ROWS, (12,)), number=1)


def test_rows_are_never_compared_without_groups():
    _, stepper = make("relation", dtype=torch.float32)
    without = dataclasses.replace(cut_groups(ROWS, (12,)), num_groups=0)
    with pytest.raises(TrainingError, match="divided by groups, and a step has none"):
        stepper.run(without, number=1)


def test_layers_stored_at_different_tokens_are_refused():
    teachers = (state_teachers("feature", ratio=0.5)[0], state_teachers("feature", ratio=1.0)[1])
    _, stepper = make("feature", dtype=torch.float32, teachers=teachers)
    with pytest.raises(AlignmentError, match="stored at different tokens"):
        stepper.run(cut_groups(ROWS, (12,)), number=1)


def test_two_distributions_are_one_too_many():
    teachers = state_teachers("all")
    _, stepper = make("all", dtype=torch.float32, teachers=(teachers[0], *teachers))
    with pytest.raises(TrainingError, match="one distribution at most"):
        stepper.run(cut_groups(ROWS, (12,)), number=1)


def test_no_teacher_of_hidden_states_is_an_error():
    _, stepper = make("feature", dtype=torch.float32, teachers=())
    with pytest.raises(TrainingError, match="no teacher gives any"):
        stepper.run(cut_groups(ROWS, (12,)), number=1)


@pytest.mark.parametrize(
    ("term", "match"),
    [
        (dataclasses.replace(FEATURE, kind="hidden_mes"), "'hidden_mes'"),
        (dataclasses.replace(FEATURE, pairs=((1, 2),)), "there are projectors for"),
        (dataclasses.replace(DISTANCE, pairs=PAIRS), "one layer pair"),
    ],
    ids=["unknown", "without projector", "two pairs"],
)
def test_terms_that_nothing_belongs_to_are_refused(term, match):
    with pytest.raises(TrainingError, match=match):
        DistillationModule(tiny_student(), [*CE_TERMS, term], projectors=Projectors(PAIRS, 16, TEACHER_WIDTH, seed=5))


def test_only_the_compared_layers_are_tapped_and_the_body_runs_once():
    module = state_module("feature")
    calls = []
    module.student.model.register_forward_hook(lambda *_: calls.append(1))
    batch = collate(ROWS[:3], pad_id=PAD)
    signals = TeacherSignals(hidden={each.column.layer: each.signal(batch) for each in state_teachers("feature")})
    assert all(isinstance(states, HiddenStates) for states in signals.hidden.values())
    module(batch, signals)
    assert calls == [1]
    assert not any(layer._forward_hooks for layer in module.student.model.layers)
