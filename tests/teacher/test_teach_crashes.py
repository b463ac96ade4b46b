"""Killed at any point, the next run ends with the same cache.

The killed process is a fork of the test with the teacher already built: a fresh one would spend
its time on imports. It dies by SIGKILL at the armed point, so nothing can tidy up after it.
"""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_teacher import FINGERPRINT, VOCAB_SIZE, teacher_rows
from transformers import LlamaForCausalLM

from tutelage.cache import (
    ClassScoresColumn,
    FinalHiddenColumn,
    HiddenColumn,
    PooledColumn,
    SampledColumn,
    TopKColumn,
    cache_digest,
    verify_cache,
)
from tutelage.errors import DiskError
from tutelage.store import crash
from tutelage.teacher import TeachReport, teach

ROWS = teacher_rows(12)
LATER_COUNTS = range(2, 9)  # 4 shard commits of 2 files each
COLUMNS = [FinalHiddenColumn(32, "fp32"), TopKColumn(8, (1, 2), VOCAB_SIZE)]


def run(model: LlamaForCausalLM, root: Path) -> TeachReport:
    return teach(model, ROWS, columns=COLUMNS, root=root, fingerprint=FINGERPRINT, shard_rows=6, token_budget=50)


def digests(report: TeachReport, root: Path) -> dict[str, str]:
    """Digests of the rows and of the shards that hold them."""
    shards = {f"{column.name} shards": cache_digest(root, FINGERPRINT, column) for column in COLUMNS}
    return report.digests | shards


def run_and_die(
    model: LlamaForCausalLM, root: Path, passage: str, *, run: Callable[[LlamaForCausalLM, Path], object] = run
) -> bool:
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
    root = tmp_path_factory.mktemp("undisturbed")
    return digests(run(teacher_model, root), root)


@pytest.fixture(scope="module")
def passages(tmp_path_factory: pytest.TempPathFactory, teacher_model: LlamaForCausalLM) -> list[str]:
    """Every passage of a crash point in one undisturbed run, as ``NAME:COUNT``."""
    trace = tmp_path_factory.mktemp("trace") / "trace"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUTELAGE_CRASH_TRACE", str(trace))
        run(teacher_model, trace.parent)
    counts: Counter[str] = Counter()
    named = []
    for name in trace.read_text().splitlines():
        counts[name] += 1
        named.append(f"{name}:{counts[name]}")
    return named


def check_kills(model: LlamaForCausalLM, folder: Path, undisturbed: dict[str, str], passages: list[str]) -> None:
    for number, passage in enumerate(passages):
        root = folder / str(number)
        assert run_and_die(model, root, passage), passage
        report = run(model, root)
        assert digests(report, root) == undisturbed, passage
        assert report.repaired == ()
        assert verify_cache(root, FINGERPRINT) == [], passage
        assert not list(root.rglob("*.tmp.*")), passage


def check_full_disk(model: LlamaForCausalLM, folder: Path, undisturbed: dict[str, str], passages: list[str]) -> None:
    for number, passage in enumerate(passages):
        root = folder / str(number)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(crash, "_passages", {})
            patch.setenv("TUTELAGE_CRASH_POINT", passage)
            patch.setenv("TUTELAGE_CRASH_ACTION", "enospc")
            with pytest.raises(DiskError) as caught:
                run(model, root)
        assert caught.value.exit_code == 4
        assert verify_cache(root, FINGERPRINT) == [], passage
        assert not list(root.rglob("*.tmp.*")), passage
        assert digests(run(model, root), root) == undisturbed, passage


def test_a_shards_own_points_and_those_of_its_commit_are_passed(passages: list[str]) -> None:
    names = {passage.rpartition(":")[0] for passage in passages}
    own = {"before_payload", "before_index", "before_manifest", "before_rename", "after_rename"}
    assert {f"cache.shard.{name}" for name in own} <= names
    assert "cache.head.before_rename" in names
    assert {int(passage.rpartition(":")[2]) for passage in passages} == {1, *LATER_COUNTS}
    assert sum("cache.shard.before_payload" in passage for passage in passages) == 4  # 2 shards x 2 columns


def test_killed_at_every_point_the_next_run_ends_with_the_same_digest(
    tmp_path: Path, teacher_model: LlamaForCausalLM, undisturbed: dict[str, str], passages: list[str]
) -> None:
    check_kills(teacher_model, tmp_path, undisturbed, [passage for passage in passages if passage.endswith(":1")])


@pytest.mark.slow
@pytest.mark.parametrize("count", LATER_COUNTS)
def test_killed_at_every_later_passage_the_next_run_ends_with_the_same_digest(
    tmp_path: Path, teacher_model: LlamaForCausalLM, undisturbed: dict[str, str], passages: list[str], count: int
) -> None:
    chosen = [passage for passage in passages if passage.endswith(f":{count}")]
    check_kills(teacher_model, tmp_path, undisturbed, chosen)


def test_a_kill_between_two_columns_changes_no_batch_shape(tmp_path: Path, teacher_model: LlamaForCausalLM) -> None:
    def with_some_covered(root: Path) -> None:
        covered = sorted(ROWS, key=lambda row: row.key)[:3]
        teach(teacher_model, covered, columns=COLUMNS[1:], root=root, fingerprint=FINGERPRINT, token_budget=10_000)

    with_some_covered(tmp_path / "whole")
    expected = digests(run(teacher_model, tmp_path / "whole"), tmp_path / "whole")
    with_some_covered(tmp_path / "killed")
    # the first column of the first shard is committed with all rows, the second lacks only some
    assert run_and_die(teacher_model, tmp_path / "killed", "cache.shard.before_payload:2")
    assert digests(run(teacher_model, tmp_path / "killed"), tmp_path / "killed") == expected


def test_a_kill_among_columns_that_share_one_pass_changes_none_of_them(
    tmp_path: Path, teacher_model: LlamaForCausalLM
) -> None:
    columns = [
        TopKColumn(8, (1, 2), VOCAB_SIZE),
        ClassScoresColumn((3, 4)),
        SampledColumn(6, 2.0, 0, VOCAB_SIZE, head_k=2),
        HiddenColumn(1, 32, "int8", 0.5),
        PooledColumn(2, 32, "fp32"),
    ]

    def digests_after(root: Path, passage: str | None) -> dict[str, str]:
        def fill(model: LlamaForCausalLM, where: Path) -> TeachReport:
            options = {"root": where, "fingerprint": FINGERPRINT, "shard_rows": 12, "token_budget": 50}
            return teach(model, ROWS, columns=columns, **options)

        if passage is not None:
            assert run_and_die(teacher_model, root, passage, run=fill)
        return fill(teacher_model, root).digests

    expected = digests_after(tmp_path / "whole", None)
    for count in (2, 3, 5):  # one, two and four of the five columns are committed
        root = tmp_path / str(count)
        assert digests_after(root, f"cache.shard.before_payload:{count}") == expected, count


@pytest.mark.parametrize(("count", "num_computed"), [(1, 12), (2, 12), (3, 6), (4, 6)])
def test_a_kill_loses_at_most_one_finished_shard(
    tmp_path: Path, teacher_model: LlamaForCausalLM, count: int, num_computed: int
) -> None:
    assert run_and_die(teacher_model, tmp_path, f"cache.shard.before_rename:{count}")
    assert run(teacher_model, tmp_path).computed == num_computed


def test_killed_again_and_again_the_cache_is_finished(
    tmp_path: Path, teacher_model: LlamaForCausalLM, undisturbed: dict[str, str]
) -> None:
    for passage in ("cache.shard.before_manifest:1", "cache.shard.after_rename:1", "cache.shard.before_rename:2"):
        assert run_and_die(teacher_model, tmp_path, passage)
    assert digests(run(teacher_model, tmp_path), tmp_path) == undisturbed


def test_a_full_disk_is_exit_4_and_the_next_run_completes(
    tmp_path: Path, teacher_model: LlamaForCausalLM, undisturbed: dict[str, str], passages: list[str]
) -> None:
    check_full_disk(teacher_model, tmp_path, undisturbed, [passage for passage in passages if passage.endswith(":1")])


@pytest.mark.slow
@pytest.mark.parametrize("count", LATER_COUNTS)
def test_a_full_disk_at_every_later_passage_is_exit_4_and_the_next_run_completes(
    tmp_path: Path, teacher_model: LlamaForCausalLM, undisturbed: dict[str, str], passages: list[str], count: int
) -> None:
    chosen = [passage for passage in passages if passage.endswith(f":{count}")]
    check_full_disk(teacher_model, tmp_path, undisturbed, chosen)
