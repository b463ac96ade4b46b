import contextlib
import os
import signal
import threading

import pytest

from tutelage.errors import PreemptedError
from tutelage.train.signals import STOP_SIGNALS, preempted_by_signals, stop_signals


@pytest.fixture(autouse=True)
def interrupts_are_heard():
    """A run in a shell's background starts with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_four_signals_are_caught():
    assert {s.name for s in STOP_SIGNALS} == {"SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2"}


@pytest.mark.parametrize("signum", STOP_SIGNALS)
def test_a_signal_sets_the_flag_and_the_old_handler_comes_back(signum):
    before = signal.getsignal(signum)
    with stop_signals() as stop:
        assert not stop.requested
        os.kill(os.getpid(), signum)
        assert stop.requested
        assert stop.name == signum.name
        stop.answered = True
    assert signal.getsignal(signum) == before


def test_a_second_signal_changes_nothing():
    with stop_signals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.name == "SIGTERM"
        stop.answered = True


def test_a_signal_nobody_answered_reaches_the_handler_from_before():
    with pytest.raises(KeyboardInterrupt), stop_signals():
        os.kill(os.getpid(), signal.SIGINT)


def test_an_error_is_not_covered_by_a_signal_that_came_before_it():
    def fail():
        with stop_signals():
            os.kill(os.getpid(), signal.SIGINT)
            raise ValueError("the cause")

    with pytest.raises(ValueError, match="the cause"):
        fail()


def test_handlers_come_back_after_an_error():
    before = [signal.getsignal(s) for s in STOP_SIGNALS]
    with pytest.raises(ValueError, match="inside"), stop_signals():
        raise ValueError("inside")
    assert [signal.getsignal(s) for s in STOP_SIGNALS] == before


def test_outside_the_main_thread_nothing_is_installed():
    seen = []

    def work():
        with stop_signals() as stop:
            seen.append(stop.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]


def test_a_signal_between_two_parts_leaves_and_the_old_handlers_come_back():
    before = [signal.getsignal(s) for s in STOP_SIGNALS]
    with pytest.raises(PreemptedError, match="SIGUSR1 received"), preempted_by_signals():
        os.kill(os.getpid(), signal.SIGUSR1)
    assert [signal.getsignal(s) for s in STOP_SIGNALS] == before


def test_a_stop_is_no_failure_that_code_may_go_on_after():
    assert not issubclass(PreemptedError, Exception)


def swallow_a_stop():
    with contextlib.suppress(PreemptedError):
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_stop_that_something_swallowed_is_raised_at_the_end():
    with pytest.raises(PreemptedError, match="SIGTERM"), preempted_by_signals():
        swallow_a_stop()


def test_a_stop_that_something_swallowed_acts_at_the_next_safe_moment():
    def later():
        swallow_a_stop()
        with preempted_by_signals():  # inside another one: the outer one's business
            steps.append("inside")
        steps.append("never reached")

    steps = []
    with pytest.raises(PreemptedError), preempted_by_signals():
        later()
    assert steps == ["inside"]


def test_a_loop_hears_of_a_stop_that_was_swallowed_before_it():
    def work():
        with preempted_by_signals():
            swallow_a_stop()
            with stop_signals() as stop:
                assert stop.answer()
                raise PreemptedError("saved")

    with pytest.raises(PreemptedError, match="saved"):
        work()


def test_a_second_signal_of_another_kind_does_not_disturb_the_way_out():
    steps = []

    def leave():
        with preempted_by_signals():
            try:
                os.kill(os.getpid(), signal.SIGINT)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)
                steps.append("cleaned up")

    with pytest.raises(PreemptedError, match="SIGINT"):
        leave()
    assert steps == ["cleaned up"]
