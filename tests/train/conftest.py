import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    """Reductions in a fixed order, and no fight over the two cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
