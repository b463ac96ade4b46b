import json

import pytest
from tiny_gguf import write_gguf

from tutelage.errors import ModelError
from tutelage.models.folder import check_weight_files, one_line
from tutelage.models.source import ModelSource, resolve_model

EMPTY = b"\x02" + bytes(7) + b"{}"  # a safetensors file without weights


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "teacher"
    made.mkdir()
    (made / "config.json").write_text("{}")
    (made / "model.safetensors").write_bytes(EMPTY)
    return made


def test_a_folder_is_found_relative_to_the_recipe(folder):
    assert resolve_model("teacher", base_folder=folder.parent) == ModelSource("teacher", str(folder))
    assert resolve_model(str(folder), base_folder=folder.parent / "elsewhere").folder == folder


def test_a_name_that_is_no_folder_is_a_hub_id_with_its_revision(tmp_path):
    source = resolve_model("owner/some-model_1.5", base_folder=tmp_path, revision="abc123")
    assert source == ModelSource("owner/some-model_1.5", "owner/some-model_1.5", revision="abc123")
    assert source.folder is None


@pytest.mark.parametrize("name", ["./missing", "/missing/model", "a/b/c", "white space", "../x", ""])
def test_a_name_that_is_neither_folder_nor_hub_id_is_refused(name, tmp_path):
    (tmp_path / "only").mkdir()
    with pytest.raises(ModelError, match=r"No model at|no config.json"):
        resolve_model(name, base_folder=tmp_path / "only")


def test_a_gguf_file_is_named_with_its_quantisation(tmp_path):
    write_gguf(tmp_path / "Tiny.Q4_1.gguf")
    source = resolve_model("Tiny.Q4_1.gguf", base_folder=tmp_path)
    assert source == ModelSource("Tiny.Q4_1", str(tmp_path), gguf_file="Tiny.Q4_1.gguf")
    with pytest.raises(ModelError, match="No file at"):
        resolve_model("other.gguf", base_folder=tmp_path)


def test_a_sample_carries_its_display_name_and_licence(folder, monkeypatch, tmp_path):
    (folder / "source.json").write_text(json.dumps({"name": "Sample (Q4_1)", "licence": "Apache-2.0"}))
    asked = []
    monkeypatch.setattr("tutelage.models.sample.sample_model", lambda name, whole: asked.append(name) or folder)
    source = resolve_model("sample:tiny", base_folder=tmp_path)
    assert source == ModelSource("Sample (Q4_1)", str(folder), licence="Apache-2.0")
    assert asked == ["tiny"]


def test_the_licence_is_read_from_a_model_card(folder):
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    assert resolve_model("teacher", base_folder=folder.parent).licence == "apache-2.0"


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth"])
def test_pickled_weights_are_refused_with_what_to_do(folder, name):
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(b"x")
    with pytest.raises(ModelError, match=rf"pickled weights \({name}\).*convert it once"):
        resolve_model("teacher", base_folder=folder.parent)


def test_a_weight_file_instead_of_a_folder_is_refused(folder):
    for name in ("teacher/model.safetensors", "x.bin"):
        with pytest.raises(ModelError, match="expected the folder"):
            resolve_model(name, base_folder=folder.parent)


def test_a_folder_without_weights_or_config_is_refused(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has no \*.safetensors"):
        check_weight_files(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"has no config.json"):
        check_weight_files(folder)


@pytest.mark.parametrize("name", ["../outside.safetensors", "sub/model.safetensors", "gone.safetensors"])
def test_an_index_may_name_only_files_of_its_folder(folder, name):
    (folder.parent / "outside.safetensors").write_bytes(b"x")
    (folder / "sub").mkdir()
    (folder / "sub" / "model.safetensors").write_bytes(b"x")
    index = {"weight_map": {"a": "model.safetensors", "b": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="not a file of this folder"):
        check_weight_files(folder)


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": 3}', '{"weight_map": {"a": 3}}'])
def test_a_damaged_index_is_refused(folder, text):
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ModelError, match=r"model\.safetensors\.index\.json"):
        check_weight_files(folder)


def test_a_link_out_of_the_folder_is_refused(folder):
    outside = folder.parent / "outside.safetensors"
    outside.write_bytes(b"x")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(outside)
    with pytest.raises(ModelError, match="a link out of its folder"):
        check_weight_files(folder)


def test_the_hubs_own_snapshot_layout_is_accepted(tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "c0ffee"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    (blobs / "aa").write_bytes(EMPTY)
    (snapshot / "model.safetensors").symlink_to(blobs / "aa")
    (snapshot / "config.json").write_text("{}")
    assert check_weight_files(snapshot) == [snapshot / "model.safetensors"]


def test_a_foreign_error_becomes_one_line():
    assert one_line(ValueError("first:\nsecond")) == "ValueError: first"
    assert one_line(KeyError()) == "KeyError"
    assert len(one_line(OSError("x" * 1000))) < 220
