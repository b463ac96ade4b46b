"""Training on a GPU: the step of a CPU, exact resume, two devices in one process, a whole experiment."""

import os
import signal

import pytest
import torch
from tiny_experiment import RECIPE, run_tiny, write_experiment
from tiny_training import KD_TERMS, PAD, TinyTeacher, tiny_options, tiny_rows, tiny_student, trainable

from tutelage.data import batch_to, collate
from tutelage.errors import PreemptedError
from tutelage.train.loop import train
from tutelage.train.module import DistillationModule

METHODS_ON_STATES = """\
  KD1: {kind: logit, temperature: 2, alpha: 0.3}
  KD3: {kind: feature, lambda: 0.5}
  REL: {kind: relation, group_rows: 4}
"""


class TeacherAnywhere(TinyTeacher):
    """The tiny teacher, wherever the batch is."""

    def signal(self, batch):
        self.model.to(batch.input_ids.device)
        return super().signal(batch)


def run(folder, device, *, show=None, dropout=0.0, **changes):
    module = DistillationModule(tiny_student(dropout=dropout), KD_TERMS)
    options, place = tiny_options(**changes), torch.device(device)
    result = train(module, tiny_rows(), TeacherAnywhere(), options, folder=folder, pad_id=PAD, device=place, show=show)
    return {name: tensor.cpu() for name, tensor in trainable(module).items()}, result


@pytest.mark.parametrize("changes", [{}, {"packed": True}, {"gradient_checkpointing": True}], ids=str)
def test_a_run_ends_where_it_ends_on_a_cpu(tmp_path, changes):
    here, expected = run(tmp_path / "cpu", "cpu", **changes)
    there, found = run(tmp_path / "cuda", "cuda", **changes)
    assert found.final_loss_nats == pytest.approx(expected.final_loss_nats, rel=1e-3)
    for name, tensor in here.items():
        assert torch.allclose(there[name], tensor, rtol=0, atol=2e-3), name


def test_bf16_comes_close(tmp_path):
    _, expected = run(tmp_path / "fp32", "cuda")
    _, found = run(tmp_path / "bf16", "cuda", bf16=True)
    assert found.final_loss_nats == pytest.approx(expected.final_loss_nats, rel=0.05)


@pytest.mark.parametrize("cut", [1, 4])
def test_a_resumed_run_draws_the_same_dropout(tmp_path, cut):
    """Sums on a GPU may differ in the last bits from run to run; another mask would differ in the first."""

    def stop(record):
        if record.step == cut:
            os.kill(os.getpid(), signal.SIGTERM)

    expected, _ = run(tmp_path / "whole", "cuda", dropout=0.3)
    with pytest.raises(PreemptedError):
        run(tmp_path / "cut", "cuda", dropout=0.3, show=stop)
    torch.rand(cut, device="cuda")
    found, _ = run(tmp_path / "cut", "cuda", dropout=0.3)
    other, _ = run(tmp_path / "other", "cuda", dropout=0.3, seed=43)
    for name, tensor in expected.items():
        assert torch.allclose(found[name], tensor, rtol=0, atol=1e-4), name
    assert any(not torch.allclose(other[name], tensor, rtol=0, atol=1e-4) for name, tensor in expected.items())


def test_one_process_trains_on_both_devices(tmp_path):
    run(tmp_path / "cuda", "cuda")
    run(tmp_path / "cpu", "cpu")
    run(tmp_path / "cuda again", "cuda")


@pytest.mark.parametrize("devices", [("cuda", "cuda"), ("cpu", "cuda"), ("cuda", "cpu")], ids="-".join)
def test_an_experiment_runs_with_teacher_and_student_on_any_device(tmp_path, devices):
    methods = RECIPE.split("methods:\n")[1].split("train:")[0]
    signals = "signals: [{kind: final_hidden}, {kind: topk, k: 8, temperatures: [1, 2]}"
    changed = RECIPE.replace(methods, methods.rsplit("  KD1", 1)[0] + METHODS_ON_STATES)
    changed = changed.replace(signals, f"{signals}, {{kind: hidden, layers: [1, 4]}}, {{kind: pooled, layers: [1, 4]}}")
    recipe = write_experiment(tmp_path, recipe=changed)
    teacher, student = devices
    done = run_tiny(recipe, f"teacher.device={teacher}", f"train.device={student}", "seeds.report=[1]")
    scored = {path.parent.name.split("_")[0] for path in done.root.glob("*seed1/run.json")}
    assert scored >= {"B0", "PSEUDO", "KD1", "KD3", "REL"}


def test_batches_are_moved_whole():
    batch = batch_to(collate(tiny_rows(4), pad_id=PAD), "cuda")
    tensors = [value for value in vars(batch).values() if isinstance(value, torch.Tensor)]
    assert len(tensors) >= 4
    assert all(tensor.is_cuda for tensor in tensors)
