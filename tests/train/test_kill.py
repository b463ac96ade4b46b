"""R1: killed at any point of writing, the run gives the same result."""

import functools
import os
import signal
import tempfile
from pathlib import Path

import pytest
import torch
from tiny_training import run_tiny, trainable

from tutelage.store import crash

SETTINGS = {"save_steps": 2, "eval_steps": 1}
QUICK = ["train.checkpoint.before_rename:2", "train.checkpoint.before_drop:3"]


def forked(work):
    """Run ``work`` in a forked process; return its wait status. Nothing has to be imported again."""
    if torch.cuda.is_available():
        pytest.skip("a forked child cannot use a CUDA device that its parent has used")
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitpid(pid, 0)[1]


@functools.cache
def uninterrupted():
    """The bytes and weights of a whole run, and every crash point it passed, with how often."""
    with tempfile.TemporaryDirectory() as name:
        folder, trace = Path(name) / "run", Path(name) / "trace"
        os.environ[crash.TRACE] = str(trace)
        try:
            module, result = run_tiny(folder, **SETTINGS)
        finally:
            del os.environ[crash.TRACE]
        points = trace.read_text().splitlines()
        content = {path: (folder / path).read_bytes() for path in ("metrics.jsonl", "evaluations.jsonl")}
        return trainable(module), result, content, [(p, points[: i + 1].count(p)) for i, p in enumerate(points)]


def killed_and_resumed(folder, point):
    def work():
        crash._passages.clear()
        os.environ[crash.ARMED] = point
        run_tiny(folder, **SETTINGS)

    status = forked(work)
    assert os.WIFSIGNALED(status), f"{point} was never reached"
    assert os.WTERMSIG(status) == signal.SIGKILL
    return run_tiny(folder, **SETTINGS)


def assert_like_uninterrupted(folder, point):
    module, result = killed_and_resumed(folder, point)
    weights, expected, content, _ = uninterrupted()
    found = trainable(module)
    assert [name for name in weights if not torch.equal(weights[name], found[name])] == []
    assert {path: (folder / path).read_bytes() for path in content} == content
    assert (result.best_step, result.best_metric, result.tokens) == (
        expected.best_step,
        expected.best_metric,
        expected.tokens,
    )
    assert not list(folder.rglob("*.tmp.*"))
    assert sorted(path.name for path in folder.iterdir()) == [
        "evaluations.jsonl",
        "metrics.jsonl",
        "timings.jsonl",
        "weights",
    ]


@pytest.mark.parametrize("point", QUICK)
def test_a_run_killed_while_it_saves_gives_the_same_result(tmp_path, point):
    assert_like_uninterrupted(tmp_path / "run", point)


def test_the_points_of_every_kind_of_write_are_passed():
    passed = {point for point, _ in uninterrupted()[3]}
    for write in ("train.lines", "train.best", "train.checkpoint", "train.weights"):
        assert any(point.startswith(write) for point in passed), write
    assert {"train.checkpoint.before_drop", "train.checkpoint.mid_drop"} <= passed


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_run_killed_at_any_point_of_any_write_gives_the_same_result(tmp_path):
    points = uninterrupted()[3]
    assert len(points) > 60
    for number, (point, count) in enumerate(points):
        assert_like_uninterrupted(tmp_path / str(number), f"{point}:{count}")


@pytest.mark.slow
def test_a_run_killed_after_each_checkpoint_gets_there(tmp_path):
    folder, num_kills = tmp_path / "run", 0

    def work():
        crash._passages.clear()
        os.environ[crash.ARMED] = "train.checkpoint.after_rename"
        run_tiny(folder, **SETTINGS)

    while os.WIFSIGNALED(forked(work)):
        num_kills += 1
    assert num_kills == 3  # steps 2, 4 and 6
    module, _ = run_tiny(folder, **SETTINGS)
    found = trainable(module)
    assert all(torch.equal(found[name], tensor) for name, tensor in uninterrupted()[0].items())
