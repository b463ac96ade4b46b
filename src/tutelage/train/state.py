"""Where a run stands, and what it returns when it is done.

In: the numbers of each step and evaluation. Out: plain records that fit in JSON.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass
class RunState:
    """What the loop must know to go on after ``step`` optimizer steps. ``seconds`` is a time, and no content."""

    step: int = 0
    tokens: int = 0
    targets: int = 0
    final_loss_nats: float = 0.0
    evaluated_step: int = 0
    best_step: int = 0
    best_metric: float | None = None
    num_bad_evaluations: int = 0
    stopped_early: bool = False
    seconds: float = 0.0

    def note_evaluation(self, metric: float, *, patience: int | None, threshold: float) -> bool:
        """Take in a validation metric (higher is better); return whether it is the best so far.

        Any gain makes a new best and the earlier of two equal ones stays; only a gain above
        ``threshold`` resets the patience, as in ``transformers.EarlyStoppingCallback``.
        """
        self.evaluated_step = self.step
        is_best = self.best_metric is None or metric > self.best_metric
        is_clear = self.best_metric is None or metric > self.best_metric + threshold
        self.num_bad_evaluations = 0 if is_clear else self.num_bad_evaluations + 1
        if is_best:
            self.best_step, self.best_metric = self.step, metric
        self.stopped_early = patience is not None and self.num_bad_evaluations >= patience
        return is_best

    def content(self) -> dict[str, Any]:
        """Return everything but the time."""
        fields = dataclasses.asdict(self)
        del fields["seconds"]
        return fields


@dataclass(frozen=True)
class TrainResult:
    """What a finished run did. ``best_metric`` is None when nothing evaluated it."""

    steps: int
    best_step: int
    best_metric: float | None
    tokens: int  # student tokens processed, padding not counted
    targets: int  # supervised positions processed
    seconds: float  # over all attempts, evaluation included
    stopped_early: bool
    final_loss_nats: float  # of the last step, per target


def result_of(state: RunState) -> TrainResult:
    """Sum a finished run up; without an evaluation the last step counts as the best one."""
    return TrainResult(
        steps=state.step,
        best_step=state.step if state.best_metric is None else state.best_step,
        best_metric=state.best_metric,
        tokens=state.tokens,
        targets=state.targets,
        seconds=state.seconds,
        stopped_early=state.stopped_early,
        final_loss_nats=state.final_loss_nats,
    )
