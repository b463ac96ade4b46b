import os
import signal
import threading

import pytest

from tutelage.train.signals import STOP_SIGNALS, stop_signals


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
