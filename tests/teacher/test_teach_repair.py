"""Whatever happened to a shard, the next run makes that shard anew, and touches no other (RELIABILITY R4)."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny_teacher import FINGERPRINT
from transformers import LlamaForCausalLM
from whole_teach import EVERY_COLUMN, digests, fill, what_is_wrong

from tutelage.cache import verify_cache
from tutelage.cache.layout import PAYLOAD, shard_folders, teacher_folder
from tutelage.cache.repair import delete_shards
from tutelage.store import MANIFEST

Damage = Callable[[Path, np.random.Generator], list[Path]]  # to a shard: the folders that are then to be made anew


def any_file(folder: Path, generator: np.random.Generator) -> Path:
    paths = sorted(folder.iterdir())
    return paths[int(generator.integers(len(paths)))]


def flip_a_bit(folder: Path, generator: np.random.Generator) -> list[Path]:
    path = any_file(folder, generator)
    content = bytearray(path.read_bytes())
    content[int(generator.integers(len(content)))] ^= 1 << int(generator.integers(8))
    path.write_bytes(content)
    return [folder]


def cut_a_file(folder: Path, generator: np.random.Generator) -> list[Path]:
    path = any_file(folder, generator)
    path.write_bytes(path.read_bytes()[: int(generator.integers(path.stat().st_size))])
    return [folder]


def lose_the_manifest(folder: Path, generator: np.random.Generator) -> list[Path]:
    (folder / MANIFEST).unlink()
    return [folder]


def drop(folder: Path, generator: np.random.Generator) -> list[Path]:
    shutil.rmtree(folder)
    return [folder]


def duplicate(folder: Path, generator: np.random.Generator) -> list[Path]:
    shutil.copytree(folder, folder.with_name("d" * 32))
    return []


def swap(folder: Path, generator: np.random.Generator) -> list[Path]:
    (other,) = set(shard_folders(folder.parent)) - {folder}
    aside = folder.with_name("aside")
    folder.rename(aside)
    other.rename(folder)
    aside.rename(other)
    return [folder, other]


def put_back_an_old_file(folder: Path, generator: np.random.Generator) -> list[Path]:
    """The other shard's file stands for one of a different day."""
    (other,) = set(shard_folders(folder.parent)) - {folder}
    shutil.copyfile(other / PAYLOAD, folder / PAYLOAD)
    return [folder]


SHARD_DAMAGES: tuple[Damage, ...] = (
    flip_a_bit,
    cut_a_file,
    lose_the_manifest,
    drop,
    duplicate,
    swap,
    put_back_an_old_file,
)
HEAD_DAMAGES: tuple[Damage, ...] = (flip_a_bit, cut_a_file, lose_the_manifest, drop)
HEAD = "head"
PLACES = (HEAD, *(column.name for column in EVERY_COLUMN))
CASES: list[tuple[str, Damage]] = [
    (place, damage) for place in PLACES for damage in (HEAD_DAMAGES if place == HEAD else SHARD_DAMAGES)
]
EVERY_DAY = [CASES[number] for number in range(0, len(CASES), 6)]  # 6 and 7 share no divisor: other damage each time


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, teacher_model: LlamaForCausalLM) -> Path:
    root = tmp_path_factory.mktemp("undisturbed")
    fill(teacher_model, root)
    return root


def stamps(root: Path) -> dict[Path, tuple[int, int, bytes]]:
    """Inode, time and content of every stored file; locks are left out."""
    return {
        path: (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes())
        for folder in teacher_folder(root, FINGERPRINT).iterdir()
        if folder.name[0] != "."
        for path in folder.rglob("*")
        if path.is_file()
    }


def check_repair(
    model: LlamaForCausalLM, undisturbed: Path, root: Path, place: str, damage: Damage, *, delete_first: bool
) -> None:
    shutil.copytree(undisturbed, root)
    generator = np.random.default_rng(CASES.index((place, damage)))
    folder = teacher_folder(root, FINGERPRINT) / place
    before = stamps(root)
    made_anew = damage(folder if place == HEAD else shard_folders(folder)[0], generator)
    assert damage is drop or verify_cache(root, FINGERPRINT) != []
    if delete_first:
        delete_shards(root, FINGERPRINT, verify_cache(root, FINGERPRINT))
        assert verify_cache(root, FINGERPRINT) == []
    fill(model, root)
    assert what_is_wrong(root, digests(undisturbed)) is None
    after = stamps(root)
    assert after.keys() == before.keys()
    touched = {path for path in before if after[path] != before[path]}
    assert touched == {path for path in before if path.parent in made_anew}


@pytest.mark.parametrize(
    ("place", "damage"),
    [pytest.param(*case, marks=[] if case in EVERY_DAY else pytest.mark.slow) for case in CASES],
    ids=lambda value: str(getattr(value, "__name__", value)),
)
@pytest.mark.parametrize("delete_first", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["teach", "repair"])
def test_only_what_was_damaged_is_made_anew(
    teacher_model: LlamaForCausalLM,
    undisturbed: Path,
    memory_path: Path,
    place: str,
    damage: Damage,
    delete_first: bool,
) -> None:
    check_repair(teacher_model, undisturbed, memory_path / "cache", place, damage, delete_first=delete_first)


def test_after_verify_and_repair_only_what_was_damaged_is_made_anew(
    teacher_model: LlamaForCausalLM, undisturbed: Path, memory_path: Path
) -> None:
    for place in (HEAD, EVERY_COLUMN[-1].name):
        check_repair(teacher_model, undisturbed, memory_path / place, place, flip_a_bit, delete_first=True)
