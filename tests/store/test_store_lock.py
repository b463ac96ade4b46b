"""One owner per folder."""

import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

from tutelage.errors import LockedError
from tutelage.store import folder_lock
from tutelage.store.lock import OWNER_FILE

HOLDER = """
import sys
from pathlib import Path
from tutelage.store import folder_lock
with folder_lock(Path(sys.argv[1])):
    print("held", flush=True)
    input()
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_is_refused_with_the_owners_pid_and_host(tmp_path, holder):
    with pytest.raises(LockedError) as caught, folder_lock(tmp_path / "run"):
        pass
    assert f"in use by process {holder.pid} on {socket.gethostname()} since 20" in str(caught.value)
    assert "Wait for it, stop it, or use another" in str(caught.value)
    assert caught.value.exit_code == 1


def test_a_lock_is_freed_at_its_owners_death(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "run" / OWNER_FILE).exists()  # stale: it had no time to tidy up
    with folder_lock(tmp_path / "run"):
        assert f'"pid": {os.getpid()}' in (tmp_path / "run" / OWNER_FILE).read_text()
    assert not (tmp_path / "run" / OWNER_FILE).exists()


def test_a_lock_is_waited_for_when_asked(tmp_path, holder):
    assert holder.stdin is not None
    timer = threading.Timer(0.2, lambda: (holder.stdin.write("\n"), holder.stdin.flush()))
    timer.start()
    with folder_lock(tmp_path / "run", wait_seconds=20.0):
        assert holder.wait(timeout=10) == 0


def test_a_second_lock_in_the_same_process_is_refused_too(tmp_path):
    with (
        folder_lock(tmp_path),
        pytest.raises(LockedError, match=f"process {os.getpid()}"),
        folder_lock(tmp_path),
    ):
        pass
    with folder_lock(tmp_path):
        pass


def test_a_lock_is_freed_after_an_error_in_its_body(tmp_path):
    with pytest.raises(ZeroDivisionError), folder_lock(tmp_path):
        raise ZeroDivisionError
    with folder_lock(tmp_path):
        pass


@pytest.mark.parametrize("text", ["", "{", "{}", "[]"])
def test_an_owner_who_has_not_signed_yet_is_another_process(tmp_path, holder, text):
    (tmp_path / "run" / OWNER_FILE).write_text(text)
    with pytest.raises(LockedError, match="in use by another process"), folder_lock(tmp_path / "run"):
        pass
