import functools
import json
import os
import shutil
import signal
import tempfile
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import run_tiny, tiny_options, tiny_student, trainable

from tutelage.errors import DiskError, IntegrityError, PreemptedError, TrainingError
from tutelage.store import crash, read_manifest, verify_artifact
from tutelage.train.checkpoint import committed, drop, newest_checkpoint, save_weights, set_weights, tidy
from tutelage.train.optimizer import make_optimizer, set_optimizer_tensors, trainable_parameters


def scripted(*metrics):
    remaining = list(metrics)
    return lambda model: {"accuracy": remaining.pop(0)}


def stop_at(step):
    return lambda record: os.kill(os.getpid(), signal.SIGTERM) if record.step == step else None


def preempted(folder, step=3, **changes):
    with pytest.raises(PreemptedError):
        run_tiny(folder, show=stop_at(step), **changes)
    return folder / "checkpoints"


def test_the_newest_two_checkpoints_and_the_best_weights_are_kept(tmp_path):
    evaluate = scripted(0.1, 0.9, 0.3, 0.2, 0.1, 0.0, 0.0)
    run_tiny(tmp_path, evaluate=evaluate, eval_steps=1, save_steps=1, save_weights=False)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["best-00000002", "checkpoint-00000006", "checkpoint-00000007"]


def test_best_weights_that_an_older_checkpoint_needs_are_kept_with_it(tmp_path):
    evaluate = scripted(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
    run_tiny(tmp_path, evaluate=evaluate, eval_steps=1, save_steps=1, save_weights=False)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["best-00000006", "best-00000007", "checkpoint-00000006", "checkpoint-00000007"]


def test_a_finished_run_keeps_its_weights_and_no_checkpoint(tmp_path):
    module, result = run_tiny(tmp_path, save_steps=2)
    assert not (tmp_path / "checkpoints").exists()
    stored = load_file(tmp_path / "weights" / "weights.safetensors")
    weights = trainable(module)
    assert stored.keys() == weights.keys()
    assert all(torch.equal(stored[name], tensor) for name, tensor in weights.items())
    content = json.loads((tmp_path / "weights" / "state.json").read_text())
    assert content["run"]["step"] == result.steps


def test_checkpoints_come_at_the_end_of_epochs_and_never_unasked(tmp_path):
    run_tiny(tmp_path / "epoch", max_steps=11, save_steps="epoch", save_weights=False, evaluate=False)
    names = sorted(path.name for path in (tmp_path / "epoch" / "checkpoints").iterdir())
    assert names == ["checkpoint-00000005", "checkpoint-00000010"]
    run_tiny(tmp_path / "none", max_steps=11, save_steps=None, save_weights=False, evaluate=False)
    assert not (tmp_path / "none" / "checkpoints").exists()


def test_a_lora_checkpoint_holds_the_adapter_only(tmp_path):
    folder = preempted(tmp_path, kind="lora")
    names = load_file(newest_checkpoint(folder) / "weights.safetensors").keys()
    assert names
    assert all("lora_" in name for name in names)
    optimizer = load_file(newest_checkpoint(folder) / "optimizer.safetensors").keys()
    assert set(optimizer) == {f"{name}/{key}" for name in names for key in ("step", "exp_avg", "exp_avg_sq")}


def test_nothing_that_is_written_is_pickle(tmp_path):
    preempted(tmp_path, step=4)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".safetensors", ".json", ".jsonl"}
    for path in files:
        if path.suffix == ".safetensors":
            load_file(path)
        else:
            [
                json.loads(text)
                for text in ([path.read_text()] if path.suffix == ".json" else path.read_text().splitlines())
            ]


def test_two_equal_runs_write_the_same_content(tmp_path):
    digests = [read_manifest(newest_checkpoint(preempted(tmp_path / name))).content_digest for name in ("a", "b")]
    assert digests[0] == digests[1]
    other = read_manifest(newest_checkpoint(preempted(tmp_path / "c", seed=1))).content_digest
    assert other != digests[0]


@pytest.mark.parametrize(
    "name", ["weights.safetensors", "optimizer.safetensors", "generators.safetensors", "state.json", "provenance.json"]
)
def test_a_flipped_bit_is_found_every_time(tmp_path, name):
    path = newest_checkpoint(preempted(tmp_path)) / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    for _ in range(2):
        with pytest.raises(IntegrityError, match=name):
            run_tiny(tmp_path)


def test_a_flipped_bit_in_the_best_weights_is_found(tmp_path):
    folder = preempted(tmp_path, step=4)
    path = committed(folder, "best")[0] / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match="best-00000003"):
        run_tiny(tmp_path)


def test_best_weights_that_are_gone_are_missed(tmp_path):
    folder = preempted(tmp_path, step=4)
    drop(committed(folder, "best")[0])
    with pytest.raises(IntegrityError, match="best-00000003 is gone"):
        run_tiny(tmp_path)


def test_a_checkpoint_without_manifest_does_not_exist_and_is_swept(tmp_path):
    folder = preempted(tmp_path)
    (folder / "checkpoint-00000003" / "MANIFEST.json").unlink()
    assert newest_checkpoint(folder) is None
    tidy(folder)
    assert list(folder.iterdir()) == []


def test_best_weights_of_a_run_that_never_saved_are_not_mistaken_for_this_run_s(tmp_path):
    """A crash between the best weights and the checkpoint leaves them without owner."""
    save_weights(tmp_path / "checkpoints" / "best-00000003", {"x": torch.zeros(1)}, kind="best-weights", point="test")
    tidy(tmp_path / "checkpoints")
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_weights_of_another_shape_are_refused():
    parameters = trainable_parameters(tiny_student())
    tensors = {name: p.detach().clone() for name, p in parameters.items()}
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    tensors["model.norm.weight"] = torch.zeros(3)
    with pytest.raises(TrainingError, match=r"model\.norm\.weight"):
        set_weights(parameters, tensors)
    del tensors["model.norm.weight"]
    with pytest.raises(TrainingError, match="absent there"):
        set_weights(parameters, tensors)
    assert all(torch.equal(before[name], p) for name, p in parameters.items())


def test_optimizer_state_of_an_unknown_parameter_is_refused():
    parameters = trainable_parameters(tiny_student())
    with pytest.raises(IntegrityError, match="stranger"):
        set_optimizer_tensors(
            make_optimizer(parameters, tiny_options()), parameters, {"stranger/exp_avg": torch.zeros(1)}
        )


@functools.cache
def whole_run():
    with tempfile.TemporaryDirectory() as folder:
        module, result = run_tiny(Path(folder), save_steps=2, eval_steps=1)
        return trainable(module), (Path(folder) / "metrics.jsonl").read_bytes(), result


POINTS = [
    "train.best.before_fsync",
    "train.checkpoint.before_fsync",
    "train.checkpoint.manifest.before_write",
    "train.checkpoint.before_rename",
    "train.weights.before_manifest",
]


@pytest.mark.parametrize("point", POINTS)
def test_a_full_disk_keeps_the_old_checkpoint_and_the_run_completes_later(tmp_path, monkeypatch, point):
    expected_weights, expected_metrics, result = whole_run()
    count = 1 if "weights" in point else 2
    monkeypatch.setattr(crash, "_passages", {})
    monkeypatch.setenv(crash.ARMED, f"{point}:{count}")
    monkeypatch.setenv(crash.ACTION, "enospc")
    with pytest.raises(DiskError) as error:
        run_tiny(tmp_path / "full", save_steps=2, eval_steps=1)
    assert error.value.exit_code == 4
    monkeypatch.delenv(crash.ARMED)
    folder = tmp_path / "full" / "checkpoints"
    assert newest_checkpoint(folder) is not None
    verify_artifact(newest_checkpoint(folder))
    assert not list((tmp_path / "full").rglob("*.tmp.*"))
    module, again = run_tiny(tmp_path / "full", save_steps=2, eval_steps=1)
    assert again.best_metric == result.best_metric
    weights = trainable(module)
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected_weights.items())
    assert (tmp_path / "full" / "metrics.jsonl").read_bytes() == expected_metrics


def test_too_little_free_space_is_refused_before_writing(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 9, 1))
    with pytest.raises(DiskError, match="MiB are free"):
        run_tiny(tmp_path, show=stop_at(3))
    assert committed(tmp_path / "checkpoints", "checkpoint") == []
