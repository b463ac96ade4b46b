import sys
from pathlib import Path

import pytest
import torch

import tutelage
from tutelage.plugins import forgotten_after

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


@pytest.fixture(autouse=True)
def own_names():
    """What a test registers is forgotten after it."""
    with forgotten_after():
        yield


@pytest.fixture(scope="session")
def recipe(tmp_path_factory):
    """That experiment planned and run once from Python; tests only read it."""
    torch.set_num_threads(1)
    from own_loss_files import PLUGIN, write_small

    path = write_small(tmp_path_factory.mktemp("api"))
    with forgotten_after():
        before = tutelage.plan(path, plugins=[PLUGIN])
        lines: list[str] = []
        return path, before, tutelage.run(path, plugins=[PLUGIN], show=lines.append), lines
