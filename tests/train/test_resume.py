"""R3: an interrupted and resumed run equals an uninterrupted one, bit for bit."""

import functools
import os
import signal
import tempfile
from pathlib import Path

import pytest
import torch
from tiny_training import run_tiny, trainable

from tutelage.errors import PreemptedError
from tutelage.train import checkpoint, loop
from tutelage.train.optimizer import optimizer_tensors
from tutelage.train.random_state import random_state

NUM_STEPS = 7
CONTENT = ("metrics.jsonl", "evaluations.jsonl")


def stop_after(cut):
    def show(record):
        if record.step == cut:
            os.kill(os.getpid(), signal.SIGTERM)

    return show


def full_state(module, learners):
    """All that must agree at the end: weights, optimizer, scheduler, generators.

    Python's own generator is left out: the type checker of the test run draws from it to sample list
    items, once more for each call. ``test_random_state.py`` has it.
    """
    generators, values = random_state()
    del generators["python"]
    optimizer = optimizer_tensors(learners[-1].optimizer, learners[-1].parameters)
    return {**trainable(module), **optimizer, **generators}, {**values, "lr": learners[-1].scheduler.state_dict()}


@pytest.fixture
def learners(monkeypatch):
    made, make_learner = [], loop.make_learner

    def make(*args):
        made.append(make_learner(*args))
        return made[-1]

    monkeypatch.setattr(loop, "make_learner", make)
    return made


def run_with_cuts(folder, learners, kind, cuts, **changes):
    for cut in cuts:
        with pytest.raises(PreemptedError, match=f"after step {cut} of"):
            run_tiny(folder, kind, show=stop_after(cut), **changes)
        torch.rand(cut)  # the generators are elsewhere when the run goes on
    module, result = run_tiny(folder, kind, **changes)
    tensors, values = full_state(module, learners)
    return tensors, values, result, {name: (folder / name).read_bytes() for name in CONTENT}


@functools.cache
def uninterrupted_state(kind, changes):
    learners, make_learner = [], loop.make_learner
    loop.make_learner = lambda *args: learners.append(make_learner(*args)) or learners[-1]
    try:
        with tempfile.TemporaryDirectory() as folder:
            return run_with_cuts(Path(folder), learners, kind, (), **dict(changes))
    finally:
        loop.make_learner = make_learner


def assert_same(learners, folder, kind, cuts, **changes):
    tensors, values, result, lines = run_with_cuts(folder, learners, kind, cuts, **changes)
    expected_tensors, expected_values, expected, expected_lines = uninterrupted_state(kind, tuple(changes.items()))
    assert tensors.keys() == expected_tensors.keys()
    different = [name for name, tensor in tensors.items() if not torch.equal(tensor, expected_tensors[name])]
    assert different == []
    assert values == expected_values
    assert lines == expected_lines
    for name in ("steps", "best_step", "best_metric", "tokens", "targets", "final_loss_nats", "stopped_early"):
        assert getattr(result, name) == getattr(expected, name)


@pytest.mark.parametrize("cut", range(1, NUM_STEPS))
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, learners, kind, cut):
    assert_same(learners, tmp_path, kind, [cut])


def test_a_run_cut_at_its_last_step_is_still_evaluated_and_finished(tmp_path, learners):
    assert_same(learners, tmp_path, "full", [NUM_STEPS])


def test_a_run_cut_after_every_step_equals_an_uninterrupted_one(tmp_path, learners):
    assert_same(learners, tmp_path, "lora", range(1, NUM_STEPS + 1))


@pytest.mark.slow
@pytest.mark.parametrize("cut", range(1, 13))
@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("changes", [{"packed": True}, {"gradient_checkpointing": True}, {"bf16": True}], ids=str)
def test_layouts_and_precisions_resume_exactly(tmp_path, learners, kind, cut, changes):
    assert_same(learners, tmp_path, kind, [cut], max_steps=13, **changes)


def test_dropout_is_on_and_matters_in_these_tests(tmp_path):
    """Without the generators' state the resumed run would differ: the test above can fail."""

    with pytest.raises(PreemptedError):
        run_tiny(tmp_path, show=stop_after(3))
    ignore, checkpoint.set_random_state = checkpoint.set_random_state, lambda *_: None
    try:
        module, _ = run_tiny(tmp_path)
    finally:
        checkpoint.set_random_state = ignore
    expected = uninterrupted_state("full", ())[0]
    assert not all(torch.equal(tensor, expected[name]) for name, tensor in trainable(module).items())
