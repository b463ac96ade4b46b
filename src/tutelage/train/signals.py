"""Signals that ask a process to stop: noted where a loop can save first, else raised as ``PreemptedError``.

In: SIGTERM, SIGINT, SIGUSR1, SIGUSR2. Out: ``StopRequest``, read between two steps, or ``PreemptedError``.
Imports nothing heavy: the command line catches signals before it loads anything else.
"""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from tutelage.errors import PreemptedError

STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
)


class StopRequest:
    """Whether, and by which signal, the process was asked to stop. A second signal changes nothing."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self.answered = False

    @property
    def requested(self) -> bool:
        """Whether a signal came."""
        return self.signum is not None

    @property
    def name(self) -> str:
        """The signal's name, as in ``SIGTERM``."""
        return signal.Signals(self.signum).name if self.signum is not None else "no signal"

    def answer(self) -> bool:
        """Tell a stage whether to stop, for one that raises ``PreemptedError`` where it is told so."""
        self.answered = self.requested
        return self.requested

    def receive(self, signum: int, frame: FrameType | None) -> None:
        """Note the signal; the first one is kept, since the loop acts on one request."""
        if self.signum is None:
            self.signum = signum

    def leave(self, signum: int, frame: FrameType | None) -> None:
        """Note the signal and leave, unless the process is leaving already.

        Raises:
            PreemptedError: For code whose results are committed whole.
        """
        self.receive(signum, frame)
        if not _is_leaving():
            self.check()

    def check(self) -> None:
        """Leave if a signal came.

        Raises:
            PreemptedError: With the signal's name.
        """
        if self.requested:
            raise PreemptedError(
                f"{self.name} received: stopped between two parts; what was finished is kept. Run the same command "
                "again to go on."
            )


# The one request that the process's handlers note and raise; empty where signals are somebody else's business.
_process: list[StopRequest] = []


def catch_stop_signals() -> StopRequest:
    """Raise :class:`PreemptedError` for stop signals up to the end of the process: for a command's first line."""
    request = StopRequest()
    _process[:] = [request]
    _install(request.leave)
    return request


def ignore_stop_signals() -> None:
    """Ignore stop signals: for a command's last line, after which the interpreter would die of them."""
    _install(signal.SIG_IGN)


@contextlib.contextmanager
def preempted_by_signals() -> Iterator[None]:
    """Turn a stop signal that arrives between two safe moments into :class:`PreemptedError`.

    For code whose results are committed whole: leaving it anywhere loses nothing that was finished.
    :func:`stop_signals` inside takes over where a state can be saved first. A request that something
    inside has swallowed is raised at the end.
    """
    if _process or not _is_main_thread():
        yield
        stop_if_requested()
        return
    request = StopRequest()
    _process.append(request)
    before = _install(request.leave)
    try:
        yield
    finally:
        _process.remove(request)
        _restore(before)
    request.check()


def stop_if_requested() -> None:
    """Leave if a signal came, also where the error that it raised was swallowed: for moments that all stages pass.

    Raises:
        PreemptedError: With the signal's name.
    """
    if _is_main_thread():
        for request in _process:
            request.check()


@contextlib.contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """Catch the stop signals inside the block; the handlers from before are put back.

    A signal that came but was never ``answered`` (too late for the loop to act on it) is raised
    again for those handlers, so that none is lost; not after an error, which ends the run with its
    own cause. Outside the main thread Python delivers no signals, and the request stays empty.
    """
    request = StopRequest()
    if not _is_main_thread():
        yield request
        return
    for outer in _process:
        request.signum = outer.signum  # one that was swallowed
    before = _install(request.receive)
    try:
        yield request
    finally:
        _restore(before)
        for outer in _process:
            outer.signum = request.signum
    if request.signum is not None and not request.answered:
        stop_if_requested()
        signal.raise_signal(request.signum)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _is_leaving() -> bool:
    """Say whether the code that a signal interrupts is the clean-up of a stop that was raised before."""
    error = sys.exception()
    while error is not None and not isinstance(error, PreemptedError):
        error = error.__context__
    return error is not None


def _install(handler: Callable[[int, FrameType | None], Any] | signal.Handlers) -> dict[int, Any]:
    return {signum: signal.signal(signum, handler) for signum in STOP_SIGNALS}


def _restore(before: dict[int, Any]) -> None:
    for signum, handler in before.items():
        # None: the handler was not installed from Python, and cannot be put back from it
        signal.signal(signum, signal.SIG_DFL if handler is None else handler)
