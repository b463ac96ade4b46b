"""A stop signal ends every command with 75, whenever it comes: real processes, real signals."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiny_experiment import write_experiment

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
SECONDS = 240

# A finder that sends the signal when the command first imports a module: typer comes before anything of a command,
# torch after the recipe was read.
FIRST_SECOND = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.{signal})
sys.meta_path.insert(0, Finder())
sys.argv = ["tutelage", "run", "tiny.yaml"]
from tutelage.cli import main
main()
"""


@pytest.mark.parametrize(("module", "name"), [("typer", "SIGTERM"), ("typer", "SIGUSR2"), ("torch", "SIGINT")])
def test_a_signal_in_the_first_second_is_said_and_ends_with_75(module: str, name: str, tmp_path: Path):
    write_experiment(tmp_path)
    code = FIRST_SECOND.format(module=module, signal=name)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip

    assert done.returncode == 75, done.stderr
    assert done.stderr.startswith(f"stopped: {name} received")
    assert done.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def stopped() -> Iterator[Callable[..., tuple[int, str]]]:
    """Run the tiny recipe and stop it: ``(folder, moment, *signals)`` gives exit status and output."""
    path = os.pathsep.join(sys.path)
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("stopped_commands.py"))],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**ENVIRONMENT, "PYTHONPATH": path},
    ) as process:  # fmt: skip

        def run(folder: Path, moment: str, *names: str) -> tuple[int, str]:
            assert process.stdin is not None
            assert process.stdout is not None
            print(json.dumps([str(folder), moment, names]), file=process.stdin, flush=True)
            return int(process.stdout.readline()), (folder / "output.txt").read_text()

        yield run


# Calls of a body: the probe of the teacher before its adaptation makes the first eight, training the next.
@pytest.mark.parametrize(
    ("moment", "signals"),
    [
        ("swallowed:3", ["SIGINT"]),
        ("failed:1", ["SIGTERM"]),
        ("forward:2", ["SIGINT", "SIGTERM", "SIGUSR2"]),
        ("forward:14", ["SIGUSR2", "SIGINT", "SIGTERM"]),
    ],
)
def test_a_run_that_is_asked_to_stop_ends_with_75_whatever_happens_on_the_way(
    moment: str, signals: list[str], stopped: Callable[..., tuple[int, str]], tmp_path: Path
):
    write_experiment(tmp_path)
    status, output = stopped(tmp_path, moment, *signals)

    assert status == 75, output
    assert f"stopped: {signals[0]} received" in output
    assert "Traceback" not in output
    assert "not supported by this model" not in output
