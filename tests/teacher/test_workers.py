"""Several processes fill one cache: every shard is made once, and the outcome is that of one process.

Workers are forks of the test with the teacher already built; one thread each, as in the undisturbed run.
"""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_teacher import FINGERPRINT, VOCAB_SIZE, teacher_rows
from transformers import LlamaForCausalLM

from tutelage.cache import Column, HiddenColumn, SampledColumn, cache_digest, verify_cache
from tutelage.cache.layout import column_folder, shard_folders
from tutelage.store import crash, folder_lock
from tutelage.teacher import TeachReport, teach
from tutelage.teacher.claims import Claims
from tutelage.teacher.plan import plan_jobs

ROWS = teacher_rows(20)
NUM_SHARDS = 5
COLUMNS: list[Column] = [SampledColumn(6, 2.0, 0, VOCAB_SIZE), HiddenColumn(1, 32, "int8", 0.5)]


def run(model: LlamaForCausalLM, root: Path, **options: Callable[..., object]) -> TeachReport:
    return teach(
        model, ROWS, columns=COLUMNS, root=root, fingerprint=FINGERPRINT, shard_rows=4, token_budget=50, **options
    )  # pyright: ignore[reportArgumentType]


def digests(root: Path) -> dict[str, str]:
    return {column.name: cache_digest(root, FINGERPRINT, column) for column in COLUMNS}


def start(model: LlamaForCausalLM, root: Path, *, environment: dict[str, str] | None = None, slow: float = 0.0) -> int:
    """Fork a worker; it leaves its count of computed rows in a file, and dies where it is told to."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        torch.set_num_threads(1)
        os.environ.update(environment or {})
        crash._passages.clear()
        report = run(model, root, progress=lambda *_: time.sleep(slow))
        (root / f"computed-{os.getpid()}").write_text(str(report.computed))
        code = 0
    finally:
        os._exit(code)


def wait(children: list[int]) -> list[int]:
    return [os.waitpid(child, 0)[1] for child in children]


def computed(root: Path) -> list[int]:
    return [int(path.read_text()) for path in root.glob("computed-*")]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, teacher_model: LlamaForCausalLM) -> dict[str, str]:
    root = tmp_path_factory.mktemp("alone")
    run(teacher_model, root)
    return digests(root)


@pytest.mark.parametrize("num_workers", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_workers_share_the_shards_and_end_with_the_digests_of_one(
    tmp_path: Path, teacher_model: LlamaForCausalLM, alone: dict[str, str], num_workers: int
) -> None:
    statuses = wait([start(teacher_model, tmp_path, slow=0.03) for _ in range(num_workers)])
    assert statuses == [0] * num_workers
    assert digests(tmp_path) == alone
    assert verify_cache(tmp_path, FINGERPRINT) == []
    shares = computed(tmp_path)
    assert sum(shares) == len(ROWS)  # every row went through a teacher once
    assert sum(share > 0 for share in shares) > 1
    assert not list(tmp_path.rglob("*.tmp.*"))


def test_a_shard_of_a_worker_that_dies_is_taken_over(
    tmp_path: Path, teacher_model: LlamaForCausalLM, alone: dict[str, str]
) -> None:
    dying = start(
        teacher_model, tmp_path, environment={"TUTELAGE_CRASH_POINT": "cache.shard.before_rename:2"}, slow=0.05
    )
    living = start(teacher_model, tmp_path, slow=0.05)
    status, other = wait([dying, living])
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert other == 0
    assert digests(tmp_path) == alone
    assert run(teacher_model, tmp_path).computed == 0
    assert verify_cache(tmp_path, FINGERPRINT) == []
    assert not list(tmp_path.rglob("*.tmp.*"))


def test_a_worker_waits_for_a_claimed_shard_and_takes_it_when_nobody_finished_it(
    tmp_path: Path, teacher_model: LlamaForCausalLM, alone: dict[str, str]
) -> None:
    plan = plan_jobs(ROWS, COLUMNS, {column: [] for column in COLUMNS}, shard_rows=4)[2].plan
    claim = Claims(tmp_path, FINGERPRINT).claim(plan)
    assert claim is not None
    with claim:
        child = start(teacher_model, tmp_path)
        deadline = time.monotonic() + 60
        while len(shard_folders(column_folder(tmp_path, FINGERPRINT, COLUMNS[-1]))) < NUM_SHARDS - 1:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.3)
        assert os.waitpid(child, os.WNOHANG) == (0, 0)  # all others are done: it waits
        assert computed(tmp_path) == []
    assert wait([child]) == [0]
    assert computed(tmp_path) == [len(ROWS)]
    assert digests(tmp_path) == alone


def test_what_another_process_committed_after_the_plan_was_made_is_not_computed_again(
    tmp_path: Path, teacher_model: LlamaForCausalLM, alone: dict[str, str]
) -> None:
    calls = 0

    def other_runs_first(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:  # after the first forward pass, its shard still claimed: another worker does all the rest
            child = start(teacher_model, tmp_path)
            deadline = time.monotonic() + 60
            while len(shard_folders(column_folder(tmp_path, FINGERPRINT, COLUMNS[-1]))) < NUM_SHARDS - 1:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            children.append(child)

    children: list[int] = []
    report = run(teacher_model, tmp_path, progress=other_runs_first)
    assert wait(children) == [0]
    assert report.computed == 4  # its first shard
    assert report.reused == len(ROWS) - 4
    assert digests(tmp_path) == alone


def test_plans_that_share_a_lock_do_not_block_one_process(
    tmp_path: Path, teacher_model: LlamaForCausalLM, alone: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = Claims.claim
    monkeypatch.setattr(Claims, "claim", lambda claims, plan: claim(claims, "one lock for all"))
    assert run(teacher_model, tmp_path).computed == len(ROWS)
    assert digests(tmp_path) == alone


def test_two_experiments_with_other_rows_fill_one_cache_side_by_side(
    tmp_path: Path, teacher_model: LlamaForCausalLM
) -> None:
    other_rows = teacher_rows(8, seed=5)
    child = start(teacher_model, tmp_path, slow=0.02)
    report = teach(
        teacher_model, other_rows, columns=COLUMNS, root=tmp_path, fingerprint=FINGERPRINT, shard_rows=5
    )  # fmt: skip
    assert wait([child]) == [0]
    assert report.computed == 8
    assert verify_cache(tmp_path, FINGERPRINT) == []
    assert run(teacher_model, tmp_path).computed == 0


def test_locks_are_no_columns_and_no_damage(tmp_path: Path, teacher_model: LlamaForCausalLM) -> None:
    run(teacher_model, tmp_path)
    assert (tmp_path / FINGERPRINT / ".claims").is_dir()
    assert verify_cache(tmp_path, FINGERPRINT) == []
    with folder_lock(tmp_path / FINGERPRINT / ".claims" / "planning"):
        assert Claims(tmp_path, FINGERPRINT).claim("ab" * 16) is not None
