"""Flipped bits and cut files of a workspace: found and made again, or exit 3; never a result that differs.

One experiment is damaged in one place at a time, run to its end and reported. What comes out must have the content of
the undamaged one, run by run, whatever was damaged; the only other way out is an integrity error. A checkpoint of a
finished run is read by neither command: `tutelage verify` finds it.
"""

import json
import random
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tiny_experiment import recipe_with, run_tiny, write_experiment

from tutelage.errors import TutelageError
from tutelage.experiment.verification import verify_workspace
from tutelage.store import read_manifest

METHODS = "  B0: {kind: baseline}\n  KD1: {kind: logit, temperature: 2, alpha: 0.3}\n  PSEUDO: {kind: pseudo}\n"
SIGNALS = "signals: [{kind: final_hidden}]"
ONE_SEED = "seeds.report=[1]"
NOT_READ = ("audit.jsonl", ".lock", "frontier.json")


@dataclass(frozen=True)
class Reference:
    """The undamaged experiment: half-finished, finished, and what it says."""

    recipe: Path
    half: Path
    whole: Path
    digests: dict[str, str]
    table: str


def said(root: Path) -> tuple[dict[str, str], str]:
    manifests = {path.parent: read_manifest(path.parent) for path in root.glob("*/run.json")}
    digests = {
        json.loads((folder / "run.json").read_text())["run_id"]: manifest.content_digest
        for folder, manifest in manifests.items()
        if manifest is not None
    }
    return digests, (root / "report" / "tables" / "main.csv").read_text()


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("damage")
    recipe = write_experiment(folder, recipe=recipe_with(METHODS, SIGNALS))
    run_tiny(recipe, ONE_SEED, until="shrink")
    shutil.copytree(folder / "runs", folder / "half")
    done = run_tiny(recipe, ONE_SEED, report=True)
    shutil.copytree(folder / "runs", folder / "whole")
    return Reference(recipe, folder / "half", folder / "whole", *said(done.root))


def damaged_file(rng: random.Random, runs: Path) -> Path:
    """Choose a kind of file first, so that rare kinds are not drowned by shards."""
    files = [
        path for path in sorted(runs.rglob("*")) if path.is_file() and path.stat().st_size and path.name not in NOT_READ
    ]
    kinds = Counter(kind_of(path) for path in files)
    kind = rng.choice(sorted(kinds))
    return rng.choice([path for path in files if kind_of(path) == kind])


def kind_of(path: Path) -> str:
    return f"{path.parent.name.partition('_')[0].partition('.')[0][:8]}/{path.name}"


def damage(rng: random.Random, path: Path, *, cut: bool) -> str:
    content = bytearray(path.read_bytes())
    if cut:
        path.write_bytes(content[: rng.randrange(len(content))])
        return f"{path} cut"
    place, bit = rng.randrange(len(content)), rng.randrange(8)
    content[place] ^= 1 << bit
    path.write_bytes(content)
    return f"{path} byte {place} bit {bit}"


def outcome(reference: Reference, *, seed: int, half: bool, cut: bool) -> str:
    """Damage a fresh copy in one place, run and report; say how it ended.

    Raises:
        AssertionError: If another result came out, or an error that is no integrity error.
    """
    rng = random.Random(seed)
    runs = reference.recipe.parent / "runs"
    shutil.rmtree(runs)
    shutil.copytree(reference.half if half else reference.whole, runs)
    path = damaged_file(rng, runs)
    what = damage(rng, path, cut=cut)
    done = error = None
    try:
        done = run_tiny(reference.recipe, ONE_SEED, report=True)
    except TutelageError as raised:
        error = raised
    if done is None:
        assert error is not None
        assert error.exit_code == 3, f"{what}: {error!r}"
        assert path.name in str(error) or path.parent.name in str(error), f"{what}: {error}"
        return "exit 3"
    assert said(done.root) == (reference.digests, reference.table), what
    whole = not verify_workspace(runs, show=lambda line: None).damaged
    assert whole or is_not_read(path), f"{what}: is still damaged"
    return "made again" if whole else "not read"


def is_not_read(path: Path) -> bool:
    """Checkpoints of finished runs, and the cache once every run that reads it is finished."""
    return (
        "checkpoint" in path.parts
        or "cache" in path.parts
        or path.parts[-3:-2] == ("models",)
        or "models" in path.parts
    )


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_file_changes_no_result(reference, seed):
    assert outcome(reference, seed=seed, half=seed % 2 == 0, cut=seed % 3 == 0)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_sixteen_damages_change_no_result(reference):
    ends = Counter(outcome(reference, seed=100 + n, half=n % 2 == 0, cut=n % 5 == 0) for n in range(16))
    assert ends["made again"] > 4, ends


@pytest.mark.engine
@pytest.mark.timeout(7200)
def test_two_hundred_flips_and_fifty_cuts_change_no_result(reference, capsys):
    ends = Counter(
        (outcome(reference, seed=1000 + n, half=n % 2 == 0, cut=n >= 200), "cut" if n >= 200 else "flip")
        for n in range(250)
    )
    with capsys.disabled():
        print(dict(ends))
    assert sum(ends.values()) == 250
