"""Access tokens are recognised inside names and never written."""

import json

import pytest

from tutelage.errors import ConfigError
from tutelage.store import new_artifact, read_manifest, safe_name, verify_artifact, without_tokens, write_json

TOKEN = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz012345"


@pytest.mark.parametrize(
    "text", [TOKEN, f"runs_{TOKEN}", f"/data/{TOKEN}/x", f"{TOKEN}.yaml", f"-{TOKEN}-", f"ä{TOKEN}"]
)
def test_a_token_is_found_inside_a_name(text: str):
    assert without_tokens(text) == text.replace(TOKEN, "(token not shown)")


@pytest.mark.parametrize("text", ["half_precision", "hf_short", "shelf_abcdefghijk", "hf/abcdefghijk"])
def test_words_are_left_alone(text: str):
    assert without_tokens(text) == text


def test_json_holds_no_token_and_stays_json(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "another-shape")
    write_json(tmp_path / "a.json", {"path": f"/x/{TOKEN}/y", "note": "another-shape", "n": 1})
    text = (tmp_path / "a.json").read_text()
    assert TOKEN not in text
    assert "another-shape" not in text
    assert json.loads(text)["n"] == 1


def test_a_manifest_names_its_files_as_they_are(tmp_path):
    with new_artifact(tmp_path / "a", kind="test") as folder:
        (folder / f"{TOKEN}.txt").write_text("x")
    assert read_manifest(tmp_path / "a") is not None
    assert list(verify_artifact(tmp_path / "a").files) == [f"{TOKEN}.txt"]


def test_a_name_that_looks_like_a_token_is_refused_without_repeating_it():
    with pytest.raises(ConfigError, match="looks like an access token") as caught:
        safe_name(f"x_{TOKEN}")
    assert TOKEN not in str(caught.value)
