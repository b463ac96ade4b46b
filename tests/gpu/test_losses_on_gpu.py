"""Every promise of the losses holds where they are computed on a GPU: the conformance suites, carried there."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from loss_cases import HEADS, PATHS, make_case
from loss_properties import CHECKS, named
from on_gpu import on_gpu
from state_cases import make_state_case
from state_properties import CHECKS as STATE_CHECKS
from test_conformance import HELD, name_part
from test_state_conformance import HELD as HELD_OF_STATES

from tutelage.losses import head_losses
from tutelage.losses.tiles import CUDA_TILE_BYTES
from tutelage.types import FinalHidden, LossTerm, OutputHead

NUM_IDS = 50_000
HEAD = list(HEADS)[-1]  # bias, scale and softcap at once


@pytest.mark.parametrize(("key", "name"), HELD, ids=name_part)
def test_a_granted_property_holds(key, name):
    for path in PATHS:
        with named(path):
            CHECKS[name](make_case(key, head=HEAD), on_gpu(PATHS[path]))


@pytest.mark.parametrize(("loss", "settings", "name"), HELD_OF_STATES, ids=name_part)
def test_a_granted_property_of_a_state_loss_holds(loss, settings, name):
    case = make_state_case(loss, settings)
    STATE_CHECKS[name](case, on_gpu(case.implementation))


# Value; gradients with respect to hidden states and weight, relative, by norm. A bfloat16 product keeps 8 bits.
TOLERANCES = {"float32": (1e-5, 1e-4, 1e-4), "bfloat16": (0.02, 0.05, 0.05)}


def test_the_compiled_passes_come_to_the_gradients_of_float64():
    script = Path(__file__).with_name("compiled_losses.py")
    ran = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "uncompiled" not in ran.stderr, ran.stderr[-3000:]
    for name, errors in json.loads(ran.stdout.splitlines()[-1]).items():
        for error, tolerance in zip(errors, TOLERANCES[name.split()[0]], strict=True):
            assert error <= tolerance, (name, errors)


def temporary_bytes(num_positions: int) -> int:
    draw = torch.Generator("cuda").manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw, device="cuda").bfloat16()

    head, hidden = OutputHead(normal(NUM_IDS, 64)), normal(num_positions, 64).requires_grad_()
    labels, teacher = torch.zeros(num_positions, dtype=torch.int64, device="cuda"), normal(num_positions, 64)
    terms = [LossTerm("cross_entropy", 0.5), LossTerm("forward_kl", 0.5)]
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    head_losses(hidden, head, labels, FinalHidden(teacher, head), terms=terms, fused=True).objective.total.backward()
    return torch.cuda.max_memory_allocated() - before


def test_temporary_memory_grows_by_the_gradients_of_the_hidden_states_alone():
    few, many = (number * (CUDA_TILE_BYTES // (2 * NUM_IDS)) for number in (4, 16))  # whole tiles, all of one size
    temporary_bytes(512)  # the libraries' own workspaces
    growth = (temporary_bytes(many) - temporary_bytes(few)) / (many - few)
    assert growth < 10 * 64 * 2  # bytes per position; a row of logits alone has 100,000
