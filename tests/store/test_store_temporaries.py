"""What a dead process left is removed; what a live one is writing is not touched."""

import os
import socket
import subprocess
import sys
import time

import psutil
import pytest

from tutelage.store import new_artifact, sweep_temporaries, temporaries, verify_artifact, write_file
from tutelage.store.temporaries import is_temporary_name, temporary_name


@pytest.fixture
def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def name_of(pid: int, name: str = "result", *, aside: bool = False, host: str | None = None) -> str:
    tag = temporaries._host_tag() if host is None else host
    return f"{name}.tmp.{pid}.{tag}-0a1b2c3d{'.aside' if aside else ''}"


def test_a_dead_owners_files_and_folders_go_at_any_depth(tmp_path, dead_pid):
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    (deep / name_of(dead_pid)).write_text("half")
    (tmp_path / f"result.tmp.{dead_pid}.0a1b2c3d").write_text("half")
    folder = tmp_path / name_of(dead_pid, "run")
    folder.mkdir()
    (folder / name_of(dead_pid, "file")).write_text("half")
    (tmp_path / "kept").write_text("whole")
    assert sweep_temporaries(tmp_path) == 3
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a", "b", "kept"]
    assert sweep_temporaries(tmp_path) == 0


def test_a_live_owners_temporaries_stay(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        for pid in (os.getpid(), child.pid):
            (tmp_path / name_of(pid)).write_text("being written")
        assert sweep_temporaries(tmp_path) == 0
        assert len(list(tmp_path.iterdir())) == 2
    finally:
        child.kill()
        child.wait()
    assert sweep_temporaries(tmp_path) == 1  # the child's


def test_a_zombie_is_dead(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", ""])
    while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    (tmp_path / name_of(child.pid)).write_text("half")
    assert sweep_temporaries(tmp_path) == 1
    child.wait()


def test_a_pid_that_was_given_to_a_younger_process_is_dead(tmp_path, monkeypatch):
    (tmp_path / name_of(os.getpid())).write_text("half")
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: time.time() + 30)
    assert sweep_temporaries(tmp_path) == 0  # within the clock's tolerance
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: time.time() + 90)
    assert sweep_temporaries(tmp_path) == 1


def test_a_process_that_may_not_be_asked_counts_as_alive(tmp_path, monkeypatch):
    def refuse(self):
        raise psutil.AccessDenied(self.pid)

    (tmp_path / name_of(os.getpid())).write_text("being written")
    monkeypatch.setattr(psutil.Process, "create_time", refuse)
    assert sweep_temporaries(tmp_path) == 0


def test_another_machines_temporaries_are_left_alone_for_a_day(tmp_path, dead_pid, monkeypatch):
    (tmp_path / name_of(dead_pid, host="ffffff")).write_text("perhaps being written")
    assert sweep_temporaries(tmp_path) == 0
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 23 * 3600)
    assert sweep_temporaries(tmp_path) == 0
    monkeypatch.setattr(time, "time", lambda: now + 25 * 3600)
    assert sweep_temporaries(tmp_path) == 1


def test_a_folder_that_stepped_aside_comes_back_only_if_its_place_is_empty_and_it_is_whole(tmp_path, dead_pid):
    def stepped_aside(name: str):
        with new_artifact(tmp_path / name, kind="test") as folder:
            (folder / "a").write_text("old")
        return (tmp_path / name).rename(tmp_path / name_of(dead_pid, name, aside=True))

    stepped_aside("empty_place")
    stepped_aside("taken_place")
    with new_artifact(tmp_path / "taken_place", kind="test") as folder:
        (folder / "a").write_text("new")
    (stepped_aside("half_removed") / "a").unlink()
    assert sweep_temporaries(tmp_path) == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty_place", "taken_place"]
    assert (tmp_path / "empty_place" / "a").read_text() == "old"
    assert (tmp_path / "taken_place" / "a").read_text() == "new"
    verify_artifact(tmp_path / "empty_place")


def test_a_sealed_but_unpublished_artifact_is_removed_not_published(tmp_path, dead_pid):
    with new_artifact(tmp_path / "sealed", kind="test"):
        pass
    (tmp_path / "sealed").rename(tmp_path / name_of(dead_pid, "sealed"))
    assert sweep_temporaries(tmp_path) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["notes.tmp.4000000.txt", "x.tmp.y", "x.tmp.", ".tmp.4000000.ab", "x.tmp.4000000", "x.tmp.-1.ab"]
)
def test_other_peoples_names_are_not_temporaries(tmp_path, name):
    (tmp_path / name).write_text("mine")
    assert sweep_temporaries(tmp_path) == 0
    assert not is_temporary_name(name)


def test_every_name_that_is_made_is_recognised_and_unique(tmp_path):
    names = {temporary_name(tmp_path / "a.b", aside=aside).name for aside in (False, True) for _ in range(50)}
    assert len(names) == 100
    assert all(is_temporary_name(name) for name in names)
    assert socket.gethostname() not in "".join(names)


def test_a_missing_folder_and_a_vanished_temporary_are_nothing_to_sweep(tmp_path, dead_pid, monkeypatch):
    assert sweep_temporaries(tmp_path / "missing") == 0
    assert temporaries._owner_is_dead(tmp_path / name_of(dead_pid), dead_pid, None) is False
    write_file(tmp_path / "file", "x")
    assert sweep_temporaries(tmp_path / "file") == 0
