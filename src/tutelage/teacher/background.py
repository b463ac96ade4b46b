"""One thread that commits finished shards while the teacher reads on.

In: functions that encode and commit. Out: their errors, at the next hand-over or at the end.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType


class BackgroundWriter:
    """Run writes one after the other, at most one at a time, in the order in which they are handed over.

    A write starts only when the one before has succeeded, so nothing is committed behind a failure, and at most one
    finished shard is in memory beside the one that is being computed. Leaving the block waits for the last write; its
    error takes precedence over one that is under way, because it came first.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="shard-writer")
        self._running: Future[None] | None = None
        self._after: Callable[[], None] | None = None

    def hand_over(self, write: Callable[[], None], *, after: Callable[[], None]) -> None:
        """Wait for the write before, then start this one; ``after`` runs here, whatever becomes of it.

        Raises:
            Exception: What the write before raised; this one is then not started.
        """
        try:
            self.flush()
        except BaseException:
            after()
            raise
        self._after = after
        self._running = self._thread.submit(write)

    def flush(self) -> None:
        """Wait until nothing is being written.

        Raises:
            Exception: What the write raised.
        """
        running, after = self._running, self._after
        if running is None or after is None:
            return
        try:
            running.result()
        finally:
            if running.done():  # not when the wait itself was interrupted
                self._running = self._after = None
                after()

    def __enter__(self) -> "BackgroundWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.flush()
        finally:
            self._thread.shutdown(wait=True)
