"""Every bad input of the issue, through the command line: one line, the documented exit code, nothing half-written."""

import json
from pathlib import Path

import pytest
from tiny_experiment import RECIPE, tiny_tokenizer, write_experiment, write_tiny_model
from typer.testing import CliRunner, Result

from tutelage.cache import verify_cache
from tutelage.cli.app import app

USER_ERROR = 1


def tutelage(recipe: Path, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> Result:
    monkeypatch.chdir(recipe.parent)
    return CliRunner().invoke(app, ["run", recipe.name, "seeds.report=[1]", *arguments])


def check(result: Result, recipe: Path, *, code: int, words: tuple[str, ...], lines: int = 1) -> None:
    """One cause with all the words, the exit code, and no temporary left behind."""
    assert result.exit_code == code, result.output
    causes = [line for line in result.stderr.splitlines() if line.strip()]
    assert sum(line.startswith("error: ") for line in causes) == 1, result.stderr
    assert len(causes) <= lines, result.stderr
    for word in words:
        assert word in result.stderr, result.stderr
    assert not [path for path in recipe.parent.rglob("*") if ".tmp." in path.name]


def edited(tmp_path: Path, old: str, new: str) -> Path:
    assert old in RECIPE
    return write_experiment(tmp_path, recipe=RECIPE.replace(old, new))


def test_unknown_key(tmp_path, monkeypatch):
    recipe = edited(tmp_path, "alpha: 0.3", "alpah: 0.3")
    result = tutelage(recipe, monkeypatch=monkeypatch)
    check(result, recipe, code=USER_ERROR, words=("methods.KD1.alpah", "did you mean alpha", "line 20"), lines=3)


def test_duplicate_key(tmp_path, monkeypatch):
    recipe = edited(tmp_path, "name: tiny\n", "name: tiny\nname: other\n")
    result = tutelage(recipe, monkeypatch=monkeypatch)
    check(result, recipe, code=USER_ERROR, words=("duplicate key", "line 2", "line 1"), lines=3)


def test_equal_verbalisers(tmp_path, monkeypatch):
    recipe = edited(tmp_path, 'positive: " positive"', 'positive: " negative"')
    result = tutelage(recipe, monkeypatch=monkeypatch)
    check(result, recipe, code=USER_ERROR, words=("verbalisers", "negative"), lines=3)


def test_verbalisers_that_are_equal_only_as_token_ids(tmp_path, monkeypatch):
    # both words are unknown to the tiny tokenizer, so both are the same id
    recipe = edited(tmp_path, '{negative: " negative", positive: " positive"}', '{negative: " no", positive: " yes"}')
    result = tutelage(recipe, monkeypatch=monkeypatch)
    check(result, recipe, code=USER_ERROR, words=("verbalisers", "' no'", "[2]"), lines=7)


def test_missing_file(tmp_path, monkeypatch):
    recipe = write_experiment(tmp_path)
    (tmp_path / "reviews.jsonl").unlink()
    check(tutelage(recipe, monkeypatch=monkeypatch), recipe, code=USER_ERROR, words=("reviews.jsonl",))


def test_empty_file(tmp_path, monkeypatch):
    recipe = write_experiment(tmp_path)
    (tmp_path / "reviews.jsonl").write_text("")
    check(tutelage(recipe, monkeypatch=monkeypatch), recipe, code=USER_ERROR, words=("reviews.jsonl", "empty"))


def test_row_without_target(tmp_path, monkeypatch):
    recipe = write_experiment(tmp_path)
    with (tmp_path / "reviews.jsonl").open("a") as stream:
        stream.write(json.dumps({"text": "a fine film", "label": ""}) + "\n")
    result = tutelage(recipe, monkeypatch=monkeypatch)
    check(result, recipe, code=USER_ERROR, words=("reviews.jsonl:161", "label"))


def test_unreadable_model(tmp_path, monkeypatch):
    recipe = write_experiment(tmp_path)
    (tmp_path / "model" / "model.safetensors").write_bytes(b"not weights")
    check(tutelage(recipe, monkeypatch=monkeypatch), recipe, code=USER_ERROR, words=("model", "Cannot read"))


def test_foreign_tokenizer(tmp_path, monkeypatch):
    recipe = edited(tmp_path, "S1: {shrink", "S1: {model: other, shrink")
    write_tiny_model(tmp_path / "other", seed=1)
    vocabulary = json.loads((tmp_path / "other" / "tokenizer.json").read_text())
    words = vocabulary["model"]["vocab"]
    words["fine"], words["dull"] = words["dull"], words["fine"]
    (tmp_path / "other" / "tokenizer.json").write_text(json.dumps(vocabulary))
    check(
        tutelage(recipe, monkeypatch=monkeypatch), recipe, code=USER_ERROR, words=("two families", "'dull' and 'fine'")
    )


def test_ids_that_the_model_does_not_know(tmp_path, monkeypatch):
    recipe = write_experiment(tmp_path)
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["brilliant", "wooden"])
    tokenizer.save_pretrained(tmp_path / "model")
    text = (tmp_path / "reviews.jsonl").read_text().replace("lovely", "brilliant")
    (tmp_path / "reviews.jsonl").write_text(text)
    check(tutelage(recipe, monkeypatch=monkeypatch), recipe, code=USER_ERROR, words=("row ", "30"))


def test_temperature_without_log_z(tmp_path, monkeypatch):
    recipe = edited(
        tmp_path, "KD1: {kind: logit, temperature: 2, ", "KD1: {kind: logit, signal: topk, temperature: 4, "
    )
    result = tutelage(recipe, monkeypatch=monkeypatch)
    check(result, recipe, code=USER_ERROR, words=("temperature", "4"), lines=3)


def test_a_damaged_cache_is_taught_again(tmp_path, monkeypatch):
    recipe = write_experiment(tmp_path)
    assert tutelage(recipe, "--until", "teach", monkeypatch=monkeypatch).exit_code == 0
    payload = next((tmp_path / "runs" / "cache").glob("*/final_hidden*/*/payload.bin"))
    content = bytearray(payload.read_bytes())
    content[len(content) // 2] ^= 1
    payload.write_bytes(content)
    result = tutelage(recipe, monkeypatch=monkeypatch)
    assert result.exit_code == 0
    assert "parts of the teacher cache that are damaged" in " ".join(result.output.split())
    assert not verify_cache(tmp_path / "runs" / "cache", payload.parents[2].name)
