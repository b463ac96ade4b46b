"""Killed at any point, the next run ends with the same cache.

The killed process is a fork of the test with the teacher already built: a fresh one would spend
its time on imports. It dies by SIGKILL at the armed point, so nothing can tidy up after it.
"""

import os
from collections import Counter
from pathlib import Path

import pytest
import torch
from tiny_teacher import FINGERPRINT, VOCAB_SIZE, teacher_rows
from transformers import LlamaForCausalLM

from tutelage.cache import FinalHiddenColumn, TopKColumn, verify_cache
from tutelage.errors import DiskError
from tutelage.store import crash
from tutelage.teacher import TeachReport, teach

ROWS = teacher_rows(12)
# every point of the head's and of a shard's commit, in order; the test below proves the list complete
COMMIT = (
    "before_fsync",
    "before_manifest",
    "manifest.before_write",
    "manifest.before_fsync",
    "manifest.before_rename",
    "manifest.after_rename",
    "before_rename",
    "after_rename",
)
SHARD = ("before_payload", "before_index", *COMMIT)
NUM_SHARD_COMMITS = 4  # two shards in each of two columns
PASSAGES = [f"cache.head.{name}:1" for name in COMMIT] + [
    f"cache.shard.{name}:{count}" for count in range(1, NUM_SHARD_COMMITS + 1) for name in SHARD
]


def run(model: LlamaForCausalLM, root: Path) -> TeachReport:
    columns = [FinalHiddenColumn(32, "fp32"), TopKColumn(8, (1, 2), VOCAB_SIZE)]
    return teach(model, ROWS, columns=columns, root=root, fingerprint=FINGERPRINT, shard_rows=6, token_budget=50)


def run_and_die(model: LlamaForCausalLM, root: Path, passage: str) -> bool:
    """Run in a fork; say whether SIGKILL ended it."""
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)
            os.environ["TUTELAGE_CRASH_POINT"] = passage
            crash._passages.clear()
            run(model, root)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, teacher_model: LlamaForCausalLM) -> dict[str, str]:
    return run(teacher_model, tmp_path_factory.mktemp("undisturbed")).digests


def test_every_crash_point_of_a_teach_stage_is_listed(
    tmp_path: Path, teacher_model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = tmp_path / "trace"
    monkeypatch.setenv("TUTELAGE_CRASH_TRACE", str(trace))
    run(teacher_model, tmp_path)
    passed: Counter[str] = Counter()
    found = []
    for name in trace.read_text().splitlines():
        passed[name] += 1
        found.append(f"{name}:{passed[name]}")
    assert sorted(found) == sorted(PASSAGES)


@pytest.mark.parametrize("passage", PASSAGES)
def test_killed_at_a_point_the_next_run_ends_with_the_same_digest(
    tmp_path: Path, teacher_model: LlamaForCausalLM, undisturbed: dict[str, str], passage: str
) -> None:
    assert run_and_die(teacher_model, tmp_path, passage)
    report = run(teacher_model, tmp_path)
    assert report.digests == undisturbed
    assert report.repaired == ()
    assert verify_cache(tmp_path, FINGERPRINT) == []
    assert not list(tmp_path.rglob("*.tmp.*"))
    done = int(passage.rpartition(":")[2]) - 1 if "shard" in passage else 0
    assert report.computed <= 12 - 6 * (done // 2), "a kill lost more than one shard"


def test_killed_again_and_again_the_cache_is_finished(
    tmp_path: Path, teacher_model: LlamaForCausalLM, undisturbed: dict[str, str]
) -> None:
    for passage in ("cache.shard.before_manifest:1", "cache.shard.after_rename:1", "cache.shard.before_rename:2"):
        assert run_and_die(teacher_model, tmp_path, passage)
    assert run(teacher_model, tmp_path).digests == undisturbed


@pytest.mark.parametrize("passage", PASSAGES)
def test_a_full_disk_is_exit_4_and_the_next_run_completes(
    tmp_path: Path,
    teacher_model: LlamaForCausalLM,
    undisturbed: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    passage: str,
) -> None:
    monkeypatch.setattr(crash, "_passages", {})
    monkeypatch.setenv("TUTELAGE_CRASH_POINT", passage)
    monkeypatch.setenv("TUTELAGE_CRASH_ACTION", "enospc")
    with pytest.raises(DiskError) as caught:
        run(teacher_model, tmp_path)
    assert caught.value.exit_code == 4
    assert verify_cache(tmp_path, FINGERPRINT) == []
    assert not list(tmp_path.rglob("*.tmp.*"))
    monkeypatch.delenv("TUTELAGE_CRASH_POINT")
    assert run(teacher_model, tmp_path).digests == undisturbed
