"""Writes happen in order, one at a time, and their errors surface."""

import threading
import time
from collections.abc import Callable

import pytest

from tutelage.errors import DiskError, PreemptedError
from tutelage.teacher.background import BackgroundWriter


class Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, name: str, *, seconds: float = 0.0, error: Exception | None = None):
        def act() -> None:
            assert threading.current_thread() is not threading.main_thread()
            time.sleep(seconds)
            if error is not None:
                raise error
            self.lines.append(f"wrote {name}")

        return act

    def after(self, name: str):
        def act() -> None:
            assert threading.current_thread() is threading.main_thread()  # locks belong to the thread that took them
            self.lines.append(f"after {name}")

        return act


def test_writes_are_done_in_order_and_the_last_is_waited_for() -> None:
    log = Log()
    with BackgroundWriter() as background:
        for name, seconds in (("a", 0.05), ("b", 0.0), ("c", 0.05)):
            background.hand_over(log.write(name, seconds=seconds), after=log.after(name))
    assert log.lines == ["wrote a", "after a", "wrote b", "after b", "wrote c", "after c"]


def test_the_main_thread_goes_on_while_a_write_runs() -> None:
    gate = threading.Event()
    with BackgroundWriter() as background:
        background.hand_over(lambda: gate.wait(10), after=lambda: None)
        gate.set()  # reached only because hand_over did not wait


def write_all(log: Log, **errors: Exception | None) -> None:
    with BackgroundWriter() as background:
        for name, error in errors.items():
            background.hand_over(log.write(name, error=error, seconds=0.02), after=log.after(name))


def write_and_stop(write: Callable[[], None], after: Callable[[], None]) -> None:
    with BackgroundWriter() as background:
        background.hand_over(write, after=after)
        raise PreemptedError("stop")


def test_an_error_surfaces_at_the_next_hand_over_which_is_not_started() -> None:
    log = Log()
    with pytest.raises(DiskError, match="full"):
        write_all(log, a=DiskError("full"), b=None, c=None)
    assert log.lines == ["after a", "after b"]


def test_an_error_of_the_last_write_surfaces_at_the_end() -> None:
    log = Log()
    with pytest.raises(DiskError, match="full"):
        write_all(log, a=None, b=DiskError("full"))
    assert log.lines == ["wrote a", "after a", "after b"]


def test_a_stop_waits_for_the_write_and_a_failed_write_is_not_hidden_by_it() -> None:
    log = Log()
    with pytest.raises(PreemptedError):
        write_and_stop(log.write("a", seconds=0.05), log.after("a"))
    assert log.lines == ["wrote a", "after a"]
    with pytest.raises(DiskError):
        write_and_stop(log.write("b", seconds=0.05, error=DiskError("full")), log.after("b"))
