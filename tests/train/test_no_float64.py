"""A device without float64 (Apple's GPU) is stood in for by a CPU on which making a float64 tensor is an error."""

import numpy as np
import pytest
import torch
from tiny_training import PAD, TinyTeacher, run_tiny, tiny_model, tiny_rows
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tutelage.data import collate
from tutelage.data.rows import ChoicePrompt
from tutelage.evaluate import fidelity
from tutelage.evaluate.choices import score_choices
from tutelage.evaluate.frontier import angle_between, reconstruction_kls
from tutelage.evaluate.likelihood import row_likelihoods
from tutelage.losses import precision
from tutelage.losses.precision import for_sums, sum_dtype
from tutelage.models.shrink import layer_influence
from tutelage.teacher.signals import sampled_weights


class NoFloat64(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(found):
            if isinstance(leaf, torch.Tensor) and leaf.dtype == torch.float64:
                raise TypeError(f"{func} made a float64 tensor on a device that has none")
        return found


@pytest.fixture
def no_float64(monkeypatch):
    monkeypatch.setattr(precision, "NO_FLOAT64", ("cpu",))
    with NoFloat64():
        yield


def ids(*tokens):
    return np.array(tokens, dtype=np.int32)


def test_sums_are_float64_but_where_the_device_has_none():
    assert sum_dtype(torch.device("cpu")) == sum_dtype(torch.device("cuda")) == torch.float64
    assert sum_dtype(torch.device("mps")) == torch.float32


def test_the_stand_in_notices_float64():
    with NoFloat64(), pytest.raises(TypeError, match="made a float64 tensor"):
        for_sums(torch.zeros(1))


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_training_makes_no_float64_on_the_device(no_float64, tmp_path, kind):
    _, result = run_tiny(tmp_path, kind, max_steps=2, evaluate=False)
    assert result.steps == 2


def test_shrinking_makes_no_float64_on_the_device(no_float64):
    assert len(layer_influence(tiny_model(), [collate(tiny_rows(4), pad_id=PAD)])) == 2


def test_evaluation_makes_no_float64_on_the_device(no_float64):
    model, rows = tiny_model(), tiny_rows(4)
    settings = {"pad_id": PAD, "token_budget": 64, "device": torch.device("cpu")}
    found = row_likelihoods(model, rows, **settings)
    assert found.logprob_R.dtype == np.float64
    assert fidelity(model, rows, TinyTeacher(), **settings)["kl_to_teacher"] > 0
    prompts = [ChoicePrompt("a", ids(3, 4), [ids(5), ids(6, 7)], gold=0)]
    assert score_choices(model, prompts, **settings).logprobs_BC.dtype == np.float64


def test_a_live_teachers_draws_and_the_cost_frontier_make_no_float64_on_the_device(no_float64):
    tensors = {"counts_NK": torch.tensor([[0, 2, 1]]), "logprobs_NK": torch.tensor([[-0.1, -3.0, -3.0]])}
    assert float(sampled_weights(tensors, head_k=1, num_draws=3).sum()) == pytest.approx(1.0, abs=1e-6)
    assert angle_between([torch.ones(2)], [torch.ones(2)]).degrees == pytest.approx(0.0)
    signal = TinyTeacher().signal(collate(tiny_rows(4), pad_id=PAD))
    assert reconstruction_kls(signal, {"own": signal}, temperature=1.0)["own"] == pytest.approx(0.0, abs=1e-6)
