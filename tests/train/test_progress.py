import io

import pytest
from rich.console import Console

from tutelage.train.overall import BAR_COLUMNS
from tutelage.train.progress import StepRecord, TrainProgress, duration, progress_line


def record(step=1, num_steps=100, **changes):
    fields = {
        "step": step,
        "num_steps": num_steps,
        "epoch": 0.5,
        "loss_nats": 0.693147,
        "parts": {"cross_entropy": 0.71, "forward_kl": 0.123},
        "grad_norm": 1.234,
        "learning_rate": 1e-4,
        "tokens_per_second": 812.3,
        "eta_seconds": 754.0,
    }
    return StepRecord(**{**fields, **changes})


def test_a_line_shows_everything():
    assert progress_line(record(120, 1200)) == (
        "step  120/1200  loss 0.6931 (ce 0.71, kl 0.123)  grad 1.23  812 tok/s  ETA 12:34"
    )


@pytest.mark.parametrize("columns", [30, 68, 80])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"step": 999_999, "num_steps": 1_000_000, "loss_nats": 123456.789, "grad_norm": 1.23e-12},
        {"tokens_per_second": 12_345_678.0, "eta_seconds": 1e7},
        {"parts": {f"a_long_loss_name_{i}": 1e-9 * i for i in range(9)}},
    ],
)
def test_no_line_is_wider_than_allowed(changes, columns):
    assert len(progress_line(record(**changes), columns=columns)) <= columns


def test_loss_parts_give_way_before_the_time():
    line = progress_line(record(parts={f"loss_{i}": 0.5 for i in range(9)}))
    assert line.endswith("ETA 12:34")
    assert "loss_0 0.5" in line


def test_durations_read_as_clocks():
    assert [duration(s) for s in (0.0, 59.6, 754.0, 3661.0)] == ["0:00", "1:00", "12:34", "1:01:01"]


@pytest.mark.parametrize("num_steps", [1, 3, 10, 237])
def test_a_stream_that_is_no_terminal_gets_at_most_five_plain_lines(num_steps):
    stream = io.StringIO()
    with TrainProgress(Console(file=stream)) as show:
        for step in range(1, num_steps + 1):
            show(record(step, num_steps))
    lines = stream.getvalue().splitlines()
    assert min(num_steps, 4) <= len(lines) <= 5
    assert lines[-1].startswith(f"step {num_steps}/{num_steps}")
    assert "\x1b" not in stream.getvalue()


def test_a_terminal_gets_a_bar_that_is_taken_down_after_an_error():
    stream = io.StringIO()
    progress = TrainProgress(Console(file=stream, force_terminal=True, width=80))

    def fail():
        with progress as show:
            show(record(50, 100))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert progress.bar is None
    assert "50/100" in stream.getvalue()
    assert "\x1b[?25h" in stream.getvalue()  # the cursor is shown again


def test_a_live_line_keeps_the_loss_parts_at_80_columns():
    columns = 80 - BAR_COLUMNS - 2
    line = progress_line(record(12_345, 20_000, parts={"cross_entropy": 3.12, "forward_kl": 0.000803}), columns=columns)
    assert "(ce 3.12, kl 0.000803)" in line
    assert line.endswith("ETA 12:34")
