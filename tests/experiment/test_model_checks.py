"""`plan` shows what is wrong with every model of a recipe at once, each at its key, before anything runs."""

import json
import shutil
from pathlib import Path

import pytest
from tiny_experiment import RECIPE, write_experiment, write_tiny_model

from tutelage.config import load_recipe
from tutelage.experiment.checks import inspect_recipe
from tutelage.experiment.identity import Folders
from tutelage.experiment.stage import Context

SECOND = "  S2: {model: other, dtype: fp32}\ntasks:"


def refusals(recipe: Path):
    loaded = load_recipe(recipe, environment={})
    found = inspect_recipe(Context(loaded, Folders(recipe.parent / "runs", "tiny"), show=print, command=""))
    return {refusal.key: refusal.message for refusal in found.refusals}


def with_second_student(folder: Path, **changes: str) -> Path:
    recipe = RECIPE.replace("tasks:", SECOND, 1)
    for old, new in changes.items():
        recipe = recipe.replace(old, new)
    return write_experiment(folder, recipe=recipe)


def edit_config(folder: Path, **changes) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def test_a_missing_folder_and_too_many_layers_are_two_problems(tmp_path):
    recipe = write_experiment(
        tmp_path,
        recipe=RECIPE.replace("tasks:", SECOND.replace("other", "./gone"), 1).replace("layers: 2", "layers: 9"),
    )
    found = refusals(recipe)
    assert "No model at './gone'" in found["students", "S2", "model"]
    assert "shrink.layers is 9, expected 2 to 4" in found["students", "S1", "shrink"]


@pytest.mark.parametrize("name", ["gone.gguf", "owner/name"])
def test_a_missing_gguf_file_and_a_hub_id_without_a_hub_are_found(tmp_path, name, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    recipe = write_experiment(tmp_path, recipe=RECIPE.replace("model: model", f"model: {name}"))
    found = refusals(recipe)
    assert ("No file at" if name.endswith("gguf") else "does not answer") in found["teacher", "model"]


def test_quantised_weights_are_refused_where_they_would_be_trained_or_cannot_be_read(tmp_path):
    recipe = with_second_student(tmp_path)
    write_tiny_model(tmp_path / "other", seed=1)
    edit_config(tmp_path / "other", quantization_config={"quant_method": "gptq", "bits": 4})
    assert "cannot be trained" in refusals(recipe)["students", "S2", "model"]
    edit_config(tmp_path / "model", quantization_config={"quant_method": "gptq", "bits": 4})
    found = refusals(recipe)
    assert "cannot be read on this machine's cpu" in found["teacher", "model"]
    assert "cannot be trained" in found["teacher", "adapt"]
    assert "cannot be trained" in found["students", "S1"]


def test_another_kind_of_model_and_an_adapter_beside_weights_are_found(tmp_path):
    recipe = with_second_student(tmp_path)
    write_tiny_model(tmp_path / "other", seed=1)
    edit_config(tmp_path / "model", architectures=["LlamaForSequenceClassification"])
    (tmp_path / "other" / "adapter_config.json").write_text("{}")
    found = refusals(recipe)
    assert "a classifier" in found["teacher", "model"]
    assert "`adapter_weights: ignore`" in found["students", "S2", "model"]


def test_the_choice_of_an_adapter_changes_the_identity_of_the_model(tmp_path):
    from tutelage.experiment.origin import model_identity

    recipe = write_experiment(tmp_path)
    write_tiny_model(tmp_path / "base", seed=1)
    shutil.copytree(tmp_path / "model", tmp_path / "both")
    (tmp_path / "both" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    shutil.copy(tmp_path / "model" / "model.safetensors", tmp_path / "both" / "adapter_model.safetensors")

    def identity(text):
        recipe.write_text(text.replace("WORKSPACE", str(tmp_path / "runs")))
        loaded = load_recipe(recipe, environment={})
        context = Context(loaded, Folders(tmp_path / "runs", "tiny"), show=print, command="")
        return model_identity(context, loaded.recipe.teacher)

    prints = [identity(RECIPE)]
    for choice in ("ignore", "merge"):
        prints.append(identity(RECIPE.replace("model: model", f"model: both\n  adapter_weights: {choice}")))
    assert len(set(prints)) == 3
