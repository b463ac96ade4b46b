"""How a training run looks while it runs: a live bar on a terminal, a few plain lines elsewhere.

In: a ``StepRecord`` after each step. Out: text, never wider than 80 columns.
"""

from dataclasses import dataclass
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from tutelage.train.overall import BAR_COLUMNS, MAX_COLUMNS, RunProgress

NUM_PLAIN_LINES = 4
SHORT_NAMES = {
    "cross_entropy": "ce",
    "forward_kl": "kl",
    "reverse_kl": "rkl",
    "jsd": "jsd",
    "skew_kl": "skl",
    "skew_reverse_kl": "srkl",
    "total_variation": "tv",
}


@dataclass(frozen=True)
class StepRecord:
    """One finished optimizer step. Losses are nats per supervised target."""

    step: int  # from 1
    num_steps: int
    epoch: float
    loss_nats: float
    parts: dict[str, float]
    grad_norm: float  # before clipping
    learning_rate: float
    tokens_per_second: float
    eta_seconds: float


def progress_line(record: StepRecord, *, columns: int = MAX_COLUMNS) -> str:
    """Write a step on one line of at most ``columns`` characters; gradient and pace give way before the loss parts."""
    width = len(str(record.num_steps))
    head = f"step {record.step:>{width}}/{record.num_steps}  loss {record.loss_nats:.4g}"
    left = f"  ETA {duration(record.eta_seconds)}"
    pace = f"  {record.tokens_per_second:,.0f} tok/s{left}"
    parts = [f"{SHORT_NAMES.get(name, name[:8])} {nats:.3g}" for name, nats in record.parts.items()]
    parts = parts if len(parts) > 1 else []
    for tail in (f"  grad {record.grad_norm:.3g}{pace}", pace, left):
        line = head + (f" ({', '.join(parts)})" if parts else "") + tail
        if len(line) <= columns:
            return line
    while parts and len(line) > columns:
        parts.pop()
        line = head + (f" ({', '.join(parts)})" if parts else "") + left
    return line[:columns]


def duration(seconds: float) -> str:
    """Write seconds as ``m:ss`` or ``h:mm:ss``."""
    minutes, rest = divmod(round(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class TrainProgress:
    """Shows steps as they come; pass it as ``show`` to :func:`tutelage.train.loop.train`.

    Use it as a context manager, so that a live bar is taken down whatever happens.
    """

    def __init__(self, console: Console | None = None, *, overall: RunProgress | None = None) -> None:
        """Show steps on a console.

        Args:
            console: Default the terminal.
            overall: The progress of the whole run; where it is live, steps are shown beside it.
        """
        self.console = Console() if console is None else console
        self.overall = overall
        self.bar: Progress | None = None
        self.last_share = -1

    def __enter__(self) -> "TrainProgress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def __call__(self, record: StepRecord) -> None:
        """Show one step."""
        if self.overall is not None:
            columns = min(self.overall.console.width, MAX_COLUMNS) - BAR_COLUMNS - 2
            self.overall.advance(record.step / record.num_steps, progress_line(record, columns=columns))
            if self.overall.is_live:
                return
        if self.console.is_terminal:
            self._show_bar(record)
            return
        share = record.step * NUM_PLAIN_LINES // record.num_steps
        if share > self.last_share:
            self.last_share = share
            self.console.print(progress_line(record), markup=False, highlight=False, soft_wrap=True)

    def _show_bar(self, record: StepRecord) -> None:
        bar = self.bar or self._start_bar(record.num_steps)
        line = progress_line(record, columns=min(bar.console.width, MAX_COLUMNS) - BAR_COLUMNS - 2)
        bar.update(bar.task_ids[0], completed=record.step, line=line)

    def _start_bar(self, num_steps: int) -> Progress:
        columns = (BarColumn(bar_width=BAR_COLUMNS), TextColumn("{task.fields[line]}", markup=False))
        self.bar = Progress(*columns, console=self.console, refresh_per_second=4)
        self.bar.start()
        self.bar.add_task("train", total=num_steps, line="")
        return self.bar
