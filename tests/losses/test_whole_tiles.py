"""A tile compared as a whole, as on a GPU, keeps every promise of the fused path. Here its lines run one by one."""

import logging
from dataclasses import replace

import pytest
import torch
from loss_cases import PATHS, make_case
from loss_properties import CHECKS, named
from test_conformance import HELD, heads_of, name_part
from torch._dynamo.exc import TorchDynamoException

from tutelage.losses import fused, row_passes, whole_tiles
from tutelage.types import LossTerm

TAKEN = {("cross_entropy", "none"), ("forward_kl", "dense"), ("forward_kl", "final_hidden")}


def takes(key) -> bool:
    _, signal, divergence = key
    return (divergence, signal) in TAKEN or (signal == "topk" and divergence != "cross_entropy")


@pytest.fixture(autouse=True)
def whole_tiles_here(monkeypatch):
    """Take whole tiles on this device, and count them."""
    taken = []
    add_tile = fused._Walk._add_tile
    monkeypatch.setattr(whole_tiles, "DEVICES", ("cpu",))
    monkeypatch.setattr(fused._Walk, "_add_tile", lambda self, *args: taken.append(args) or add_tile(self, *args))
    with torch.compiler.set_stance("force_eager"):
        yield taken


@pytest.mark.parametrize(("key", "name"), [held for held in HELD if takes(held[0])], ids=name_part)
def test_a_granted_property_holds(key, name, whole_tiles_here):
    for head in heads_of(name):
        with named(head):
            CHECKS[name](make_case(key, head=head), PATHS["fused"])


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("signal", ["dense", "final_hidden", "topk"])
@pytest.mark.parametrize("head", ["plain", "softcap"])
def test_labels_and_teacher_in_one_pass_equal_the_plain_path(signal, head, temperature, whole_tiles_here):
    source = "cached" if signal == "topk" else "live"
    case = make_case((source, signal, "forward_kl"), head=head)
    if case.head.bias_V is not None:
        case.head.bias_V.requires_grad_(False)
    terms = [LossTerm("cross_entropy", 0.3), LossTerm("forward_kl", 0.7, temperature)]
    found = frozen_bias_gradients(case, PATHS["fused"], case.signal(at=temperature), terms)
    expected = frozen_bias_gradients(case, PATHS["plain"], case.signal(at=temperature), terms)
    assert whole_tiles_here, "the tiles were not compared whole"
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def frozen_bias_gradients(case, path, signal, terms):
    leaves = [case.hidden.clone().requires_grad_(), case.head.weight_VD.clone().requires_grad_()]
    losses = path(leaves[0], replace(case.head, weight_VD=leaves[1]), case.labels, signal, terms=terms)
    return [losses.objective.total.detach(), *torch.autograd.grad(losses.objective.total, leaves)]


def test_a_pass_that_cannot_be_compiled_runs_all_the_same(monkeypatch, caplog):
    def compile_nothing(lines, **_):
        def call(*tensors):
            raise TorchDynamoException("Failed to find C compiler")

        return call

    monkeypatch.setattr(torch, "compile", compile_nothing)
    double = row_passes.compiled(lambda tensor: 2 * tensor)
    with caplog.at_level(logging.WARNING):
        assert double(torch.ones(())) == 2
        assert double(torch.ones(())) == 2
    assert len(caplog.messages) == 1
    assert "uncompiled" in caplog.text
    assert "C compiler" in caplog.text
