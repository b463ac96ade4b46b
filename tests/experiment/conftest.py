import pytest
import torch
from tiny_experiment import Finished, run_tiny, write_experiment


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The tiny experiment, run once with its control; tests only read it."""
    torch.set_num_threads(1)
    return run_tiny(write_experiment(tmp_path_factory.mktemp("tiny")), control=True)
