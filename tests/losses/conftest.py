import sys
from pathlib import Path

import pytest
import torch

# Helper modules of this folder and the oracles are imported by name under every pytest import mode.
for folder in (Path(__file__).parent, Path(__file__).parents[1] / "oracles"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
