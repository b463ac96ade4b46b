"""The examples of docs/python.md do what they say; the loss in other libraries' trainers divides by the whole step."""

import copy
import importlib.util
from pathlib import Path

import pytest
import torch

from tutelage.config import load_recipe

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=["trainer_kd", "sft_trainer_kd"])
def page(request):
    if request.param == "sft_trainer_kd":
        pytest.importorskip("trl", reason="TRL is not installed: pip install trl")
    return example(request.param)


def test_accumulated_batches_of_one_row_train_as_one_batch_of_all(page):
    rows, teacher = page.toy_rows(8, 0), page.tiny_llama(32, 1)
    with torch.no_grad():
        teacher.lm_head.weight.mul_(10.0)
    whole, parts = page.tiny_llama(16, 2), page.tiny_llama(16, 2)
    first = copy.deepcopy(whole.state_dict())
    losses = page.train(whole, teacher, rows, batch_size=4, accumulate=1, steps=2)
    assert page.train(parts, teacher, rows, batch_size=1, accumulate=4, steps=2) == pytest.approx(losses, rel=1e-3)
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)
    assert any(not torch.equal(first[name], tensor) for name, tensor in whole.state_dict().items())


def test_the_recipe_of_the_own_loss_is_valid_with_its_file(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    folder = EXAMPLES / "own_loss"
    loaded = load_recipe(folder / "recipe.yaml", plugins=[str(folder / "my_loss.py")], environment={})
    (_, own) = loaded.recipe.methods["MINE"].losses
    assert (own.kind, own.power, own.temperature) == ("hellinger", 1.5, 2)
