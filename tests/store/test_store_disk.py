"""A full disk is one error, whoever met it (RELIABILITY R5)."""

import errno
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import safetensors.numpy

from small_disk import mounted_tmpfs
from tutelage.errors import ConfigError, DiskError
from tutelage.store import (
    disk_errors,
    folder_lock,
    make_folder,
    new_artifact,
    require_free_space,
    verify_artifact,
    write_file,
)

DISK_KIB = 512
TOO_LARGE = np.arange(200_000, dtype=np.float64)  # 1.6 MB


@pytest.fixture
def small_disk(tmp_path):
    with mounted_tmpfs(tmp_path / "disk", size=f"{DISK_KIB}k") as folder:
        yield folder


def write_text(folder: Path) -> None:
    (folder / "x").write_text("x" * TOO_LARGE.nbytes)


def write_npy(folder: Path) -> None:
    np.save(folder / "x.npy", TOO_LARGE)


def write_raw(folder: Path) -> None:
    TOO_LARGE.tofile(folder / "x.bin")


def write_safetensors(folder: Path) -> None:
    safetensors.numpy.save_file({"x": TOO_LARGE}, folder / "x.safetensors")


def write_parquet(folder: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"x": TOO_LARGE}), folder / "x.parquet")


def write_with_store(folder: Path) -> None:
    write_file(folder / "x", TOO_LARGE.tobytes())


BODIES = [write_text, write_npy, write_raw, write_safetensors, write_parquet, write_with_store]


@pytest.mark.parametrize("body", BODIES)
def test_on_a_really_full_disk_every_librarys_error_becomes_a_disk_error_and_the_old_artifact_stays(small_disk, body):
    def commit(fill) -> None:
        with new_artifact(small_disk / "artifact", kind="test") as folder:
            fill(folder)

    commit(lambda folder: (folder / "a").write_text("old"))
    old = verify_artifact(small_disk / "artifact")
    with pytest.raises(DiskError, match=r"No space left while writing .*artifact") as caught:
        commit(body)
    assert caught.value.exit_code == 4
    assert verify_artifact(small_disk / "artifact") == old
    assert [p.name for p in small_disk.iterdir()] == ["artifact"]
    commit(lambda folder: (folder / "a").write_bytes(bytes(300 * 1024)))  # all of the space is free again
    assert verify_artifact(small_disk / "artifact").files["a"]["bytes"] == 300 * 1024


def test_a_file_on_a_really_full_disk_keeps_its_old_content(small_disk):
    write_file(small_disk / "file", "old")
    with pytest.raises(DiskError, match="file"):
        write_file(small_disk / "file", bytes(DISK_KIB * 1024))
    assert (small_disk / "file").read_text() == "old"
    (small_disk / "ballast").write_bytes(bytes((DISK_KIB - 4) * 1024))  # less than a page is free
    with pytest.raises(DiskError):
        write_file(small_disk / "file", b"x" * 4097)
    (small_disk / "ballast").unlink()
    write_file(small_disk / "file", "new")
    assert (small_disk / "file").read_text() == "new"
    assert [p.name for p in small_disk.iterdir()] == ["file"]


def test_a_lock_on_a_really_full_disk_is_a_disk_error_and_is_free_afterwards(small_disk):
    run = make_folder(small_disk / "run")
    with folder_lock(run):
        pass
    with pytest.raises(OSError, match="No space left"), (small_disk / "ballast").open("wb") as stream:
        stream.write(bytes(DISK_KIB * 1024 + 1))
    with pytest.raises(DiskError), folder_lock(run):
        pass
    (small_disk / "ballast").unlink()
    with folder_lock(run):
        pass


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_and_a_full_quota_are_disk_errors(tmp_path, number):
    with pytest.raises(DiskError, match="exact cause") as caught, disk_errors(tmp_path):
        raise OSError(number, "exact cause")
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EACCES, "No space left on device, says the text but not the number"),
        ValueError("bad"),
        ConfigError("No space left on device is what the user wrote"),
        KeyboardInterrupt(),
    ],
)
def test_other_errors_pass_unchanged(tmp_path, error):
    with pytest.raises(type(error)) as caught, disk_errors(tmp_path):
        raise error
    assert caught.value is error


def test_a_write_that_cannot_fit_is_refused_before_it_starts(tmp_path, monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 111 * 2**20})())
    require_free_space(tmp_path / "not" / "yet" / "there", 100 * 2**20)
    with pytest.raises(DiskError, match=r"needs about 101 MiB but only 111 MiB are free"):
        require_free_space(tmp_path, 101 * 2**20)
