"""Another process that commits or sweeps at the same time takes folders away under a walk."""

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tutelage.store import folder_bytes, sweep_temporaries


@contextlib.contextmanager
def busy_neighbour(folder: Path) -> Iterator[None]:
    """Make and remove folders with content, as fast as it goes, until the block ends."""
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            for number in range(8):
                (folder / f"shard{number}" / "inner").mkdir(parents=True, exist_ok=True)
                (folder / f"shard{number}" / "inner" / "payload").write_bytes(b"12345")
            for number in range(8):
                shutil.rmtree(folder / f"shard{number}", ignore_errors=True)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("walk", [sweep_temporaries, folder_bytes], ids=lambda walk: walk.__name__)
def test_a_walk_goes_on_where_folders_vanish_under_it(walk: Callable[[Path], int], tmp_path: Path) -> None:
    with busy_neighbour(tmp_path):
        ends = time.monotonic() + 0.5
        while time.monotonic() < ends:
            walk(tmp_path)


def test_the_bytes_of_a_folder_are_those_of_all_files_below_it(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "x").write_bytes(b"123")
    (tmp_path / "y").write_bytes(b"12")
    (tmp_path / "link").symlink_to(tmp_path / "y")
    assert folder_bytes(tmp_path) == 5
    assert folder_bytes(tmp_path / "nothing") == 0
