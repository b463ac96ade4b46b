import gc

import pytest


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Take the modules that are imported by now out of every later collection: a run ends each stage with one."""
    gc.collect()
    gc.freeze()
