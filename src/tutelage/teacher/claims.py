"""Who computes which planned shard, when several processes fill one cache.

In: a teacher's folder, plan names. Out: locks that the system frees when their process dies.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tutelage.cache.layout import teacher_folder
from tutelage.errors import LockedError, PreemptedError
from tutelage.store import folder_lock

CLAIMS_FOLDER = ".claims"
SLOT_DIGITS = 2  # plans share 256 locks, which stay: a lock file that is deleted can be held by two processes
PLANNING = "planning"
POLL_SECONDS = 0.2


class Claims:
    """The locks of one teacher's cache."""

    def __init__(self, root: Path, fingerprint: str) -> None:
        self.folder = teacher_folder(root, fingerprint) / CLAIMS_FOLDER

    @contextlib.contextmanager
    def planning(self, should_stop: Callable[[], bool] | None) -> Iterator[None]:
        """Be the only process that looks at what is stored, deletes damaged shards and plans; wait for that.

        Raises:
            PreemptedError: If ``should_stop`` says so during the wait.
        """
        with contextlib.ExitStack() as held:
            while True:
                try:
                    held.enter_context(folder_lock(self.folder / PLANNING, wait_seconds=POLL_SECONDS))
                    break
                except LockedError as error:
                    stop_waiting(should_stop, error)
            yield

    def claim(self, plan: str) -> contextlib.ExitStack | None:
        """Take a planned shard, or return None when another live process has it; closing the result gives it back."""
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(folder_lock(self.folder / plan[:SLOT_DIGITS]))
            except LockedError:
                return None
            return held.pop_all()


def stop_waiting(should_stop: Callable[[], bool] | None, reason: LockedError | None = None) -> None:
    """Give up waiting for other processes when asked to.

    Raises:
        PreemptedError: If ``should_stop`` says so.
    """
    if should_stop is not None and should_stop():
        raise PreemptedError(
            "Stopped while waiting for another process that fills the same teacher cache; finished shards are kept. "
            "Run the same command again to go on from there."
        ) from reason


def pause() -> None:
    """Let the other processes work."""
    time.sleep(POLL_SECONDS)
