"""The training loop: batch plan -> step -> log -> evaluate -> checkpoint, until done or asked to stop.

In: a ``DistillationModule``, rows, teachers. Out: trained weights, ``TrainResult``, and in the
run's folder ``metrics.jsonl``, ``evaluations.jsonl``, ``timings.jsonl``, ``checkpoints/`` and ``weights/``.
"""

import contextlib
import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin
from torch import nn

from tutelage.data.plan import BatchPlan
from tutelage.errors import PreemptedError, TrainingError
from tutelage.store import value_digest
from tutelage.train.checkpoint import Learner
from tutelage.train.guards import check_rows
from tutelage.train.module import DistillationModule
from tutelage.train.optimizer import make_optimizer, make_scheduler, trainable_parameters
from tutelage.train.options import TrainOptions
from tutelage.train.random_state import seed_everything
from tutelage.train.run import Evaluate, Run, Show
from tutelage.train.signals import StopRequest, stop_signals
from tutelage.train.state import TrainResult
from tutelage.train.step import Stepper
from tutelage.train.teachers import Teacher, as_teachers
from tutelage.train.trackers import LogWith, check_trackers, tracked
from tutelage.types import StudentRow


def train(
    module: DistillationModule,
    rows: Sequence[StudentRow],
    teacher: Teacher | Sequence[Teacher] | None,
    options: TrainOptions,
    *,
    folder: Path,
    pad_id: int,
    evaluate: Evaluate | None = None,
    select_by: str = "accuracy",
    device: torch.device | None = None,
    show: Show | None = None,
    resume: bool = True,
    run_key: str = "",
    trackers: LogWith | None = None,
    curves: Path | None = None,
) -> TrainResult:
    """Train the student; with ``evaluate`` it ends with its best weights, else with its last ones.

    The order of rows, every logged number and the final weights are a function of the inputs and
    ``options.seed``; an interrupted and resumed run gives the same bits as an uninterrupted one
    (same machine, same thread count). The random generators are seeded here.

    Args:
        module: Student and objective. Trained in place and moved to ``device``; left in eval mode.
        rows: Every row with at least one supervised target.
        teacher: Gives a signal per batch; several for several signals, None when no term needs one.
        options: Settings.
        folder: The run's folder. This process must be its only writer (``store.folder_lock``).
        pad_id: Token that fills padded rows.
        evaluate: Called with the student in eval mode; returns the validation metrics.
        select_by: The metric that chooses the best weights; higher is better, the earlier of two equal ones wins.
        device: Where to train; the CPU when None.
        show: Called after each step, for example a ``TrainProgress``.
        resume: Go on from the newest checkpoint, or return a finished run's weights. False starts anew.
        trackers: Get every logged number as it comes; those that ``options.report_to`` names when None.
        curves: Where trackers that write files put them; ``folder`` when None.
        run_key: What else identifies the run (its node key); a checkpoint of another key is refused.

    Raises:
        DataError: If a row has no supervised target.
        NumericsError: If a teacher signal, a loss or a gradient is not finite, or a loss is 0; weights
            and optimizer are as they were before that step.
        PreemptedError: If a signal asked to stop; the state is saved, the same call resumes.
        TrainingError: If nothing trains, a trainable weight is not float32, or stored state is of another run.
        IntegrityError: If stored state is damaged.
    """
    check_rows(rows)
    seed_everything(options.seed)
    module.to(device or torch.device("cpu"))
    if options.gradient_checkpointing:
        module.enable_gradient_checkpointing()
    plan = make_plan(rows, options)
    num_steps = options.num_steps(plan.steps_per_epoch)
    learner = make_learner(module, options, num_steps)
    identity = run_identity(module, rows, options, learner, run_key=run_key, select_by=select_by)
    if trackers is None:
        check_trackers(options.report_to)
        trackers = options.report_to
    stepper = make_stepper(
        module, learner, rows, as_teachers(teacher), options, pad_id=pad_id, trackers=trackers, curves=curves or folder
    )
    run = Run(
        module=module,
        learner=learner,
        options=options,
        plan=plan,
        num_steps=num_steps,
        folder=folder,
        identity=identity,
        evaluate=evaluate,
        select_by=select_by,
        show=show,
        log=stepper.accelerator.log,
    )
    module.train()
    curve = tracked(stepper.accelerator, name=folder.name, settings=options.as_dict())
    with stop_signals() as stop, contextlib.closing(run.journal), curve:
        if run.restore(resume=resume):
            return run.result()
        while True:
            if run.evaluation_is_due():
                run.evaluate_now()
            if run.save_is_due():
                run.save()
            stop_if_asked(run, stop)
            if run.is_finished():
                break
            run.advance(stepper)
            stop_if_asked(run, stop)
        return run.finish()


def stop_if_asked(run: Run, stop: StopRequest) -> None:
    """Save and leave when a signal came.

    Raises:
        PreemptedError: With the step and the folder; exit code 75.
    """
    if stop.requested:
        run.save()
        stop.answered = True
        raise PreemptedError(
            f"{stop.name} received: training stopped after step {run.state.step} of {run.num_steps}, its state is "
            f"saved in {run.folder}. Run the same command again to go on."
        )


def make_plan(rows: Sequence[StudentRow], options: TrainOptions) -> BatchPlan:
    """Plan every epoch's steps and micro-batches; their target counts are known from here on."""
    lengths = [len(row.ids) for row in rows]
    token_budget = options.token_budget or options.per_device_train_batch_size * max(lengths)
    return BatchPlan(
        np.array(lengths),
        np.array([int(row.target_mask.sum()) for row in rows]),
        rows_per_step=options.rows_per_step,
        token_budget=token_budget,
        seed=options.seed,
        group_rows=options.group_rows,
    )


def make_learner(module: nn.Module, options: TrainOptions, num_steps: int) -> Learner:
    """Build optimizer and schedule for the trainable parameters."""
    parameters = trainable_parameters(module)
    optimizer = make_optimizer(parameters, options)
    return Learner(parameters, optimizer, make_scheduler(optimizer, options, num_steps))


def make_stepper(
    module: DistillationModule,
    learner: Learner,
    rows: Sequence[StudentRow],
    teachers: Sequence[Teacher],
    options: TrainOptions,
    *,
    pad_id: int,
    trackers: LogWith = (),
    curves: Path | None = None,
) -> Stepper:
    """Hand module and optimizer to accelerate, and nothing else.

    Raises:
        TrainingError: If several processes were launched; checkpoints are written by one only.
    """
    device = next(module.parameters()).device
    # Not `cpu=`: its state lasts as long as the process, and a teacher may be adapted on one device, students trained
    # on another. Module and batches are placed by us.
    accelerator = Accelerator(
        device_placement=False,
        mixed_precision="no",  # autocast is ours; the environment must not add a second one
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),  # nor divide the loss
        step_scheduler_with_optimizer=False,
        log_with=list(trackers) or None,
        project_dir=curves,
    )
    if accelerator.num_processes > 1:
        raise TrainingError(
            f"{accelerator.num_processes} processes were launched, expected 1. Start the command without a launcher."
        )
    prepared_module, prepared_optimizer = accelerator.prepare(module, learner.optimizer)
    return Stepper(
        accelerator=accelerator,
        module=prepared_module,
        optimizer=prepared_optimizer,
        parameters=learner.parameters,
        rows=rows,
        teachers=teachers,
        units=module.units,
        device=device,
        pad_id=pad_id,
        packed=options.packed,
        max_grad_norm=options.max_grad_norm,
    )


def run_identity(
    module: DistillationModule,
    rows: Sequence[StudentRow],
    options: TrainOptions,
    learner: Learner,
    *,
    run_key: str,
    select_by: str,
) -> str:
    """Digest what makes two runs the same: settings, rows, objective and trainable parameters."""
    row_hash = hashlib.sha256()
    for row in rows:
        row_hash.update(row.item_key.encode() + b"\0" + row.ids.tobytes() + row.target_mask.tobytes())
    return value_digest(
        {
            "options": options.computed(),
            "rows": row_hash.hexdigest(),
            "terms": [dataclasses.asdict(term) for term in module.terms],
            "parameters": {name: list(p.shape) for name, p in learner.parameters.items()},
            "select_by": select_by,
            "run_key": run_key,
        }
    )
