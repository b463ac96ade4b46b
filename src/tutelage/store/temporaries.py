"""Names for what is not finished yet, and the removal of what a dead process left.

In: a path to be written, or a folder to clean. Out: a sibling's name; no stale temporaries.
"""

import contextlib
import hashlib
import os
import re
import secrets
import socket
import time
from pathlib import Path

import psutil

from tutelage.store.disk import remove, sync_folder, walk
from tutelage.store.manifest import read_manifest

TEMPORARY = re.compile(r"(?P<name>.+)\.tmp\.(?P<pid>\d+)\.((?P<host>[0-9a-f]{6})-)?[0-9a-f]+(?P<aside>\.aside)?")
FOREIGN_SECONDS = 24 * 3600.0  # another machine's processes cannot be asked, only waited for
CLOCK_SECONDS = 60.0  # a process's start is reckoned from the boot time, which moves when the clock is set


def temporary_name(path: Path, *, aside: bool = False) -> Path:
    """Name a sibling of ``path`` that nobody else uses: ``NAME.tmp.PID.HOST-RANDOM``.

    ``.aside`` at the end marks an old folder that makes room for its replacement.
    """
    ending = ".aside" if aside else ""
    return path.with_name(f"{path.name}.tmp.{os.getpid()}.{_host_tag()}-{secrets.token_hex(4)}{ending}")


def is_temporary_name(name: str) -> bool:
    """Tell whether a sweep would regard ``name`` as a temporary."""
    return TEMPORARY.fullmatch(name) is not None


def sweep_temporaries(folder: Path) -> int:
    """Delete temporaries below ``folder`` whose owner is dead; return how many went.

    A folder that stepped aside for its replacement is put back when the replacement never came.
    The temporaries of another machine are left alone for a day. What cannot be removed stays.
    """
    swept = 0
    if not folder.is_dir():
        return 0
    for path in sorted(walk(folder)):
        match = TEMPORARY.fullmatch(path.name)
        if match is None or not _owner_is_dead(path, int(match["pid"]), match["host"]):
            continue
        target = path.with_name(match["name"])
        if match["aside"] and not target.exists() and read_manifest(path) is not None:
            with contextlib.suppress(OSError):  # another process's sweep put it back first
                path.rename(target)
                sync_folder(target.parent)
        else:
            remove(path)
        swept += 1
    return swept


def _owner_is_dead(path: Path, pid: int, host: str | None) -> bool:
    try:
        # Not the mtime: a folder that stepped aside keeps its old one, while a rename renews the ctime.
        changed = path.lstat().st_ctime
    except FileNotFoundError:
        return False  # its owner, or the removal of a folder around it, was faster
    if host is not None and host != _host_tag():
        return time.time() - changed > FOREIGN_SECONDS
    try:
        process = psutil.Process(pid)
        started_later = process.create_time() > changed + CLOCK_SECONDS  # the pid was given to a new process
        return started_later or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False


def _host_tag() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]
