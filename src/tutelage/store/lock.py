"""One owner per folder: a lock that says who holds it.

In: a folder. Out: a context in which this process is its only writer.
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import filelock

from tutelage.errors import LockedError
from tutelage.store.disk import disk_errors, make_folder

LOCK_FILE = ".lock"
OWNER_FILE = ".owner.json"


@contextlib.contextmanager
def folder_lock(folder: Path, *, wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold ``folder`` for this process; the system frees it when the process dies.

    Raises:
        LockedError: If another live process holds it, with its pid, host and start time.
        DiskError: If the disk is full.
    """
    make_folder(folder)
    lock = filelock.FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(timeout=wait_seconds)
    except filelock.Timeout:
        raise LockedError(
            f"{folder} is in use by {_owner(folder)}. Wait for it, stop it, or use another `workspace` or `name`."
        ) from None
    try:
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        with disk_errors(folder / OWNER_FILE):
            (folder / OWNER_FILE).write_text(json.dumps(owner), encoding="utf-8")
        yield
    finally:
        (folder / OWNER_FILE).unlink(missing_ok=True)
        lock.release()


def _owner(folder: Path) -> str:
    try:
        owner = json.loads((folder / OWNER_FILE).read_text(encoding="utf-8"))
        return f"process {owner['pid']} on {owner['host']} since {owner['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
