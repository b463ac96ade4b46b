"""No bit of anything stored changes unseen: not by a check, not by a read, and not the second time (RELIABILITY R4).

Every file of every kind of shard and of the copied head is covered whole: sizes, the SHA-256 of `index.npy`,
`payload.bin` and the head's files, a hash per row, and the exact text of `MANIFEST.json`.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from random_signals import TEACHER, num_positions, random_rows, random_tensors

from tutelage.cache import (
    COLUMNS,
    CacheReader,
    ClassScoresColumn,
    Column,
    FinalHiddenColumn,
    HiddenColumn,
    PooledColumn,
    SampledColumn,
    ShardWriter,
    TopKColumn,
    read_head,
    verify_cache,
    write_head,
)
from tutelage.cache.column import TensorDict
from tutelage.cache.layout import INDEX, PAYLOAD, column_folder, head_folder, shard_folders
from tutelage.cache.sequences import FINISHES, Answer, SequencesColumn, pack_answers
from tutelage.cache.teacher_head import SETTINGS, TENSORS
from tutelage.errors import CacheError
from tutelage.store import MANIFEST
from tutelage.types import OutputHead, TeacherRow

VOCAB_SIZE = 97
KINDS: dict[str, Column] = {
    "final_hidden": FinalHiddenColumn(8, "fp32"),
    "topk": TopKColumn(5, (1, 2), VOCAB_SIZE),
    "topk packed": TopKColumn(5, (1, 2), VOCAB_SIZE, "q8"),
    "sampled": SampledColumn(6, 2.0, 0, VOCAB_SIZE, head_k=2),
    "class_scores": ClassScoresColumn((3, 4)),
    "hidden int8": HiddenColumn(1, 8, "int8", 0.5),
    **({"hidden fp8": HiddenColumn(2, 8, "fp8")} if hasattr(torch, "float8_e4m3fn") else {}),
    "pooled": PooledColumn(2, 8, "fp32"),
    "sequences": SequencesColumn(VOCAB_SIZE, 6, num_samples=2),
}
assert {column.kind for column in KINDS.values()} == set(COLUMNS), "a new kind of column belongs in here"
SHARD_FILES, HEAD_FILES = (INDEX, PAYLOAD, MANIFEST), (TENSORS, SETTINGS, MANIFEST)
FILES = [*((kind, name) for kind in KINDS for name in SHARD_FILES), *(("head", name) for name in HEAD_FILES)]
NUM_SHARDS, SHARD_ROWS = 3, 4
OTHER_TEACHER = "fedcba9876543210"
ATTEMPTS = 2  # "also on the second run": nothing is believed because it was looked at before


@dataclass(frozen=True)
class Stored:
    """A cache with one kind of artifact, and a way to read all of it."""

    root: Path
    folders: list[Path]
    read: Callable[[], object]

    def check_detected(self, *expected: Path) -> None:
        """Every check and every read sees the damage, each time."""
        for _attempt in range(ATTEMPTS):
            assert verify_cache(self.root, TEACHER) == sorted(expected)
            with pytest.raises(CacheError):
                self.read()

    def check_intact(self) -> None:
        assert verify_cache(self.root, TEACHER) == []
        self.read()


def tensors_of(column: Column, count: int, *, seed: int) -> TensorDict:
    generator = torch.Generator().manual_seed(seed)
    if isinstance(column, HiddenColumn):
        return {"hidden_NE": torch.randn(count, column.width, generator=generator)}
    if isinstance(column, PooledColumn):
        return {"pooled_NE": torch.randn(count, column.width, generator=generator)}
    if isinstance(column, SequencesColumn):
        return pack_answers([[answer(column, seed + row, sample) for sample in range(2)] for row in range(count)])
    return random_tensors(column, count, seed=seed)


def answer(column: SequencesColumn, *seeds: int) -> Answer:
    generator = np.random.default_rng(seeds)
    length = int(generator.integers(1, column.max_new_tokens + 1))
    ids = generator.integers(0, VOCAB_SIZE, size=length).astype(np.int32)
    return Answer(ids, " ".join(map(str, ids)), FINISHES[length == column.max_new_tokens])


def store_column(
    root: Path, column: Column, *, teacher: str = TEACHER, seed: int = 0, num_rows: int = NUM_SHARDS * SHARD_ROWS
) -> Stored:
    rows = random_rows(num_rows, vocab_size=VOCAB_SIZE)
    rows = [TeacherRow(row.ids, column.positions_of(row), row.key) for row in rows]
    writer = ShardWriter(root, teacher, column, provenance={"teacher": "tiny", "licence": "MIT"})
    for start in range(0, len(rows), SHARD_ROWS):
        part = rows[start : start + SHARD_ROWS]
        writer.write_shard(part, tensors_of(column, num_positions(part), seed=seed + start))
    keys, positions = [row.key for row in rows], [row.positions for row in rows]
    return Stored(
        root,
        shard_folders(column_folder(root, teacher, column)),
        lambda: CacheReader(root, teacher, column).read(keys, positions),
    )


def store_head(root: Path, *, vocab_size: int = VOCAB_SIZE) -> Stored:
    weight_VD = torch.randn(vocab_size, 8, generator=torch.Generator().manual_seed(0))
    write_head(root, TEACHER, OutputHead(weight_VD, torch.zeros(vocab_size), 0.5, 30.0))
    return Stored(root, [head_folder(root, TEACHER)], lambda: read_head(root, TEACHER))


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Stored]:
    """Make the cache of a kind once; a test puts back what it damages."""
    made: dict[str, Stored] = {}

    def get(kind: str) -> Stored:
        if kind not in made:
            root = tmp_path_factory.mktemp(kind.replace(" ", "-"))
            made[kind] = store_head(root) if kind == "head" else store_column(root, KINDS[kind])
        return made[kind]

    return get


@contextmanager
def changed(path: Path, content: bytes) -> Iterator[None]:
    """Overwrite a file in place, for a while."""
    original = path.read_bytes()
    assert content != original
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(original)


def with_bit_flipped(content: bytes, bit: int) -> bytes:
    flipped = bytearray(content)
    flipped[bit // 8] ^= 1 << bit % 8
    return bytes(flipped)


@pytest.mark.parametrize(
    ("num_flips", "num_cuts"), [(20, 5), pytest.param(300, 50, marks=pytest.mark.slow)], ids=["few", "many"]
)
@pytest.mark.parametrize(("kind", "name"), FILES)
def test_flipped_bits_and_truncations_are_detected_by_every_check_and_every_read(
    stored: Callable[[str], Stored], kind: str, name: str, num_flips: int, num_cuts: int
) -> None:
    cache = stored(kind)
    generator = np.random.default_rng(FILES.index((kind, name)))
    cache.check_intact()
    for number in range(num_flips + num_cuts):
        folder = cache.folders[int(generator.integers(len(cache.folders)))]
        content = (folder / name).read_bytes()
        if number < num_flips:
            damaged = with_bit_flipped(content, int(generator.integers(len(content) * 8)))
        else:
            damaged = content[: int(generator.integers(len(content)))]
        with changed(folder / name, damaged):
            cache.check_detected(folder)
    cache.check_intact()


@pytest.mark.parametrize(
    "kind", ["sampled", *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS if kind != "sampled"), "head"]
)
def test_there_is_no_byte_that_may_change(tmp_path: Path, kind: str) -> None:
    """One flipped bit in every single byte of every file of a small folder."""
    cache = store_head(tmp_path, vocab_size=3) if kind == "head" else store_column(tmp_path, KINDS[kind], num_rows=1)
    (folder,) = cache.folders
    generator = np.random.default_rng(0)
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        for byte in range(len(content)):
            path.write_bytes(with_bit_flipped(content, 8 * byte + int(generator.integers(8))))
            assert verify_cache(tmp_path, TEACHER) == [folder], (path.name, byte)
        path.write_bytes(content)
    cache.check_intact()


@pytest.mark.parametrize(("kind", "name"), FILES)
def test_a_longer_file_is_detected(stored: Callable[[str], Stored], kind: str, name: str) -> None:
    cache = stored(kind)
    path = cache.folders[0] / name
    with changed(path, path.read_bytes() + b"\n"):
        cache.check_detected(cache.folders[0])


@pytest.mark.parametrize(("kind", "name"), FILES)
def test_a_lost_file_is_detected(stored: Callable[[str], Stored], kind: str, name: str) -> None:
    cache = stored(kind)
    path = cache.folders[-1] / name
    content = path.read_bytes()
    path.unlink()
    cache.check_detected(cache.folders[-1])
    path.write_bytes(content)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SHARD_FILES)
def test_files_swapped_between_two_shards_are_detected(stored: Callable[[str], Stored], kind: str, name: str) -> None:
    cache = stored(kind)
    first, second, _ = cache.folders
    contents = (first / name).read_bytes(), (second / name).read_bytes()
    with changed(first / name, contents[1]), changed(second / name, contents[0]):
        cache.check_detected(first, second)


@pytest.fixture(params=KINDS)
def own(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Stored, Column]:
    """A cache that a test may leave damaged."""
    column = KINDS[request.param]
    return store_column(tmp_path / "own", column), column


def test_swapped_shards_are_detected(own: tuple[Stored, Column]) -> None:
    first, second, _ = own[0].folders
    first.rename(first.with_name("aside"))
    second.rename(first)
    first.with_name("aside").rename(second)
    own[0].check_detected(first, second)


def test_a_duplicated_shard_is_detected(own: tuple[Stored, Column]) -> None:
    copy = own[0].folders[0].with_name("d" * 32)
    shutil.copytree(own[0].folders[0], copy)
    own[0].check_detected(copy)


def test_a_dropped_shard_is_a_missing_row_at_every_read(own: tuple[Stored, Column]) -> None:
    """What is left is sound, so no check of files can see it; see what the teach stage makes of it."""
    shutil.rmtree(own[0].folders[1])
    for _attempt in range(ATTEMPTS):
        assert verify_cache(own[0].root, TEACHER) == []
        with pytest.raises(CacheError, match="not row"):
            own[0].read()


def test_a_stale_shard_of_another_teacher_is_detected(own: tuple[Stored, Column], tmp_path: Path) -> None:
    cache, column = own
    other = store_column(tmp_path / "other", column, teacher=OTHER_TEACHER, seed=100)
    place = cache.folders[2]
    shutil.rmtree(place)
    shutil.copytree(other.root / OTHER_TEACHER / column.name / place.name, place)
    cache.check_detected(place)


@pytest.mark.parametrize("name", SHARD_FILES)
def test_a_stale_file_of_an_earlier_shard_of_the_same_rows_is_detected(
    own: tuple[Stored, Column], tmp_path: Path, name: str
) -> None:
    cache, column = own
    older = store_column(tmp_path / "older", column, seed=100)
    place = cache.folders[1]
    stale = (older.root / place.relative_to(cache.root) / name).read_bytes()
    with changed(place / name, stale):
        cache.check_detected(place)
    cache.check_intact()


def test_a_shard_among_those_of_another_column_is_detected(own: tuple[Stored, Column]) -> None:
    cache, column = own
    other = next(each for each in KINDS.values() if each != column)
    stray = column_folder(cache.root, TEACHER, other) / cache.folders[0].name
    shutil.copytree(cache.folders[0], stray)
    for _attempt in range(ATTEMPTS):
        assert verify_cache(cache.root, TEACHER) == [stray]
        with pytest.raises(CacheError, match="folders were moved"):
            CacheReader(cache.root, TEACHER, other)


def test_the_head_of_another_teacher_is_detected_by_every_read(tmp_path: Path) -> None:
    write_head(tmp_path, OTHER_TEACHER, OutputHead(torch.zeros(VOCAB_SIZE, 8)))
    shutil.copytree(head_folder(tmp_path, OTHER_TEACHER), head_folder(tmp_path, TEACHER))
    for _attempt in range(ATTEMPTS):
        with pytest.raises(CacheError, match="folders were moved"):
            read_head(tmp_path, TEACHER)
        assert verify_cache(tmp_path, TEACHER) == [head_folder(tmp_path, TEACHER)]
