"""Killed at any point, or out of disk at any point, the next run ends with the same cache (RELIABILITY R1, R5)."""

import importlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_teacher import FINGERPRINT, VOCAB_SIZE
from transformers import LlamaForCausalLM
from whole_teach import (
    ANSWERS,
    EVERY_COLUMN,
    FORWARD_COLUMNS,
    NUM_SHARDS,
    ROWS,
    SHARD_ROWS,
    TOKEN_BUDGET,
    digests,
    fill,
    killed_at,
    passages_of,
    some_of,
    what_is_wrong,
)

from small_disk import mounted_tmpfs
from tutelage.cache import FinalHiddenColumn, TopKColumn, cache_digest, verify_cache
from tutelage.cache.layout import INDEX, PAYLOAD, column_folder, shard_folders
from tutelage.errors import DiskError
from tutelage.store import MANIFEST, crash
from tutelage.store.disk import FREE_SPACE_FACTOR
from tutelage.teacher import teach

SHARES = 8  # of all passages, so that one failure does not hide the others
MIB = 2**20


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, teacher_model: LlamaForCausalLM) -> dict[str, str]:
    root = tmp_path_factory.mktemp("undisturbed")
    fill(teacher_model, root)
    return digests(root)


@pytest.fixture(scope="module")
def passages(tmp_path_factory: pytest.TempPathFactory, teacher_model: LlamaForCausalLM) -> list[str]:
    folder = tmp_path_factory.mktemp("trace")
    return passages_of(lambda: fill(teacher_model, folder), folder / "trace")


def check_kills(model: LlamaForCausalLM, folder: Path, undisturbed: dict[str, str], passages: list[str]) -> None:
    root = folder / "killed"
    for passage in passages:
        assert killed_at(passage, lambda: fill(model, root)), passage
        _, repaired = fill(model, root)
        assert what_is_wrong(root, undisturbed) is None, passage
        assert repaired == [], passage
        shutil.rmtree(root)


def check_full_disk(model: LlamaForCausalLM, folder: Path, undisturbed: dict[str, str], passages: list[str]) -> None:
    root = folder / "full"
    for passage in passages:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(crash, "_passages", {})
            patch.setenv("TUTELAGE_CRASH_POINT", passage)
            patch.setenv("TUTELAGE_CRASH_ACTION", "enospc")
            with pytest.raises(DiskError) as caught:
                fill(model, root)
        assert caught.value.exit_code == 4
        check_nothing_half_visible(root)
        fill(model, root)
        assert what_is_wrong(root, undisturbed) is None, passage
        shutil.rmtree(root)


def check_nothing_half_visible(root: Path) -> None:
    assert verify_cache(root, FINGERPRINT) == []
    assert not list(root.rglob("*.tmp.*"))
    for column in EVERY_COLUMN:
        for folder in shard_folders(column_folder(root, FINGERPRINT, column)):
            assert {path.name for path in folder.iterdir()} == {INDEX, PAYLOAD, MANIFEST}


def test_every_column_passes_every_point_of_a_commit_for_every_shard(passages: list[str]) -> None:
    names = [passage.rpartition(":")[0] for passage in passages]
    for own in ("before_payload", "before_index", "manifest.mid_write", "before_rename", "after_rename"):
        assert names.count(f"cache.shard.{own}") == NUM_SHARDS * len(EVERY_COLUMN)
    assert names.count("cache.shard.after_file_fsync") == 2 * NUM_SHARDS * len(EVERY_COLUMN)
    assert names.count("cache.head.before_rename") == 1


def test_killed_at_some_points_the_next_run_ends_with_the_same_digests(
    memory_path: Path, teacher_model: LlamaForCausalLM, undisturbed: dict[str, str], passages: list[str]
) -> None:
    check_kills(teacher_model, memory_path, undisturbed, some_of(passages, 10, seed=1))


@pytest.mark.slow
@pytest.mark.parametrize("share", range(SHARES))
def test_killed_at_every_passage_of_every_point_the_next_run_ends_with_the_same_digests(
    memory_path: Path, teacher_model: LlamaForCausalLM, undisturbed: dict[str, str], passages: list[str], share: int
) -> None:
    check_kills(teacher_model, memory_path, undisturbed, passages[share::SHARES])


def test_killed_again_and_again_the_cache_is_finished(
    memory_path: Path, teacher_model: LlamaForCausalLM, undisturbed: dict[str, str]
) -> None:
    later = f"cache.shard.before_rename:{len(EVERY_COLUMN)}"
    for passage in ("cache.shard.before_manifest:1", "cache.shard.after_rename:1", later):
        assert killed_at(passage, lambda: fill(teacher_model, memory_path)), passage
    fill(teacher_model, memory_path)
    assert what_is_wrong(memory_path, undisturbed) is None


def test_a_kill_between_two_columns_changes_no_batch_shape(memory_path: Path, teacher_model: LlamaForCausalLM) -> None:
    columns = [FinalHiddenColumn(32, "fp32"), TopKColumn(8, (1, 2), VOCAB_SIZE)]

    def run(root: Path) -> None:
        teach(
            teacher_model,
            ROWS,
            columns=columns,
            root=root,
            fingerprint=FINGERPRINT,
            shard_rows=SHARD_ROWS,
            token_budget=TOKEN_BUDGET,
        )

    def with_some_covered(root: Path) -> None:
        covered = sorted(ROWS, key=lambda row: row.key)[:3]
        teach(teacher_model, covered, columns=columns[1:], root=root, fingerprint=FINGERPRINT, token_budget=10_000)

    def found(root: Path) -> list[str]:
        return [cache_digest(root, FINGERPRINT, column) for column in columns]

    with_some_covered(memory_path / "whole")
    run(memory_path / "whole")
    with_some_covered(memory_path / "killed")
    # the first column of the first shard is committed with all rows, the second lacks only some
    assert killed_at("cache.shard.before_payload:2", lambda: run(memory_path / "killed"))
    run(memory_path / "killed")
    assert found(memory_path / "killed") == found(memory_path / "whole")


@pytest.mark.parametrize(("shard", "num_computed"), [(0, len(ROWS)), (1, SHARD_ROWS)])
def test_a_kill_loses_at_most_one_finished_shard(
    memory_path: Path, teacher_model: LlamaForCausalLM, shard: int, num_computed: int
) -> None:
    for column in (1, len(FORWARD_COLUMNS)):  # the first and the last one of the shard
        root = memory_path / str(column)
        number = shard * len(FORWARD_COLUMNS) + column
        assert killed_at(f"cache.shard.before_rename:{number}", lambda root=root: fill(teacher_model, root))
        computed, _ = fill(teacher_model, root)
        assert computed == num_computed + len(ROWS)  # all prompts come afterwards


def test_a_full_disk_at_some_points_is_exit_4_and_the_next_run_completes(
    memory_path: Path, teacher_model: LlamaForCausalLM, undisturbed: dict[str, str], passages: list[str]
) -> None:
    check_full_disk(teacher_model, memory_path, undisturbed, some_of(passages, 8, seed=2))


@pytest.mark.slow
@pytest.mark.parametrize("share", range(SHARES))
def test_a_full_disk_at_every_passage_of_every_point_is_exit_4_and_the_next_run_completes(
    memory_path: Path, teacher_model: LlamaForCausalLM, undisturbed: dict[str, str], passages: list[str], share: int
) -> None:
    check_full_disk(teacher_model, memory_path, undisturbed, passages[share::SHARES])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted_tmpfs(tmp_path / "disk", size=str(MIB)) as folder:
        yield folder


@pytest.mark.parametrize("free_kib", [60, 120, 180, 220])
def test_a_disk_that_another_process_fills_is_exit_4_and_the_next_run_completes(
    small_disk: Path,
    teacher_model: LlamaForCausalLM,
    undisturbed: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    free_kib: int,
) -> None:
    for module in ("teach", "sequences"):  # the space was there when the run began
        stage = importlib.import_module(f"tutelage.teacher.{module}")
        monkeypatch.setattr(stage, "require_free_space", lambda path, needed_bytes: None)
    root, ballast = small_disk / "cache", small_disk / "ballast"
    ballast.write_bytes(bytes(MIB - free_kib * 1024))
    for _attempt in range(2):
        with pytest.raises(DiskError, match="No space left") as caught:
            fill(teacher_model, root)
        assert caught.value.exit_code == 4
        check_nothing_half_visible(root)
    ballast.unlink()
    fill(teacher_model, root)
    assert what_is_wrong(root, undisturbed) is None


def test_a_really_small_disk_is_refused_before_any_work(small_disk: Path, teacher_model: LlamaForCausalLM) -> None:
    (small_disk / "ballast").write_bytes(bytes(MIB - 40 * 1024))
    with pytest.raises(DiskError, match="are free") as caught:
        fill(teacher_model, small_disk / "cache", progress=lambda *_: pytest.fail("the teacher was run"))
    assert caught.value.exit_code == 4
    assert not list(small_disk.rglob(PAYLOAD))


def forecasts(model: LlamaForCausalLM, root: Path) -> tuple[int, int]:
    """Fill a cache; the bytes that were said to be needed for the forward columns and for the answers."""
    needed: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        for module in ("teach", "sequences"):
            stage = importlib.import_module(f"tutelage.teacher.{module}")
            patch.setattr(stage, "require_free_space", lambda path, needed_bytes: needed.append(needed_bytes))
        fill(model, root)
    taught, answered = needed
    return taught, answered


def test_less_than_a_tenth_more_than_the_forecast_is_refused_and_that_much_is_enough(
    memory_path: Path, teacher_model: LlamaForCausalLM, undisturbed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_with_free(num_bytes: float) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=num_bytes))
        fill(teacher_model, memory_path)

    assert FREE_SPACE_FACTOR == 1.1
    smallest, smallest_for_answers = (FREE_SPACE_FACTOR * num for num in forecasts(teacher_model, memory_path))
    shutil.rmtree(column_folder(memory_path, FINGERPRINT, ANSWERS))
    with pytest.raises(DiskError, match="are free"):
        run_with_free(smallest_for_answers - 1)
    run_with_free(smallest_for_answers)  # the rest is stored, and needs nothing
    shutil.rmtree(memory_path / FINGERPRINT)
    with pytest.raises(DiskError, match="are free"):
        run_with_free(smallest - 1)
    assert not list(memory_path.rglob(PAYLOAD))
    run_with_free(max(smallest, smallest_for_answers))
    assert what_is_wrong(memory_path, undisturbed) is None


def test_the_forecast_is_not_below_what_is_written(memory_path: Path, teacher_model: LlamaForCausalLM) -> None:
    taught, answered = forecasts(teacher_model, memory_path)
    answers = column_folder(memory_path, FINGERPRINT, ANSWERS)
    sizes = {path: path.stat().st_size for path in memory_path.rglob("*") if path.is_file() and path.suffix}
    written = sum(size for path, size in sizes.items() if path.is_relative_to(answers))
    assert written <= answered
    assert sum(sizes.values()) - written <= taught
