"""Several processes fill one cache: every shard is made once, and the outcome is that of one process.

Workers are forks of the test with the teacher already built; one thread each, as in the undisturbed run.
"""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import whole_teach
from tiny_teacher import FINGERPRINT, VOCAB_SIZE, teacher_rows
from transformers import LlamaForCausalLM
from whole_teach import EVERY_COLUMN, exit_codes, stored_keys, wanted_keys, what_is_wrong

from tutelage.cache import Column, HiddenColumn, SampledColumn, cache_digest, verify_cache
from tutelage.cache.layout import column_folder, shard_folders
from tutelage.store import crash, folder_lock
from tutelage.teacher import TeachReport, teach
from tutelage.teacher.claims import Claims
from tutelage.teacher.passes import Progress
from tutelage.teacher.plan import plan_jobs

ROWS = teacher_rows(20)
NUM_SHARDS = 5
COLUMNS: list[Column] = [SampledColumn(6, 2.0, 0, VOCAB_SIZE), HiddenColumn(1, 32, "int8", 0.5)]


def run(model: LlamaForCausalLM, root: Path, *, progress: Progress | None = None) -> TeachReport:
    return teach(
        model,
        ROWS,
        columns=COLUMNS,
        root=root,
        fingerprint=FINGERPRINT,
        shard_rows=4,
        token_budget=50,
        progress=progress,
    )


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


SHARD_ROWS_OF_EVERY = 3  # of the columns of `whole_teach`: 4 shards each


@pytest.fixture(scope="module")
def every_column_alone(tmp_path_factory: pytest.TempPathFactory, teacher_model: LlamaForCausalLM) -> dict[str, str]:
    root = tmp_path_factory.mktemp("every-column-alone")
    whole_teach.fill(teacher_model, root, shard_rows=SHARD_ROWS_OF_EVERY)
    return whole_teach.digests(root)


def start_with_every_column(
    model: LlamaForCausalLM, root: Path, *, seed: int, slow: float = 0.0, **environment: str
) -> int:
    """Fork a worker with the rows in an order of its own; it leaves its count of computed rows in a file."""
    order = np.random.default_rng(seed).permutation(len(whole_teach.ROWS))

    def work() -> None:
        computed, _ = whole_teach.fill(
            model, root, order=order, shard_rows=SHARD_ROWS_OF_EVERY, progress=lambda *_: time.sleep(slow)
        )
        (root / f"computed-{os.getpid()}").write_text(str(computed))

    return whole_teach.start(work, **environment)


def check_every_row_is_stored_once(root: Path, expected: dict[str, str]) -> None:
    assert what_is_wrong(root, expected) is None
    for column in EVERY_COLUMN:
        assert stored_keys(root, column) == wanted_keys(column), column.name


@pytest.mark.parametrize("num_workers", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
def test_any_number_of_workers_with_rows_in_any_order_store_and_compute_every_row_of_every_column_once(
    memory_path: Path, teacher_model: LlamaForCausalLM, every_column_alone: dict[str, str], num_workers: int
) -> None:
    workers = [start_with_every_column(teacher_model, memory_path, seed=seed, slow=0.02) for seed in range(num_workers)]
    assert exit_codes(workers) == [0] * num_workers
    check_every_row_is_stored_once(memory_path, every_column_alone)
    assert sum(computed(memory_path)) == len(whole_teach.ROWS) + len(whole_teach.PROMPTS)
    assert len(computed(memory_path)) == num_workers


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))], ids="kills-{}".format
)
def test_workers_that_are_killed_leave_every_row_of_every_column_stored_once(
    memory_path: Path, teacher_model: LlamaForCausalLM, every_column_alone: dict[str, str], seed: int
) -> None:
    generator = np.random.default_rng(seed)
    points = ("before_payload", "before_index", "manifest.mid_write", "before_rename", "after_rename")
    passages = [f"cache.shard.{generator.choice(points)}:{generator.integers(1, 9)}" for _ in range(2)]
    dying = [
        start_with_every_column(teacher_model, memory_path, seed=number, slow=0.01, TUTELAGE_CRASH_POINT=passage)
        for number, passage in enumerate(passages)
    ]
    # each dies before it has filled half of the cache, so the other one reaches its own point
    assert exit_codes(dying) == [-signal.SIGKILL] * len(dying), passages
    living = [start_with_every_column(teacher_model, memory_path, seed=seed, slow=0.01) for seed in (8, 9)]
    assert exit_codes(living) == [0] * len(living), passages
    check_every_row_is_stored_once(memory_path, every_column_alone)


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
