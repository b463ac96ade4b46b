"""A finished teach stage whose shards went away is not finished."""

import json
import shutil
from pathlib import Path

import pytest
from tiny_experiment import recipe_with, run_tiny, write_experiment

from tutelage.store import read_manifest


def column_folders(root: Path, kind: str) -> list[Path]:
    teacher = next(path for path in (root.parent / "cache").iterdir() if path.is_dir())
    return [path for path in teacher.iterdir() if path.name.startswith(kind)]


@pytest.mark.parametrize("lost", ["a shard", "a column", "the head", "everything"])
def test_what_the_cache_lost_is_taught_again_and_nothing_else_changes(lost: str, tmp_path: Path) -> None:
    recipe = write_experiment(tmp_path)
    done = run_tiny(recipe, "seeds.report=[1]", until="teach")
    before = read_manifest(done.at("teach/sentiment"))
    assert before is not None
    names = [tmp_path / "runs" / "cache" / name for name in before.fields["shards"]]
    assert all(read_manifest(path) is not None for path in names)
    column = column_folders(done.root, "final_hidden")[0]
    shard = next(path for path in names if path.parent == column)
    head = next(path for path in names if path.name == "head")
    gone = {"a shard": shard, "a column": column, "the head": head, "everything": column.parent}[lost]
    shutil.rmtree(gone)
    finished = run_tiny(recipe, "seeds.report=[1]", until="train")
    after = read_manifest(done.at("teach/sentiment"))
    assert after is not None
    assert after.content_digest == before.content_digest
    assert after.fields == before.fields
    assert all(read_manifest(path) is not None for path in names)
    events = [json.loads(line) for line in (finished.root / "audit.jsonl").read_text().splitlines()]
    assert sum(event["event"] == "end" and event["stage"] == "teach" for event in events) == 2


def test_a_signal_in_an_earlier_layout_is_taught_again_when_a_run_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signals = "signals: [{kind: sampled, draws: 12}]"
    methods = "  KD1: {kind: logit, signal: sampled, temperature: 1, alpha: 0.3}\n"
    recipe = write_experiment(tmp_path, recipe=recipe_with(methods, signals))
    with monkeypatch.context() as patch:
        patch.setattr("tutelage.cache.sampled.LAYOUT", 1)
        patch.setattr("tutelage.cache.columns.LAYOUT", 1)
        patch.setattr("tutelage.cache.SampledColumn.name", property(lambda column: f"sampled-n{column.num_draws}"))
        done = run_tiny(recipe, "seeds.report=[1]", until="train")
    (old,) = column_folders(done.root, "sampled")
    finished = run_tiny(recipe, "seeds.report=[1]", until="train")  # what was trained stays, and reads nothing
    assert old.is_dir()
    assert not any("made again" in line for line in finished.lines)
    finished = run_tiny(recipe, "seeds.report=[1]", "train.learning_rate=2e-3", until="train")
    assert any("of an earlier layout, are made again" in line for line in finished.lines)
    new = [path for path in column_folders(done.root, "sampled") if any(path.iterdir())]
    assert [path.name for path in new] == ["sampled-n12-h0-v30-t1-s0-b0-z"]
    again = run_tiny(recipe, "seeds.report=[1]", "train.learning_rate=2e-3", until="train")
    assert not any("made again" in line for line in again.lines)


def test_a_whole_cache_is_not_taught_again(tmp_path: Path) -> None:
    recipe = write_experiment(tmp_path)
    run_tiny(recipe, "seeds.report=[1]", until="teach")
    done = run_tiny(recipe, "seeds.report=[1]", until="teach")
    events = [json.loads(line) for line in (done.root / "audit.jsonl").read_text().splitlines()]
    assert sum(event["event"] == "end" and event["stage"] == "teach" for event in events) == 1
