"""What was committed is what is read, or an error says so (RELIABILITY R4)."""

import json
import random
import shutil
from pathlib import Path

import pytest

from tutelage.errors import IntegrityError
from tutelage.store import MANIFEST, new_artifact, read_manifest, to_json, verify_artifact


@pytest.fixture
def artifact(tmp_path) -> Path:
    with new_artifact(
        tmp_path / "artifact", kind="test", format_version=3, fields={"key": "abc", "n": [1, 2]}
    ) as folder:
        (folder / "weights.bin").write_bytes(bytes(range(256)))
        (folder / "nested").mkdir()
        (folder / "nested" / "index.json").write_text('{"a": 1}\n')
        (folder / "empty").touch()
        (folder / "provenance.json").write_text('{"finished": "now"}')
    return tmp_path / "artifact"


def files_of(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())


def test_a_manifest_names_every_file_with_bytes_and_sha256(artifact):
    manifest = verify_artifact(artifact)
    assert (manifest.kind, manifest.format_version, manifest.fields) == ("test", 3, {"key": "abc", "n": [1, 2]})
    assert set(manifest.files) == {"weights.bin", "nested/index.json", "empty", "provenance.json"}
    assert manifest.files["empty"] == {
        "bytes": 0,
        "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "xxh3": "99aa06d3014798d86001c324468d497f",
    }
    assert read_manifest(artifact) == manifest


def test_every_flipped_bit_is_detected_on_the_first_and_on_the_second_run(artifact):
    rng = random.Random(0)
    places = [(file, offset) for file in files_of(artifact) for offset in range(file.stat().st_size)]
    assert len(places) > 1000
    chosen = rng.sample(places, 300) + [place for place in places if place[0].name == MANIFEST]
    for file, offset in chosen:
        original = file.read_bytes()
        flipped = bytearray(original)
        flipped[offset] ^= 1 << rng.randrange(8)
        file.write_bytes(flipped)
        for _run in range(2):
            with pytest.raises(IntegrityError) as caught:
                verify_artifact(artifact)
            assert str(artifact) in str(caught.value)
            assert caught.value.exit_code == 3
        file.write_bytes(original)
    verify_artifact(artifact)


def test_every_truncation_and_every_appended_byte_is_detected_without_reading_the_content(artifact):
    rng = random.Random(1)
    for file in files_of(artifact):
        original = file.read_bytes()
        lengths = rng.sample(range(len(original)), min(50, len(original)))
        for damaged in [original[:length] for length in lengths] + [original + b"\n"]:
            file.write_bytes(damaged)
            assert read_manifest(artifact) is None, (file.name, len(damaged))
            with pytest.raises(IntegrityError):
                verify_artifact(artifact)
        file.write_bytes(original)
    verify_artifact(artifact)


def test_a_dropped_a_swapped_and_a_stale_file_are_detected(artifact, tmp_path):
    with new_artifact(tmp_path / "other", kind="test") as folder:
        (folder / "weights.bin").write_bytes(bytes(reversed(range(256))))
    for damage in (
        lambda copy: (copy / "weights.bin").unlink(),
        lambda copy: shutil.copy(tmp_path / "other" / "weights.bin", copy / "weights.bin"),
        lambda copy: shutil.copy(tmp_path / "other" / MANIFEST, copy / MANIFEST),
        lambda copy: (copy / MANIFEST).unlink(),
    ):
        copy = tmp_path / "copy"
        shutil.copytree(artifact, copy)
        verify_artifact(copy)
        damage(copy)
        with pytest.raises(IntegrityError, match=r"[Dd]elete"):
            verify_artifact(copy)
        shutil.rmtree(copy)


def test_the_message_names_the_file_and_both_hashes(artifact):
    (artifact / "weights.bin").write_bytes(bytes(256))
    with pytest.raises(
        IntegrityError, match=r"weights\.bin is damaged: SHA-256 5341e6b2646.*its manifest says 40aff2e9d2d8"
    ):
        verify_artifact(artifact)
    (artifact / "nested" / "index.json").unlink()
    with pytest.raises(IntegrityError, match=r"nested/index\.json is missing"):
        verify_artifact(artifact)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "null",
        "3",
        '"x"',
        "{",
        "[" * 100_000,
        '{"manifest_version": 1}',
        '{"manifest_version": 99}',
        "\xff",
    ],
)
def test_a_hostile_or_foreign_manifest_is_no_manifest(artifact, text):
    (artifact / MANIFEST).write_text(text, encoding="latin-1")
    assert read_manifest(artifact) is None
    with pytest.raises(IntegrityError):
        verify_artifact(artifact)


def test_a_changed_field_is_detected_although_the_json_is_valid(artifact):
    raw = json.loads((artifact / MANIFEST).read_text())
    raw["fields"]["key"] = "other"
    (artifact / MANIFEST).write_text(to_json(raw))
    with pytest.raises(IntegrityError, match="does not match its own digest"):
        verify_artifact(artifact)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "nested/../../outside"])
def test_a_manifest_cannot_claim_files_outside_its_folder(artifact, name):
    from tutelage.store.manifest import Manifest, content_digest, manifest_text

    (artifact.parent / "outside").write_text("x")
    files = {name: {"bytes": 1, "sha256": "0"}}
    (artifact / MANIFEST).write_text(manifest_text(Manifest("test", 1, files, content_digest(files), {})))
    assert read_manifest(artifact) is None


def test_a_file_replaced_by_a_link_to_its_equal_is_not_accepted(artifact, tmp_path):
    (artifact / "weights.bin").rename(tmp_path / "elsewhere")
    (artifact / "weights.bin").symlink_to(tmp_path / "elsewhere")
    assert read_manifest(artifact) is None


def test_an_unreadable_file_is_an_integrity_error(artifact, monkeypatch):
    whole = Path.open

    def fail(self, *args, **kwargs):
        if self.name == "weights.bin":
            raise OSError(5, "Input/output error")
        return whole(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(IntegrityError, match="Input/output error"):
        verify_artifact(artifact)


def test_the_content_digest_ignores_provenance_and_sees_everything_else(tmp_path):
    def digest(name: str, files: dict[str, str]) -> str:
        with new_artifact(tmp_path / name, kind="test") as folder:
            for file, text in files.items():
                (folder / file).parent.mkdir(exist_ok=True)
                (folder / file).write_text(text)
        return verify_artifact(tmp_path / name).content_digest

    base = digest("base", {"a": "1", "provenance.json": "now", "sub/provenance.json": "now"})
    assert digest("later", {"a": "1", "provenance.json": "later", "sub/provenance.json": "later"}) == base
    assert digest("without", {"a": "1"}) == base
    assert digest("content", {"a": "2"}) != base
    assert digest("name", {"b": "1"}) != base
    assert digest("more", {"a": "1", "b": ""}) != base


def test_provenance_is_left_out_of_the_digest_but_not_of_the_check(artifact):
    (artifact / "provenance.json").write_text('{"finished": "NOW"}')
    with pytest.raises(IntegrityError, match=r"provenance\.json is damaged"):
        verify_artifact(artifact)
