"""Checkpoints: all that a run needs to go on bit for bit, as safetensors and JSON, never pickle.

In: parameters, optimizer, scheduler, generators and the run's state. Out: verified artifacts
``checkpoint-STEP`` (the newest two are kept), ``best-STEP`` and ``weights`` (weights only).
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from tutelage.errors import IntegrityError, TrainingError
from tutelage.store import (
    MANIFEST,
    crash_point,
    new_artifact,
    read_manifest,
    require_free_space,
    to_json,
    verify_artifact,
)
from tutelage.train.optimizer import optimizer_tensors, set_optimizer_tensors, set_scheduler_state
from tutelage.train.random_state import random_state, set_random_state
from tutelage.train.state import RunState

CHECKPOINT_VERSION = 1
NUM_KEPT = 2
STEP_DIGITS = "[0-9]" * 8
WEIGHTS = "weights.safetensors"
PROVENANCE = "provenance.json"  # times: outside the content digest


@dataclass(frozen=True)
class Learner:
    """The objects whose state is a run's state; ``parameters`` are the trainable ones, by name."""

    parameters: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    scheduler: LRScheduler


def copy_weights(parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """Copy the trainable weights to CPU memory."""
    return {name: p.detach().to("cpu", copy=True).contiguous() for name, p in parameters.items()}


def set_weights(parameters: dict[str, nn.Parameter], tensors: dict[str, Tensor]) -> None:
    """Copy tensors into the parameters of the same names.

    Raises:
        TrainingError: If names or shapes differ.
    """
    expected = {name: tuple(p.shape) for name, p in parameters.items()}
    found = {name: tuple(t.shape) for name, t in tensors.items()}
    if expected != found:
        name = sorted(expected.items() ^ found.items())[0][0]
        raise TrainingError(
            f"Stored weights do not fit the student: {name} is {found.get(name, 'absent')} there and "
            f"{expected.get(name, 'absent')} here. They belong to another run; use another folder or delete them."
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])


def save_checkpoint(
    folder: Path,
    learner: Learner,
    state: RunState,
    *,
    identity: str,
    positions: dict[str, Any],
    best_weights: dict[str, Tensor] | None,
) -> Path:
    """Commit the state after ``state.step`` as ``folder/checkpoint-STEP``, verify it, then drop old ones.

    Args:
        folder: The run's ``checkpoints`` folder.
        learner: Parameters, optimizer, scheduler. Not changed.
        state: Where the run stands.
        identity: Digest of the run's settings and rows; a resume with another one is refused.
        positions: Of the line logs, ``content`` and ``times`` apart.
        best_weights: Weights of ``state.best_step``, committed apart when they are not yet; None when
            nothing was evaluated.

    Raises:
        DiskError: If the disk is full; earlier checkpoints still load.
        IntegrityError: If what was just written does not verify.
    """
    if best_weights is not None:
        save_weights(folder / f"best-{state.best_step:08d}", best_weights, kind="best-weights", point="train.best")
    optimizer_state = {k: t.detach().cpu() for k, t in optimizer_tensors(learner.optimizer, learner.parameters).items()}
    weights = copy_weights(learner.parameters)
    require_free_space(folder, sum(t.nbytes for t in (*optimizer_state.values(), *weights.values())))
    generators, generator_values = random_state()
    content = {
        "identity": identity,
        "run": state.content(),
        "scheduler": learner.scheduler.state_dict(),
        "generators": generator_values,
        "lines": positions["content"],
    }
    path = folder / f"checkpoint-{state.step:08d}"
    fields = {"step": state.step, "best_step": state.best_step}
    with new_artifact(
        path, kind="checkpoint", format_version=CHECKPOINT_VERSION, fields=fields, point="train.checkpoint"
    ) as temporary:
        save_file(weights, temporary / WEIGHTS)
        save_file(optimizer_state, temporary / "optimizer.safetensors")
        save_file(generators, temporary / "generators.safetensors")
        (temporary / "state.json").write_text(to_json(content), encoding="utf-8")
        provenance = {"seconds": state.seconds, "lines": positions["times"]}
        (temporary / PROVENANCE).write_text(to_json(provenance), encoding="utf-8")
    verify_artifact(path)
    crash_point("train.checkpoint.before_drop")
    drop_old(folder)
    return path


def load_checkpoint(path: Path, learner: Learner, *, identity: str) -> tuple[RunState, dict[str, Any]]:
    """Verify a checkpoint and put its state back into ``learner`` and the random generators.

    Returns:
        The run's state and the positions of its line logs.

    Raises:
        IntegrityError: If a file differs from the manifest.
        TrainingError: If it belongs to a run with other settings, rows or parameters.
    """
    verify_artifact(path)
    content = json.loads((path / "state.json").read_text(encoding="utf-8"))
    provenance = json.loads((path / PROVENANCE).read_text(encoding="utf-8"))
    check_identity(path, content["identity"], identity)
    set_weights(learner.parameters, load_file(path / WEIGHTS))
    set_optimizer_tensors(learner.optimizer, learner.parameters, load_file(path / "optimizer.safetensors"))
    set_scheduler_state(learner.scheduler, learner.optimizer, content["scheduler"])
    set_random_state(load_file(path / "generators.safetensors"), content["generators"])
    state = RunState(**content["run"], seconds=provenance["seconds"])
    return state, {"content": content["lines"], "times": provenance["lines"]}


def check_identity(path: Path, found: str, expected: str) -> None:
    """Refuse stored state that another recipe made.

    Raises:
        TrainingError: If the two digests differ.
    """
    if found != expected:
        raise TrainingError(
            f"{path} belongs to a run with other settings, rows or parameters (identity {found}, this run is "
            f"{expected}). Delete {path.parent} or use another folder."
        )


def save_weights(
    path: Path,
    weights: dict[str, Tensor],
    *,
    kind: str,
    point: str,
    content: dict[str, Any] | None = None,
    seconds: float = 0.0,
) -> None:
    """Commit weights without optimizer; an artifact that is already there stays, the weights of a step never change."""
    if read_manifest(path) is not None:
        return
    require_free_space(path, sum(tensor.nbytes for tensor in weights.values()))
    with new_artifact(path, kind=kind, format_version=CHECKPOINT_VERSION, point=point) as temporary:
        save_file(weights, temporary / WEIGHTS)
        (temporary / "state.json").write_text(to_json(content or {}), encoding="utf-8")
        (temporary / PROVENANCE).write_text(to_json({"seconds": seconds}), encoding="utf-8")
    verify_artifact(path)


def load_weights(path: Path) -> dict[str, Tensor]:
    """Verify a weights artifact and read it.

    Raises:
        IntegrityError: If it is damaged or was never finished.
    """
    verify_artifact(path)
    return load_file(path / WEIGHTS)


def best_weights_of(folder: Path, state: RunState) -> dict[str, Tensor] | None:
    """Read the weights of the best step so far; None when nothing was evaluated.

    Raises:
        IntegrityError: If they are damaged or gone.
    """
    if state.best_metric is None:
        return None
    path = folder / f"best-{state.best_step:08d}"
    if read_manifest(path) is None:
        raise IntegrityError(
            f"{path} is gone or was changed, but the checkpoint of step {state.step} needs it as the best weights so "
            f"far. Delete {folder} and run again."
        )
    return load_weights(path)


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the committed checkpoint with the highest step."""
    found = committed(folder, "checkpoint")
    return found[-1] if found else None


def committed(folder: Path, prefix: str) -> list[Path]:
    """List the committed artifacts ``PREFIX-STEP``, lowest step first."""
    return [path for path in sorted(folder.glob(f"{prefix}-{STEP_DIGITS}")) if read_manifest(path) is not None]


def drop_old(folder: Path) -> None:
    """Keep the newest two checkpoints and the best weights that they refer to."""
    checkpoints = committed(folder, "checkpoint")
    kept = checkpoints[-NUM_KEPT:]
    manifests = [read_manifest(path) for path in kept]
    wanted = {f"best-{manifest.fields['best_step']:08d}" for manifest in manifests if manifest is not None}
    for path in (*checkpoints[:-NUM_KEPT], *committed(folder, "best")):
        if path not in kept and path.name not in wanted:
            drop(path)


def drop(path: Path) -> None:
    """Delete an artifact, its manifest first: a crash in between leaves nothing that looks committed."""
    (path / MANIFEST).unlink(missing_ok=True)
    crash_point("train.checkpoint.mid_drop")
    shutil.rmtree(path, ignore_errors=True)


def tidy(folder: Path) -> None:
    """Delete what a crash left: half-dropped artifacts, and best weights of no checkpoint."""
    for prefix in ("checkpoint", "best"):
        for path in folder.glob(f"{prefix}-{STEP_DIGITS}"):
            if not (path / MANIFEST).exists():
                shutil.rmtree(path, ignore_errors=True)
    drop_old(folder)
