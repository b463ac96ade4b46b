"""Signals that ask a run to stop: they set a flag, and the loop saves at the next safe moment.

In: SIGTERM, SIGINT, SIGUSR1, SIGUSR2. Out: ``StopRequest``, read between two steps, or ``PreemptedError``.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

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


@contextlib.contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """Catch the stop signals inside the block; the handlers from before are put back.

    A signal that came but was never ``answered`` (too late for the loop to act on it) is raised
    again for those handlers, so that none is lost; not after an error, which ends the run with its
    own cause. Outside the main thread Python delivers no signals, and the request stays empty.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {signum: signal.signal(signum, request.receive) for signum in STOP_SIGNALS}
    try:
        yield request
    finally:
        for signum, handler in before.items():
            # None: the handler was not installed from Python, and cannot be put back from it
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)
    if request.signum is not None and not request.answered:
        signal.raise_signal(request.signum)


@contextlib.contextmanager
def preempted_by_signals() -> Iterator[None]:
    """Turn a stop signal that arrives between two safe moments into :class:`PreemptedError`.

    For code whose results are committed whole: leaving it anywhere loses nothing that was finished.
    :func:`stop_signals` inside takes over where a state can be saved first.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(signum: int, frame: FrameType | None) -> None:
        raise PreemptedError(
            f"{signal.Signals(signum).name} received: stopped between two parts; what was finished is kept. Run the "
            "same command again to go on."
        )

    before = {signum: signal.signal(signum, leave) for signum in STOP_SIGNALS}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)
