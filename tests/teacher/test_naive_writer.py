"""The control for the kills of a teach stage: a naive writer must fail where ours does not (RELIABILITY R1).

It writes a shard's files into the final folder, one after the other, and takes a folder that exists for a finished one.
What it writes are the very bytes that a real run committed, so the two ways of writing are all that differs.
"""

import shutil
from pathlib import Path

import pytest
from transformers import LlamaForCausalLM
from whole_teach import EVERY_COLUMN, NUM_SHARDS, digests, fill, killed_at, passages_of, some_of, what_is_wrong

from tutelage.cache.layout import INDEX, PAYLOAD
from tutelage.errors import IntegrityError
from tutelage.store import MANIFEST, crash_point

Finished = dict[Path, dict[str, bytes]]  # folder below the root -> file name -> content


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, teacher_model: LlamaForCausalLM) -> Path:
    root = tmp_path_factory.mktemp("undisturbed")
    fill(teacher_model, root)
    return root


@pytest.fixture(scope="module")
def finished(undisturbed: Path) -> Finished:
    folders = sorted(path.parent for path in undisturbed.rglob(MANIFEST))
    return {folder.relative_to(undisturbed): files_of(folder) for folder in folders}


def files_of(folder: Path) -> dict[str, bytes]:
    """Read a folder's files, in the order in which the real writer makes them: the manifest last."""
    order = (PAYLOAD, INDEX)
    names = sorted((path.name for path in folder.iterdir()), key=lambda name: (name == MANIFEST, name not in order))
    return {name: (folder / name).read_bytes() for name in names}


def first_shards(finished: Finished, count: int) -> Finished:
    """Keep ``count`` shards of every column, and the head."""
    columns: dict[Path, list[Path]] = {}
    for place in finished:
        columns.setdefault(place.parent, []).append(place)
    return {place: finished[place] for places in columns.values() for place in places[:count]}


def write_naively(root: Path, finished: Finished) -> None:
    """Fill a cache as a script would that never met a kill."""
    for place, files in finished.items():
        if (root / place).exists():
            continue
        (root / place).mkdir(parents=True)
        crash_point("naive.made")
        for name, content in files.items():
            write_in_steps(root / place / name, content)


def write_in_steps(path: Path, content: bytes) -> None:
    """Write as any library does: open, some bytes, the other bytes."""
    with path.open("wb") as stream:
        crash_point("naive.opened")
        stream.write(content[: len(content) // 2])
        stream.flush()
        crash_point("naive.mid_write")
        stream.write(content[len(content) // 2 :])
    crash_point("naive.written")


def verdict(root: Path, expected: dict[str, str]) -> str | None:
    try:
        return what_is_wrong(root, expected)
    except IntegrityError as error:
        return str(error)


def test_the_naive_writer_ends_with_the_same_cache_when_nobody_kills_it(
    tmp_path: Path, undisturbed: Path, finished: Finished
) -> None:
    assert len(finished) == NUM_SHARDS * len(EVERY_COLUMN) + 1  # the head
    write_naively(tmp_path, finished)
    write_naively(tmp_path, finished)
    assert what_is_wrong(tmp_path, digests(undisturbed)) is None


@pytest.mark.parametrize("num_shards", [1, pytest.param(NUM_SHARDS, marks=pytest.mark.slow)])
def test_the_naive_writer_fails_at_nine_of_ten_points(memory_path: Path, finished: Finished, num_shards: int) -> None:
    finished = first_shards(finished, num_shards)
    write_naively(memory_path / "whole", finished)
    expected = digests(memory_path / "whole")
    passages = passages_of(lambda: write_naively(memory_path / "trace", finished), memory_path / "names")
    assert len(passages) == len(finished) * 10  # the folder, and three moments of each of three files
    survived = []
    for passage in passages:
        root = memory_path / "killed"
        assert killed_at(passage, lambda root=root: write_naively(root, finished)), passage
        write_naively(root, finished)
        if verdict(root, expected) is None:
            survived.append(passage)
        shutil.rmtree(root)
    num_failed = len(passages) - len(survived)
    assert 10 * num_failed >= 9 * len(passages), survived
    # it survives only where a folder is complete and the next one not begun
    assert len(survived) == len(finished)
    assert {passage.rpartition(":")[0] for passage in survived} == {"naive.written"}


def test_what_the_naive_writer_leaves_is_made_good_by_ours(
    memory_path: Path, teacher_model: LlamaForCausalLM, undisturbed: Path, finished: Finished
) -> None:
    expected = digests(undisturbed)
    passages = passages_of(lambda: write_naively(memory_path / "trace", finished), memory_path / "names")
    for passage in some_of(passages, 4, seed=3):
        root = memory_path / "killed"
        assert killed_at(passage, lambda root=root: write_naively(root, finished)), passage
        fill(teacher_model, root)
        assert what_is_wrong(root, expected) is None, passage
        shutil.rmtree(root)
