import json
import random

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from tutelage.train.random_state import random_state, seed_everything, set_random_state


def draw():
    return [
        random.random(),
        random.gauss(0, 1),
        float(np.random.normal()),
        float(np.random.rand()),
        torch.rand(3).tolist(),
    ]


def test_every_generator_goes_on_where_it_was_after_a_trip_through_files(tmp_path):
    seed_everything(5)
    random.gauss(0, 1), np.random.normal()  # both keep a second draw for later
    tensors, values = random_state()
    save_file(tensors, tmp_path / "g.safetensors")
    expected = [draw() for _ in range(3)]
    seed_everything(6)
    set_random_state(load_file(tmp_path / "g.safetensors"), json.loads(json.dumps(values)))
    assert [draw() for _ in range(3)] == expected


def test_a_seed_fixes_all_generators():
    seed_everything(5)
    first = draw()
    seed_everything(5)
    assert draw() == first
