import dataclasses
import io
import multiprocessing
import os
import tarfile
import time
import zipfile

import pytest
from tiny_packages import PAYLOAD, build_wheel, spec_of

from tutelage.errors import DataError, IntegrityError
from tutelage.models.sample import sample_model
from tutelage.samples import SAMPLES, find_sample, sample_data
from tutelage.samples.artifact import committed_sample
from tutelage.samples.unpack import unpack_member
from tutelage.store import read_manifest


@pytest.fixture
def placed(home):
    (home / "downloads").mkdir(parents=True)
    return spec_of(build_wheel(home / "downloads"))


def fill_from(spec):
    return lambda download, made: unpack_member(download, spec.members, made / "payload.txt")


def fill_nothing(download, made):
    raise AssertionError("made again")


def test_a_sample_is_unpacked_once_with_its_licence_and_hash(home, placed, no_pip):
    folder = committed_sample(placed, fill_from(placed))
    assert folder == home / "data" / f"tiny-{placed.sha256[:8]}"
    assert (folder / "payload.txt").read_bytes() == PAYLOAD
    manifest = read_manifest(folder)
    assert manifest is not None
    assert manifest.fields["licence"] == "MIT"
    assert manifest.fields["sha256"] == placed.sha256
    assert committed_sample(placed, fill_nothing) == folder


def test_an_unpacked_sample_needs_no_download(home, placed, no_pip):
    committed_sample(placed, fill_from(placed))
    (home / "downloads" / placed.filename).unlink()
    committed_sample(placed, fill_nothing)


def flip_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))


def test_a_flipped_bit_is_found_and_the_sample_is_made_again(placed, no_pip, caplog):
    folder = committed_sample(placed, fill_from(placed))
    flip_bit(folder / "payload.txt")
    assert committed_sample(placed, fill_from(placed)) == folder
    assert (folder / "payload.txt").read_bytes() == PAYLOAD
    aside = folder.parent / "damaged" / f"{folder.name}.1"
    assert (aside / "payload.txt").read_bytes() != PAYLOAD
    assert "payload.txt is damaged" in caplog.text
    assert str(aside) in caplog.text
    committed_sample(placed, fill_nothing)


def test_a_damaged_sample_that_cannot_be_fetched_again_is_never_used(home, placed, monkeypatch):
    folder = committed_sample(placed, fill_from(placed))
    flip_bit(folder / "payload.txt")
    (home / "downloads" / placed.filename).unlink()

    def no_network(*arguments):
        raise DataError("no network")

    monkeypatch.setattr("tutelage.samples.artifact.fetch", no_network)
    for _ in range(2):
        with pytest.raises(IntegrityError, match=r"payload\.txt is damaged.*cannot be unpacked again: no network"):
            committed_sample(placed, fill_nothing)


def test_only_the_files_that_are_to_be_read_are_compared(placed, no_pip):
    folder = committed_sample(placed, fill_from(placed))
    flip_bit(folder / "payload.txt")
    assert committed_sample(placed, fill_nothing, read=lambda name: not name.endswith(".txt")) == folder


def test_an_older_conversion_is_made_anew(placed, no_pip):
    committed_sample(placed, fill_from(placed))
    newer = dataclasses.replace(placed, format_version=placed.format_version + 1)
    folder = committed_sample(newer, lambda download, made: (made / "new").touch())
    assert (folder / "new").exists()


def test_a_failed_conversion_leaves_nothing(home, placed, no_pip):
    def fail(download, made):
        (made / "half").touch()
        raise RuntimeError("killed half-way")

    with pytest.raises(RuntimeError):
        committed_sample(placed, fail)
    assert list((home / "data").iterdir()) == []
    committed_sample(placed, fill_from(placed))


def slow_fill(download, made):
    with (download.parent.parent / "made_by").open("a") as stream:
        stream.write(f"{os.getpid()}\n")
    time.sleep(0.3)
    unpack_member(download, ("tiny_sample/payload.txt",), made / "payload.txt")


def test_of_several_processes_one_makes_it_and_the_others_wait(home, placed):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=committed_sample, args=(placed, slow_fill)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0, 0]
    assert len((home / "made_by").read_text().split()) == 1


def test_samples_are_frozen_and_fully_pinned():
    for name, spec in SAMPLES.items():
        assert spec.name == name
        assert len(spec.sha256) == 64
        assert spec.licence
        with pytest.raises(dataclasses.FrozenInstanceError):
            spec.sha256 = "0" * 64  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(TypeError):
        SAMPLES["other"] = SAMPLES["movie-reviews"]  # pyright: ignore[reportIndexIssue]


def test_an_unknown_sample_or_one_of_the_other_kind_is_refused(home):
    with pytest.raises(DataError, match="Known model samples: smollm2-135m-instruct"):
        sample_model("movie-reviews")
    with pytest.raises(DataError, match="Known data samples: country-facts, movie-reviews"):
        sample_data("reviews")
    assert find_sample("movie-reviews", kind="data").licence == "MIT"


def tar_bytes(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            if content is None:
                member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
                archive.addfile(member)
            else:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def test_a_nested_member_is_read_and_no_other_name_is_written(tmp_path):
    inner = tar_bytes({"../evil": b"x", "/evil": b"x", "data/wanted.txt": b"words"})
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(tar_bytes({"../../evil": b"x", "p/inner.tar.gz": inner}))
    (tmp_path / "out").mkdir()
    target = unpack_member(archive, ("p/inner.tar.gz", "data/wanted.txt"), tmp_path / "out" / "ours.txt")
    assert target.read_bytes() == b"words"
    assert not (tmp_path.parent / "evil").exists()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.tar.gz", "ours.txt", "out"]


@pytest.mark.parametrize("member", ["missing", "link"])
def test_a_missing_or_linked_member_is_refused(tmp_path, member):
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(tar_bytes({"link": None, "x": b"x"}))
    with pytest.raises(IntegrityError, match="no readable member"):
        unpack_member(archive, (member,), tmp_path / "out")


@pytest.mark.parametrize(
    "content", [b"", b"not an archive", tar_bytes({"x": b"x" * 9999})[:60]], ids=["empty", "not an archive", "cut"]
)
def test_a_damaged_archive_is_refused(tmp_path, content):
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(content)
    with pytest.raises(IntegrityError, match="no readable member"):
        unpack_member(archive, ("x",), tmp_path / "out")


def test_a_missing_member_of_a_wheel_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as archive:
        archive.writestr("x", "y")
    with pytest.raises(IntegrityError, match="no readable member z"):
        unpack_member(tmp_path / "a.whl", ("z",), tmp_path / "out")
