"""One process and two give the same step. The loop itself refuses a launcher; the step is ready for one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_step import FLOAT64_TOLERANCE
from tiny_training import run_tiny

from tutelage.errors import TrainingError
from tutelage.train import loop


def launch(path, num_ranks):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_ranks}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    script = Path(__file__).with_name("ranks_script.py")
    subprocess.run([*launcher, str(script), str(path)], check=True, env=environment, timeout=280)
    return load_file(path)


@pytest.mark.slow
def test_two_ranks_make_the_same_step_as_one(tmp_path):
    one, two = (launch(tmp_path / f"{num}.safetensors", num) for num in (1, 2))
    assert (int(one.pop("world")), int(two.pop("world"))) == (1, 2)
    torch.testing.assert_close(one.pop("numbers"), two.pop("numbers"), rtol=1e-9, atol=0.0)
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert float((tensor - two[name]).abs().max()) < FLOAT64_TOLERANCE


def test_the_loop_refuses_several_processes(tmp_path, monkeypatch):
    class Launched(loop.Accelerator):
        num_processes = 2

    monkeypatch.setattr(loop, "Accelerator", Launched)
    with pytest.raises(TrainingError, match="2 processes"):
        run_tiny(tmp_path)
