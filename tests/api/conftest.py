import sys
from pathlib import Path

import pytest
import torch

ORACLES = Path(__file__).parents[1] / "oracles"
if str(ORACLES) not in sys.path:
    sys.path.insert(0, str(ORACLES))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
