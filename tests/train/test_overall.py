"""One line says how far a whole run is."""

import io

import pytest
from rich.console import Console

from tutelage.train.overall import RunProgress, rounded
from tutelage.train.progress import StepRecord, TrainProgress

STAGES = ["teach", "score", "train", "train", "train", "train"]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def progress(clock: Clock) -> RunProgress:
    return RunProgress(STAGES, console=Console(file=io.StringIO()), clock=clock)


def do(progress: RunProgress, clock: Clock, stage: str, seconds: float) -> None:
    progress.started(stage, "x")
    clock.now += seconds
    progress.finished()


def test_nothing_is_promised_before_an_arm_was_timed(progress: RunProgress, clock: Clock):
    progress.started("teach", "sentiment")
    clock.now += 50
    progress.advance(0.5)
    assert progress.line() == "teach, then 5 arms: sentiment"


def test_the_time_left_is_that_of_the_arms_so_far(progress: RunProgress, clock: Clock):
    do(progress, clock, "teach", 300)
    do(progress, clock, "score", 5)
    progress.started("train", "B0")
    assert progress.line() == "arm 2 of 5: B0"
    clock.now += 60
    progress.advance(0.5)
    assert progress.seconds_left() == pytest.approx(60 + 3 * 120)
    assert progress.line() == "arm 2 of 5, about 7 min left: B0"
    clock.now += 60
    progress.finished()
    progress.started("train", "KD1")
    clock.now += 20
    assert progress.seconds_left() == pytest.approx(100 + 2 * 120)


def test_the_last_arm_ends_near_nothing(progress: RunProgress, clock: Clock):
    for stage in STAGES[:-1]:
        do(progress, clock, stage, 100)
    progress.started("train", "last")
    clock.now += 99
    progress.advance(0.99)
    assert progress.line() == "arm 5 of 5, about 10 s left: last"


def test_what_was_not_planned_counts_too(progress: RunProgress, clock: Clock):
    for stage in (*STAGES, "train"):
        do(progress, clock, stage, 1)
    assert (progress.arm, progress.num_arms) == (6, 6)


def test_a_scored_split_is_shown_but_is_not_the_arm(progress: RunProgress, clock: Clock):
    do(progress, clock, "teach", 9)
    do(progress, clock, "train", 100)
    progress.started("train", "KD1")
    clock.now += 25
    progress.advance(0.25, "step 1/4")
    progress.describe(1.0, "score validation")
    assert progress.seconds_left() == pytest.approx(75 + 2 * 100 + 0)  # a score is brief


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(3, "10 s"), (44, "40 s"), (89, "1 min"), (1440, "24 min"), (3700, "1 h"), (11_500, "3 h 10 min")],
)
def test_a_rest_is_as_rough_as_it_is_known(seconds: float, words: str):
    assert rounded(seconds) == words


def test_no_line_is_wider_than_a_terminal(progress: RunProgress):
    progress.started("train", "x" * 200)
    assert len(progress.line()) == 80


def test_a_terminal_keeps_both_lines_below_what_is_printed(clock: Clock):
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=80)
    record = StepRecord(1, 4, 0.1, 0.7, {"cross_entropy": 0.7, "forward_kl": 0.1}, 1.0, 1e-3, 800.0, 60.0)
    with RunProgress(["train"], console=console, clock=clock) as progress:
        progress.started("train", "KD1")
        with TrainProgress(console, overall=progress) as show:
            show(record)
    written = stream.getvalue()
    assert "arm 1 of 1" in written
    assert "(ce 0.7, kl 0.1)" in written
    assert "\x1b[?25h" in written  # the cursor is shown again
    assert not progress.is_live
