"""Start a writer in a process of its own, armed to die at one point."""

import importlib.util
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

WRITERS_FILE = Path(__file__).with_name("writers.py")


def load_writers() -> ModuleType:
    spec = importlib.util.spec_from_file_location("store_writers", WRITERS_FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def writers() -> ModuleType:
    return load_writers()


@pytest.fixture(scope="session")
def run_writer() -> Iterator[Callable[..., int]]:
    """One small process that forks a writer for every call: a start of Python each would cost seconds."""
    server = subprocess.Popen(
        [sys.executable, str(WRITERS_FILE)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def run(kind: str, folder: Path, version: int, **environment: str) -> int:
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps([kind, str(folder), version, environment]) + "\n")
        server.stdin.flush()
        return int(server.stdout.readline())

    yield run
    server.communicate()
    assert server.returncode == 0


@pytest.fixture(scope="session")
def list_points(run_writer: Callable[..., int]) -> Callable[..., list[str]]:
    """Every passage of a crash point in one undisturbed writing, as ``NAME:COUNT``."""

    def points(kind: str, folder: Path, version: int) -> list[str]:
        trace = folder.with_name(folder.name + "-trace")
        assert run_writer(kind, folder, version, TUTELAGE_CRASH_TRACE=str(trace)) == 0
        passages: Counter[str] = Counter()
        named = []
        for name in trace.read_text().splitlines():
            passages[name] += 1
            named.append(f"{name}:{passages[name]}")
        return named

    return points
