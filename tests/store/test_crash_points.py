"""Killed anywhere, same result; full anywhere, nothing lost (RELIABILITY R1, R5)."""

import json
import shutil
import signal
from pathlib import Path

import pytest

from tutelage.errors import DiskError
from tutelage.store import crash, read_manifest, sweep_temporaries, verify_artifact

KILLED = -signal.SIGKILL
OLD, NEW = 1, 2


def version_of(path: Path, writers) -> int | None:
    """Which version ``path`` holds in full; None for anything in between."""
    for version in (OLD, NEW):
        if path.is_file() and path.read_bytes() == writers.content("a.bin", version):
            return version
        names = {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()} - {"MANIFEST.json"}
        same = names == set(writers.FILES) and all(
            (path / name).read_bytes() == writers.content(name, version) for name in names - {"provenance.json"}
        )
        try:  # the file that is left out of the digest must be whole nevertheless
            if same and json.loads((path / "provenance.json").read_text()):
                return version
        except ValueError:
            return None
    return None


def prepare(folder: Path, kind: str, writers, *, with_old: bool) -> Path:
    folder.mkdir()
    if with_old:
        writers.WRITERS[kind](folder / "result", OLD)
    return folder


@pytest.fixture(scope="module")
def digests(tmp_path_factory, writers) -> dict[int, str]:
    folder = tmp_path_factory.mktemp("digests")
    for version in (OLD, NEW):
        writers.artifact(folder / str(version), version)
    return {version: verify_artifact(folder / str(version)).content_digest for version in (OLD, NEW)}


@pytest.mark.parametrize("with_old", [False, True], ids=["first", "replacing"])
def test_an_artifact_killed_at_every_point_is_whole_and_comes_out_the_same(
    tmp_path, with_old, writers, run_writer, list_points, digests
):
    points = list_points("artifact", prepare(tmp_path / "trace", "artifact", writers, with_old=with_old), NEW)
    assert len(points) >= 30
    assert ("artifact.between_renames:1" in points) == with_old
    for index, point in enumerate(points):
        folder = prepare(tmp_path / str(index), "artifact", writers, with_old=with_old)
        assert run_writer("artifact", folder, NEW, TUTELAGE_CRASH_POINT=point) == KILLED, point
        seen = read_manifest(folder / "result")  # a reader that comes before the sweep
        assert seen is None or seen.content_digest in digests.values(), point

        sweep_temporaries(folder)
        if with_old or (folder / "result").exists():
            assert verify_artifact(folder / "result").content_digest in digests.values(), point
            assert version_of(folder / "result", writers) is not None, point
        assert {p.name for p in folder.iterdir()} <= {"result"}, point

        writers.artifact(folder / "result", NEW)
        assert verify_artifact(folder / "result").content_digest == digests[NEW], point
        assert [p.name for p in folder.iterdir()] == ["result"], point
        shutil.rmtree(folder)


def test_the_old_artifact_is_lost_to_readers_at_one_point_only_and_the_sweep_puts_it_back(
    tmp_path, writers, run_writer, digests
):
    folder = prepare(tmp_path / "x", "artifact", writers, with_old=True)
    assert run_writer("artifact", folder, NEW, TUTELAGE_CRASH_POINT="artifact.between_renames") == KILLED
    assert not (folder / "result").exists()
    assert sweep_temporaries(tmp_path) == 2  # the old one put back, the new one deleted
    assert verify_artifact(folder / "result").content_digest == digests[OLD]


@pytest.mark.parametrize("with_old", [False, True], ids=["first", "replacing"])
def test_a_file_killed_at_every_point_is_the_old_or_the_new_one(tmp_path, with_old, writers, run_writer, list_points):
    points = list_points("single_file", prepare(tmp_path / "trace", "single_file", writers, with_old=with_old), NEW)
    assert len(points) == 5
    for index, point in enumerate(points):
        folder = prepare(tmp_path / str(index), "single_file", writers, with_old=with_old)
        assert run_writer("single_file", folder, NEW, TUTELAGE_CRASH_POINT=point) == KILLED, point
        if with_old or (folder / "result").exists():
            assert version_of(folder / "result", writers) is not None, point
        assert sweep_temporaries(folder) == (0 if "after_rename" in point else 1), point
        writers.single_file(folder / "result", NEW)
        assert version_of(folder / "result", writers) == NEW
        assert [p.name for p in folder.iterdir()] == ["result"], point


@pytest.mark.parametrize("kind", ["naive_artifact", "naive_fresh_artifact"])
def test_the_control_a_naive_writer_is_torn_at_nine_of_ten_points(tmp_path, kind, writers, run_writer, list_points):
    points = list_points(kind, prepare(tmp_path / "trace", kind, writers, with_old=True), NEW)
    torn = 0
    for index, point in enumerate(points):
        folder = prepare(tmp_path / str(index), kind, writers, with_old=True)
        assert run_writer(kind, folder, NEW, TUTELAGE_CRASH_POINT=point) == KILLED, point
        torn += version_of(folder / "result", writers) is None
    assert torn >= 0.9 * len(points)


def test_the_writers_process_imports_no_torch_and_an_unarmed_one_succeeds(tmp_path, writers, run_writer):
    assert run_writer("artifact", tmp_path, NEW) == 0  # writers.py asserts on sys.modules itself
    assert version_of(tmp_path / "result", writers) == NEW


@pytest.mark.parametrize("with_old", [False, True], ids=["first", "replacing"])
@pytest.mark.parametrize("kind", ["artifact", "single_file"])
def test_a_full_disk_at_every_point_is_a_disk_error_and_loses_nothing(
    tmp_path, kind, with_old, writers, list_points, monkeypatch
):
    points = list_points(kind, prepare(tmp_path / "trace", kind, writers, with_old=with_old), NEW)
    monkeypatch.setenv(crash.ACTION, "enospc")
    for index, point in enumerate(points):
        monkeypatch.delenv(crash.ARMED, raising=False)
        folder = prepare(tmp_path / str(index), kind, writers, with_old=with_old)
        monkeypatch.setenv(crash.ARMED, point)
        monkeypatch.setattr(crash, "_passages", {})
        with pytest.raises(DiskError, match=r"No space left while writing .*free some space") as caught:
            writers.WRITERS[kind](folder / "result", NEW)
        assert caught.value.exit_code == 4

        renamed = point.startswith((f"{kind}.after_rename", f"{kind}.before_cleanup", "file.after_rename"))
        if renamed or with_old:
            assert version_of(folder / "result", writers) == (NEW if renamed else OLD), point
            assert kind == "single_file" or verify_artifact(folder / "result"), point
        else:
            assert not (folder / "result").exists(), point
        left = {p.name for p in folder.iterdir()} - {"result"}
        # Once the new one is in place, the old one waits for a sweep: the rename may not be durable yet.
        assert len(left) == (renamed and with_old and kind == "artifact"), point
        assert all(name.endswith(".aside") for name in left), point

        writers.WRITERS[kind](folder / "result", NEW)  # space was freed: the same command again
        assert version_of(folder / "result", writers) == NEW, point


def test_an_armed_point_counts_its_passages(monkeypatch):
    monkeypatch.setenv(crash.ACTION, "enospc")
    monkeypatch.setenv(crash.ARMED, "here:3")
    monkeypatch.setattr(crash, "_passages", {})
    for name in ("here", "elsewhere", "here", "elsewhere"):
        crash.crash_point(name)
    with pytest.raises(OSError, match="injected"):
        crash.crash_point("here")
    crash.crash_point("here")  # the fourth passes again


def test_every_passage_is_traced_in_order(tmp_path, monkeypatch):
    monkeypatch.setenv(crash.TRACE, str(tmp_path / "trace"))
    for name in ("a", "b", "a"):
        crash.crash_point(name)
    assert (tmp_path / "trace").read_text() == "a\nb\na\n"
