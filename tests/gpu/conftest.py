import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
# The helpers of the folders whose promises are held on a GPU too.
for folder in (
    HERE,
    *(HERE.parent / name for name in ("oracles", "losses", "models", "teacher", "train", "experiment")),
):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


# Without a GPU there is nothing here that could run.
collect_ignore_glob = [] if torch.cuda.is_available() else ["test_*.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)
