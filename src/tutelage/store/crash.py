"""Named points at which a test may kill the process or refuse a write.

In: the environment variable ``TUTELAGE_CRASH_POINT``. Out: nothing, unless it is armed.
"""

import errno
import os
import signal
from pathlib import Path

ARMED = "TUTELAGE_CRASH_POINT"  # "NAME" or "NAME:COUNT": at the COUNT-th passage (first: 1)
ACTION = "TUTELAGE_CRASH_ACTION"  # "kill" (SIGKILL, the default) or "enospc" (OSError, disk full)
TRACE = "TUTELAGE_CRASH_TRACE"  # a file that receives the name of every point passed

_passages: dict[str, int] = {}


def crash_point(name: str) -> None:
    """Mark a moment at which a crash must lose nothing; a no-op unless armed for ``name``.

    Raises:
        OSError: With ``ENOSPC``, when armed with the action ``enospc``.
    """
    trace = os.environ.get(TRACE)
    if trace:
        with Path(trace).open("a", encoding="utf-8") as stream:
            stream.write(name + "\n")
    armed = os.environ.get(ARMED)
    if not armed:
        return
    wanted, _, count = armed.partition(":")
    if wanted != name:
        return
    _passages[name] = _passages.get(name, 0) + 1
    if _passages[name] != int(count or 1):
        return
    if os.environ.get(ACTION, "kill") == "enospc":
        raise OSError(errno.ENOSPC, "No space left on device (injected)", name)
    os.kill(os.getpid(), signal.SIGKILL)
