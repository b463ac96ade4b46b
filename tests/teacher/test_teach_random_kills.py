"""Killed by a clock at a random moment, the next run ends with the same cache (RELIABILITY R2)."""

import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from transformers import LlamaForCausalLM
from whole_teach import digests, exit_codes, fill, killed_after, start, what_is_wrong

from tutelage.store import MANIFEST

NUM_TRIES = 8  # of one kill: when it came after the end, it is tried again, earlier
EARLIER = 0.7


@pytest.mark.parametrize("num_kills", [6, pytest.param(30, marks=pytest.mark.slow)])
def test_killed_at_random_moments_the_next_run_ends_with_the_same_digests(
    memory_path: Path, teacher_model: LlamaForCausalLM, num_kills: int
) -> None:
    whole = memory_path / "whole"
    began = time.monotonic()
    assert exit_codes([start(lambda: fill(teacher_model, whole))]) == [0]
    seconds = time.monotonic() - began
    expected = digests(whole)
    generator = np.random.default_rng(num_kills)
    shares = (np.arange(num_kills) + generator.uniform(size=num_kills)) / num_kills  # spread over the whole run
    committed = []
    for share in generator.permutation(shares):
        root = memory_path / "killed"
        for _ in range(NUM_TRIES):
            if killed_after(seconds * share, lambda root=root: fill(teacher_model, root)):
                committed.append(len([path for path in root.rglob(MANIFEST) if ".tmp." not in path.parent.name]))
                break
            seconds *= EARLIER  # the machine was busier when it was measured
            shutil.rmtree(root)
        fill(teacher_model, root)
        assert what_is_wrong(root, expected) is None, share
        shutil.rmtree(root)
    assert len(committed) >= 0.8 * num_kills
    assert len(set(committed)) > 1, "they were meant to come at different moments"
