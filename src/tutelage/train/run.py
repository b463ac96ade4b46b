"""One training run in its folder: where it stands, when it evaluates and saves, how each is done.

In: the loop's calls, in the loop's order. Out: log lines, checkpoints, the best weights.
"""

import dataclasses
import json
import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tutelage.data.plan import BatchPlan, Step
from tutelage.errors import NumericsError, TrainingError
from tutelage.store import read_manifest, sweep_temporaries
from tutelage.train.checkpoint import (
    Learner,
    best_weights_of,
    check_identity,
    copy_weights,
    load_checkpoint,
    load_weights,
    newest_checkpoint,
    save_checkpoint,
    save_weights,
    set_weights,
    tidy,
)
from tutelage.train.guards import check_trained, student_digest
from tutelage.train.journal import EPOCH_DIGITS, Journal
from tutelage.train.module import DistillationModule
from tutelage.train.options import TrainOptions
from tutelage.train.progress import StepRecord
from tutelage.train.state import RunState, TrainResult, result_of
from tutelage.train.step import StepMeans, Stepper

CURVES = ("epoch", "loss_nats", "grad_norm", "learning_rate", "tokens")
Evaluate = Callable[[nn.Module], Mapping[str, float]]
Log = Callable[[dict[str, Any], int], None]  # to trackers
Show = Callable[[StepRecord], None]


@dataclass(kw_only=True)
class Run:
    """The state of one run. The loop decides the order; this class knows how each thing is done."""

    module: DistillationModule
    learner: Learner
    options: TrainOptions
    plan: BatchPlan
    num_steps: int
    folder: Path
    identity: str
    evaluate: Evaluate | None
    select_by: str
    show: Show | None
    log: Log = lambda values, step: None

    state: RunState = field(default_factory=RunState)
    saved: RunState | None = None
    best_weights: dict[str, Tensor] | None = None
    epoch_steps: tuple[int, list[Step]] | None = None
    started: float = field(default_factory=time.monotonic)
    earlier_seconds: float = 0.0
    step_seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.journal = Journal(self.folder)
        self.checkpoints = self.folder / "checkpoints"
        self.weights = self.folder / "weights"
        self.untrained = student_digest(self.learner.parameters)

    def restore(self, *, resume: bool) -> bool:
        """Load the newest state of this run, if there is one; return whether the run is already finished."""
        if not resume:
            shutil.rmtree(self.checkpoints, ignore_errors=True)
            shutil.rmtree(self.weights, ignore_errors=True)
        sweep_temporaries(self.folder)
        tidy(self.checkpoints)
        if read_manifest(self.weights) is not None:
            self._restore_finished()
            return True
        path = newest_checkpoint(self.checkpoints)
        if path is None:
            self.journal.cut_back(None)
            return False
        self.state, positions = load_checkpoint(path, self.learner, identity=self.identity)
        self.best_weights = best_weights_of(self.checkpoints, self.state)
        self.journal.cut_back(positions)
        self.earlier_seconds = self.state.seconds
        self.saved = dataclasses.replace(self.state)
        return False

    def _restore_finished(self) -> None:
        tensors = load_weights(self.weights)
        content = json.loads((self.weights / "state.json").read_text(encoding="utf-8"))
        provenance = json.loads((self.weights / "provenance.json").read_text(encoding="utf-8"))
        check_identity(self.weights, content["identity"], self.identity)
        set_weights(self.learner.parameters, tensors)
        self.state = RunState(**content["run"], seconds=provenance["seconds"])
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        self.module.eval()

    def is_finished(self) -> bool:
        """Tell whether the last step was made, or patience has run out."""
        return self.state.step >= self.num_steps or self.state.stopped_early

    def evaluation_is_due(self) -> bool:
        """Tell whether the weights of this step are to be evaluated and were not yet."""
        is_time = self.state.step == self.num_steps or self._is_time(self.options.eval_steps)
        return self.evaluate is not None and is_time and self.state.evaluated_step != self.state.step

    def save_is_due(self) -> bool:
        """Tell whether a checkpoint is to be written here; a finished run writes its weights instead."""
        return self._is_time(self.options.save_steps) and not (self.is_finished() and self.options.save_weights)

    def _is_time(self, every: int | str | None) -> bool:
        if every is None or self.state.step == 0:
            return False
        return self.state.step % (self.plan.steps_per_epoch if every == "epoch" else int(every)) == 0

    def advance(self, stepper: Stepper) -> None:
        """Make the next optimizer step and log it.

        Raises:
            NumericsError: If the step was refused; nothing has changed then.
        """
        begun = time.monotonic()
        step = self.next_step()
        learning_rate = float(self.learner.scheduler.get_last_lr()[0])
        means = stepper.run(step, number=self.state.step + 1)
        self.learner.scheduler.step()
        self.state.step += 1
        self.state.tokens += step.num_tokens
        self.state.targets += step.num_targets
        self.state.final_loss_nats = means.objective
        self._report(stepper, step, means, learning_rate, seconds=time.monotonic() - begun)

    def next_step(self) -> Step:
        """Look up the planned step; a plan is made once per epoch."""
        epoch, index = divmod(self.state.step, self.plan.steps_per_epoch)
        if self.epoch_steps is None or self.epoch_steps[0] != epoch:
            self.epoch_steps = (epoch, self.plan.steps(epoch))
        return self.epoch_steps[1][index]

    @property
    def epoch(self) -> float:
        """Epochs done so far."""
        return self.state.step / self.plan.steps_per_epoch

    def _report(self, stepper: Stepper, step: Step, means: StepMeans, learning_rate: float, *, seconds: float) -> None:
        self.step_seconds.append(seconds)
        metrics = {
            "step": self.state.step,
            "epoch": round(self.epoch, EPOCH_DIGITS),
            "loss_nats": self.state.final_loss_nats,
            "parts": means.parts,
            "grad_norm": means.grad_norm,
            "learning_rate": learning_rate,
            "tokens": self.state.tokens,
            "targets": self.state.targets,
        }
        if self.state.step % self.options.logging_steps == 0 or self.state.step == self.num_steps:
            numbers = {f"train/{name}": metrics[name] for name in CURVES} | {
                f"train/{name}": value for name, value in means.parts.items()
            }
            self.log(numbers, self.state.step)
            self.journal.log_step(metrics, stepper.row_keys(step), num_tokens=step.num_tokens, seconds=seconds)
        if self.show is not None:
            mean_seconds = sum(self.step_seconds) / len(self.step_seconds)
            record = StepRecord(
                **{
                    name: metrics[name]
                    for name in ("step", "epoch", "loss_nats", "parts", "grad_norm", "learning_rate")
                },
                num_steps=self.num_steps,
                tokens_per_second=step.num_tokens / seconds,
                eta_seconds=mean_seconds * (self.num_steps - self.state.step),
            )
            self.show(record)

    def evaluate_now(self) -> None:
        """Evaluate the student, log the metrics, keep a copy of the weights if they are the best so far.

        Raises:
            TrainingError: If the metric to select by is not among them.
            NumericsError: If a metric is not finite.
        """
        assert self.evaluate is not None
        self.module.eval()
        metrics = self.evaluate(self.module.student)
        self.module.train()
        if self.select_by not in metrics:
            names = ", ".join(sorted(metrics))
            raise TrainingError(
                f"`select_by` is {self.select_by!r}, but the evaluation gave {names}. Choose one of them."
            )
        bad = [name for name, value in metrics.items() if not math.isfinite(value)]
        if bad:
            raise NumericsError(f"Step {self.state.step}: the validation metric {bad[0]} is {metrics[bad[0]]}.")
        is_best = self.state.note_evaluation(
            float(metrics[self.select_by]),
            patience=self.options.early_stopping_patience,
            threshold=self.options.early_stopping_threshold,
        )
        if is_best:
            self.best_weights = copy_weights(self.learner.parameters)
        self.log({f"validation/{name}": float(value) for name, value in metrics.items()}, self.state.step)
        self.journal.log_evaluation(metrics, step=self.state.step, epoch=self.epoch)

    def save(self) -> None:
        """Write a checkpoint of this moment, unless there is nothing new since the last one."""
        self._count_seconds()
        if self.state.step == 0 or (self.saved is not None and self.saved.content() == self.state.content()):
            return
        save_checkpoint(
            self.checkpoints,
            self.learner,
            self.state,
            identity=self.identity,
            positions=self.journal.positions(),
            best_weights=self.best_weights,
        )
        self.saved = dataclasses.replace(self.state)

    def finish(self) -> TrainResult:
        """Put the best weights into the student, commit them, and drop the checkpoints they replace.

        Raises:
            NumericsError: If they are not finite.
            TrainingError: If they are those from before training.
        """
        if self.best_weights is not None and self.state.best_step != self.state.step:
            set_weights(self.learner.parameters, self.best_weights)
        check_trained(
            self.learner.parameters,
            before=self.untrained,
            num_steps=self.state.step,
            learning_rate=self.options.learning_rate,
        )
        self._count_seconds()
        self.journal.positions()  # durable before the artifact that says that the run is over
        if self.options.save_weights:
            save_weights(
                self.weights,
                copy_weights(self.learner.parameters),
                kind="weights",
                point="train.weights",
                content={"identity": self.identity, "run": self.state.content()},
                seconds=self.state.seconds,
            )
            shutil.rmtree(self.checkpoints, ignore_errors=True)
        self.module.eval()
        return self.result()

    def result(self) -> TrainResult:
        """Return what a finished run did."""
        return result_of(self.state)

    def _count_seconds(self) -> None:
        self.state.seconds = self.earlier_seconds + time.monotonic() - self.started
