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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
