"""All of it, or none of it."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tutelage.errors import DiskError, IntegrityError
from tutelage.store import MANIFEST, make_folder, new_artifact, to_json, verify_artifact, write_file, write_json


@pytest.fixture
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.parametrize("umask", [0o077, 0o027, 0o022, 0o002], indirect=True)
def test_the_umask_decides_who_may_read_what_is_written(tmp_path, umask):
    write_file(tmp_path / "a" / "b" / "file", "text é")
    assert (tmp_path / "a" / "b" / "file").read_bytes() == "text é".encode()
    with new_artifact(tmp_path / "c" / "artifact", kind="test") as folder:
        (folder / "checkpoint").mkdir()
        (folder / "checkpoint" / "weights").write_text("x")
        (folder / "checkpoint" / "weights").chmod(0o600)  # as some libraries write them
    for path in [path for name in ("a", "c") for path in (tmp_path / name, *(tmp_path / name).rglob("*"))]:
        expected = (0o777 if path.is_dir() else 0o666) & ~umask
        assert stat.S_IMODE(path.stat().st_mode) == expected, path


@pytest.mark.parametrize("content", [b"", b"x", b"xy", bytes(100_001)])
def test_a_file_of_any_size_is_written_byte_for_byte(tmp_path, content):
    write_file(tmp_path / "file", content)
    assert (tmp_path / "file").read_bytes() == content


def test_an_error_in_the_body_leaves_no_trace_and_the_old_artifact(tmp_path):
    with new_artifact(tmp_path / "artifact", kind="test") as folder:
        (folder / "a").write_text("old")

    def interrupted() -> None:
        with new_artifact(tmp_path / "artifact", kind="test") as folder:
            (folder / "a").write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / "artifact" / "a").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["artifact"]


def test_a_failing_rename_puts_the_old_artifact_back(tmp_path, monkeypatch):
    with new_artifact(tmp_path / "artifact", kind="test") as folder:
        (folder / "a").write_text("old")
    rename = type(tmp_path).rename

    def fail_into_place(self, target):
        if ".tmp." in self.name and not self.name.endswith(".aside"):
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(type(tmp_path), "rename", fail_into_place)
    with (
        pytest.raises(OSError, match="Input/output error") as caught,
        new_artifact(tmp_path / "artifact", kind="test") as folder,
    ):
        (folder / "a").write_text("new")
    assert not isinstance(caught.value, DiskError)
    verify_artifact(tmp_path / "artifact")
    assert (tmp_path / "artifact" / "a").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["artifact"]


def test_an_artifact_takes_the_place_of_a_plain_file(tmp_path):
    (tmp_path / "artifact").write_text("a file")
    with new_artifact(tmp_path / "artifact", kind="test"):
        pass
    verify_artifact(tmp_path / "artifact")
    assert [p.name for p in tmp_path.iterdir()] == ["artifact"]


def test_a_manifest_that_was_copied_in_with_the_files_is_replaced(tmp_path):
    with new_artifact(tmp_path / "artifact", kind="test") as folder:
        (folder / MANIFEST).write_text("foreign")
        (folder / "a").write_text("a")
    assert set(verify_artifact(tmp_path / "artifact").files) == {"a"}


def test_a_symbolic_link_is_refused(tmp_path):
    (tmp_path / "target").write_text("x")
    with (
        pytest.raises(IntegrityError, match="symbolic link"),
        new_artifact(tmp_path / "artifact", kind="test") as folder,
    ):
        (folder / "link").symlink_to(tmp_path / "target")
    assert not (tmp_path / "artifact").exists()


def test_every_file_and_every_folder_is_fsynced_before_the_manifest(tmp_path, monkeypatch):
    import os

    synced = []
    real_fsync = os.fsync

    def fsync(descriptor):
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        real_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with new_artifact(tmp_path / "new" / "artifact", kind="test") as folder:
        (folder / "nested").mkdir()
        (folder / "nested" / "a").write_text("a")
    temporary = str(folder)
    names = [name.replace(temporary, "T").replace(str(tmp_path), "") for name in synced]
    manifest = next(index for index, name in enumerate(names) if MANIFEST in name)
    assert {"T/nested", "T/nested/a"} <= set(names[:manifest])
    assert names[manifest + 1 :] == ["T", "/new"]  # the manifest's entry, then the rename
    assert names[0] == ""  # the new parent folder's own entry


def test_two_writers_of_one_path_leave_one_whole_artifact(tmp_path):
    with (
        new_artifact(tmp_path / "artifact", kind="test") as first,
        new_artifact(tmp_path / "artifact", kind="test") as second,
    ):
        assert first != second
        (first / "a").write_text("first")
        (second / "a").write_text("second")
    verify_artifact(tmp_path / "artifact")
    assert (tmp_path / "artifact" / "a").read_text() == "first"  # the outer one ended last
    assert [p.name for p in tmp_path.iterdir()] == ["artifact"]


def test_json_is_stable_readable_and_finite(tmp_path):
    write_json(tmp_path / "x.json", {"b": 1, "a": ["é", 0.1, None, True]})
    assert (tmp_path / "x.json").read_text(encoding="utf-8") == (
        '{\n  "a": [\n    "é",\n    0.1,\n    null,\n    true\n  ],\n  "b": 1\n}\n'
    )
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="Out of range"):
            to_json({"a": value})


def test_an_existing_folder_keeps_its_mode(tmp_path):
    (tmp_path / "shared").mkdir(mode=0o755)
    make_folder(tmp_path / "shared" / "own")
    assert stat.S_IMODE((tmp_path / "shared").stat().st_mode) == 0o755
    assert make_folder(tmp_path / "shared") == tmp_path / "shared"
