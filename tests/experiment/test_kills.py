"""Killed anywhere, same result: the command line is killed for real and run again."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiny_experiment import Finished, write_experiment

from tutelage.experiment import list_runs

# One moment of every stage that this experiment has: before anything is visible, half-way, and after it is.
MOMENTS = (
    "prepare.before_rename",
    "adapt.manifest.before_fsync",
    "cache.shard.after_rename",
    "score.before_rename",
    "train.before_manifest:3",
    "report.before_rename",
)
SECONDS = 240


def tutelage(recipe: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tutelage.cli", "run", recipe.name, "seeds.report=[1]"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(
        command, cwd=recipe.parent, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )


def state(root: Path) -> tuple[dict[str, str], str]:
    digests = {run.run_id: run.content_digest for run in list_runs(root.parent)}
    return digests, (root / "report" / "tables" / "main.csv").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], str]:
    recipe = write_experiment(tmp_path_factory.mktemp("whole"))
    done = tutelage(recipe)
    assert done.returncode == 0, done.stderr
    return state(recipe.parent / "runs" / "tiny")


@pytest.mark.slow
def test_killed_at_six_moments_the_same_command_ends_with_the_same_digests_and_table(
    uninterrupted: tuple[dict[str, str], str], tmp_path: Path
):
    recipe = write_experiment(tmp_path)
    for moment in MOMENTS:
        killed = tutelage(recipe, TUTELAGE_CRASH_POINT=moment)
        assert killed.returncode == -signal.SIGKILL, f"{moment}: {killed.stdout[-500:]}{killed.stderr[-500:]}"
    finished = tutelage(recipe)
    assert finished.returncode == 0, finished.stderr
    assert state(tmp_path / "runs" / "tiny") == uninterrupted
    assert not list((tmp_path / "runs").rglob("*.tmp.*"))


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["adapt.before_fsync", "cache.shard.before_fsync", "train.manifest.before_write"])
def test_a_full_disk_ends_with_exit_code_4_and_nothing_half_written(moment: str, tmp_path: Path):
    recipe = write_experiment(tmp_path)
    full = tutelage(recipe, TUTELAGE_CRASH_POINT=moment, TUTELAGE_CRASH_ACTION="enospc")
    assert full.returncode == 4, full.stdout + full.stderr
    assert "no space left" in full.stderr.lower()
    assert len(full.stderr.strip().splitlines()) == 1
    assert not list((tmp_path / "runs").rglob("*.tmp.*"))
    assert tutelage(recipe).returncode == 0


@pytest.mark.slow
def test_a_signal_saves_and_exits_75_and_the_next_run_goes_on(
    uninterrupted: tuple[dict[str, str], str], tmp_path: Path
):
    recipe = write_experiment(tmp_path)
    command = [sys.executable, "-u", "-m", "tutelage.cli", "run", recipe.name, "seeds.report=[1]"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("train KD1"):
                process.send_signal(signal.SIGTERM)
                break
        process.stdout.read()
        assert process.wait(SECONDS) == 75
    assert tutelage(recipe).returncode == 0
    assert state(tmp_path / "runs" / "tiny") == uninterrupted


def test_the_audit_log_names_every_stage_that_ran(finished: Finished):
    events = [json.loads(line) for line in (finished.root / "audit.jsonl").read_text().splitlines()]
    ended = {event["stage"] for event in events if event["event"] == "end"}
    assert ended == {"prepare", "adapt", "teach", "shrink", "score", "train", "report"}
    assert events[0]["event"] == "run"


NUM_SHARES = 16  # of the crash points, so that one failure does not hide the others
FORKING = Path(__file__).with_name("forked_commands.py")
Forked = Callable[..., int]


@pytest.fixture(scope="session")
def forked() -> Iterator[Forked]:
    """The same command line as :func:`tutelage`, in a fork of a process that has imported everything."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(
        [sys.executable, str(FORKING)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )

    def run(recipe: Path, **variables: str) -> int:
        assert server.stdin is not None
        assert server.stdout is not None
        arguments = ["run", recipe.name, "seeds.report=[1]"]
        server.stdin.write(json.dumps([arguments, str(recipe.parent), variables]) + "\n")
        server.stdin.flush()
        return int(server.stdout.readline())

    yield run
    server.communicate()
    assert server.returncode == 0


@pytest.fixture(scope="session")
def points(tmp_path_factory: pytest.TempPathFactory, forked: Forked) -> list[str]:
    """Every distinct crash point of one whole run, in order."""
    folder = tmp_path_factory.mktemp("traced")
    recipe = write_experiment(folder)
    assert forked(recipe, TUTELAGE_CRASH_TRACE=str(folder / "trace")) == 0, output_of(recipe)
    return list(dict.fromkeys((folder / "trace").read_text().splitlines()))


def output_of(recipe: Path) -> str:
    return (recipe.parent / "output.txt").read_text()[-2000:]


@pytest.mark.engine
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("share", range(NUM_SHARES))
def test_killed_at_every_point_of_a_whole_run_the_same_command_ends_with_the_same_digests(
    share: int, points: list[str], forked: Forked, uninterrupted: tuple[dict[str, str], str], tmp_path: Path
):
    """R1 over all stages: a fresh workspace for every point, killed there, run again."""
    assert len(points) > 100
    for point in points[share::NUM_SHARES]:
        folder = tmp_path / "killed"
        folder.mkdir()
        recipe = write_experiment(folder)
        assert forked(recipe, TUTELAGE_CRASH_POINT=point) == -signal.SIGKILL, f"{point}: {output_of(recipe)}"
        assert forked(recipe) == 0, f"{point}: {output_of(recipe)}"
        assert state(recipe.parent / "runs" / "tiny") == uninterrupted, point
        shutil.rmtree(folder)
