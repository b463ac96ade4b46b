"""How far a whole run is: one line, such as ``arm 13 of 30, about 24 min left``.

In: the stages that are still to do, when each begins and ends, how far the current one is. Out: two lines that stay at
the bottom of a terminal (what is going on, and the whole); elsewhere only what ``line`` returns.
"""

import time
from collections.abc import Callable, Sequence
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

ARMS = ("score", "trials", "train")
TRAINED = ("trials", "train")  # take about as long as each other
BRIEF = ("prepare", "shrink", "score", "report")  # not worth an estimate before one of them was timed
LEAST_SHARE = 0.05  # of the current stage, before its pace says anything
BAR_COLUMNS = 6
MAX_COLUMNS = 80


class RunProgress:
    """Knows what is done of a run and how long the rest takes; a context manager around the terminal's last lines."""

    def __init__(
        self,
        stages: Sequence[str],
        *,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Plan a run.

        Args:
            stages: The stage of everything that is to be made, in order.
            console: Where the lines stand; default the terminal.
            clock: Returns seconds.
        """
        self.console = Console() if console is None else console
        self.waiting = list(stages)
        self.num_arms = sum(stage in ARMS for stage in stages)
        self.seconds: dict[str, list[float]] = {}
        self.arm = 0
        self._clock = clock
        self._current: tuple[str, str] | None = None
        self._began = 0.0
        self._share = 0.0
        self._part, self._detail = 0.0, ""
        self._live: Live | None = None

    @property
    def is_live(self) -> bool:
        """Whether the lines are on a terminal."""
        return self._live is not None

    def __enter__(self) -> "RunProgress":
        if self.console.is_terminal:
            self._live = Live(get_renderable=self._lines, console=self.console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def started(self, stage: str, subject: str) -> None:
        """Begin a stage; one that was not planned counts as one more."""
        if stage in self.waiting:
            self.waiting.remove(stage)
        elif stage in ARMS:
            self.num_arms += 1
        self.arm += stage in ARMS
        self._current, self._began, self._share, self._detail = (stage, subject), self._clock(), 0.0, ""

    def advance(self, share: float, detail: str = "") -> None:
        """Say how much of the current stage is done, 0 to 1, and what it is doing."""
        self._share = share
        self.describe(share, detail)

    def describe(self, share: float, detail: str) -> None:
        """Say how far a part of the current stage is, such as the scoring of one split."""
        self._part, self._detail = share, detail

    def finished(self) -> None:
        """End the current stage."""
        if self._current is not None:
            self.seconds.setdefault(self._current[0], []).append(self._clock() - self._began)
        self._current, self._share, self._detail = None, 0.0, ""

    def line(self) -> str:
        """Say how far the run is, within 80 columns."""
        if self._current is None:
            return ""
        stage, subject = self._current
        left = self.seconds_left()
        about = f", about {rounded(left)} left" if left is not None else ""
        if stage in ARMS:
            head = f"arm {self.arm} of {self.num_arms}{about}: "
        else:
            head = f"{stage}{f', then {self.num_arms} arms' if self.num_arms > self.arm else ''}{about}: "
        return head + _shortened(subject, MAX_COLUMNS - len(head))

    def seconds_left(self) -> float | None:
        """Estimate the rest of the run from what was timed in it; None while that says nothing."""
        total = 0.0
        if self._current is not None:
            elapsed = self._clock() - self._began
            if self._share >= LEAST_SHARE:
                total += elapsed * (1 - self._share) / self._share
            elif (expected := self._expected(self._current[0])) is not None:
                total += max(0.0, expected - elapsed)
            else:
                return None
        for stage in self.waiting:
            expected = self._expected(stage)
            if expected is None:
                return None
            total += expected
        return total

    def _expected(self, stage: str) -> float | None:
        alike = TRAINED if stage in TRAINED else (stage,)
        timed = [seconds for each in alike for seconds in self.seconds.get(each, [])]
        if timed:
            return sum(timed) / len(timed)
        if self._current is not None and self._current[0] in alike and self._share >= LEAST_SHARE:
            return (self._clock() - self._began) / self._share
        return 0.0 if stage in BRIEF else None

    def _lines(self) -> RenderableType:
        lines = [Text(self.line(), no_wrap=True, overflow="ellipsis")]
        if self._detail:
            table = Table.grid(padding=(0, 1))
            table.add_row(
                ProgressBar(total=1.0, completed=self._part, width=BAR_COLUMNS),
                Text(self._detail, no_wrap=True, overflow="ellipsis"),
            )
            return Group(table, *lines)
        return Group(*lines)


def rounded(seconds: float) -> str:
    """Write a duration as roughly as it is known: ``40 s``, ``24 min``, ``3 h 10 min``."""
    if seconds < 60:
        return f"{max(10, round(seconds, -1)):.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, rest = divmod(round(minutes, -1), 60)
    return f"{hours} h {rest} min" if rest else f"{hours} h"


def _shortened(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: max(0, width - 1)]}…"
