"""No bit of a shard can change without being noticed, at every read and not only the first."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from random_signals import TEACHER, every_folder, num_positions, random_rows, random_tensors

from tutelage.cache import CacheReader, FinalHiddenColumn, ShardWriter, TopKColumn, cache_digest, verify_cache
from tutelage.cache.column import TensorDict
from tutelage.cache.layout import INDEX, INDEX_DTYPE, PAYLOAD, SHARD_KIND, column_folder, shard_name
from tutelage.cache.shard import open_shard, seal_fields
from tutelage.errors import CacheError, DiskError, NumericsError
from tutelage.store import MANIFEST, new_artifact, read_manifest
from tutelage.types import TeacherRow

Filled = Callable[..., tuple[Path, list[TeacherRow], TensorDict]]


def shard_folders(root: Path) -> list[Path]:
    return sorted(path.parent for path in root.rglob(MANIFEST))


def read_everything(root: Path, column: FinalHiddenColumn, rows: list[TeacherRow]) -> None:
    CacheReader(root, TEACHER, column).read([row.key for row in rows], [row.positions for row in rows])


def flip_bit(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


@pytest.mark.parametrize("name", [PAYLOAD, INDEX])
def test_every_bit_flip_is_detected_twice(filled: Filled, hidden: FinalHiddenColumn, name: str) -> None:
    root, rows, _ = filled()
    generator = np.random.default_rng(1)
    read_everything(root, hidden, rows)
    for _ in range(60):
        path = shard_folders(root)[int(generator.integers(3))] / name
        bit = int(generator.integers(path.stat().st_size * 8))
        flip_bit(path, bit)
        for _attempt in range(2):
            with pytest.raises(CacheError, match=path.parent.name):
                read_everything(root, hidden, rows)
        assert verify_cache(root, TEACHER) == [path.parent]
        flip_bit(path, bit)
    read_everything(root, hidden, rows)
    assert verify_cache(root, TEACHER) == []


def test_a_bad_row_is_refused_by_one_open_reader_every_time(filled: Filled, hidden: FinalHiddenColumn) -> None:
    root, rows, _ = filled(10)
    reader = CacheReader(root, TEACHER, hidden)
    flip_bit(shard_folders(root)[0] / PAYLOAD, 13)
    for _attempt in range(3):
        with pytest.raises(CacheError, match=rows[0].key.hex()):
            reader.read([rows[0].key], [rows[0].positions])
    reader.read([rows[1].key], [rows[1].positions])


def test_manifest_bit_flips_never_change_what_is_read(filled: Filled, hidden: FinalHiddenColumn) -> None:
    root, rows, _ = filled()
    path = shard_folders(root)[1] / MANIFEST
    generator = np.random.default_rng(2)
    expected = CacheReader(root, TEACHER, hidden).read([row.key for row in rows], [row.positions for row in rows])
    harmless = 0
    for _ in range(60):
        bit = int(generator.integers(path.stat().st_size * 8))
        flip_bit(path, bit)
        try:
            found = CacheReader(root, TEACHER, hidden).read([row.key for row in rows], [row.positions for row in rows])
        except CacheError:
            assert verify_cache(root, TEACHER) == [path.parent]
        else:  # white space, or the size that a reader does not need
            harmless += 1
            assert found["hidden_NE"].equal(expected["hidden_NE"])
        flip_bit(path, bit)
    assert harmless < 30


@pytest.mark.parametrize("name", [PAYLOAD, INDEX, MANIFEST])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_truncation_is_detected_at_open(filled: Filled, hidden: FinalHiddenColumn, name: str, share: float) -> None:
    root, rows, _ = filled()
    path = shard_folders(root)[2] / name
    content = path.read_bytes()
    path.write_bytes(content[: min(int(len(content) * share), len(content) - 3)])
    for _attempt in range(2):
        with pytest.raises(CacheError, match=path.parent.name):
            read_everything(root, hidden, rows)
    assert verify_cache(root, TEACHER) == [path.parent]


def test_swapped_shard_folders_are_detected(filled: Filled, hidden: FinalHiddenColumn) -> None:
    root, rows, _ = filled()
    first, second, _ = shard_folders(root)
    first.rename(first.with_name("aside"))
    second.rename(first)
    first.with_name("aside").rename(second)
    with pytest.raises(CacheError, match="folders were moved"):
        read_everything(root, hidden, rows)
    assert verify_cache(root, TEACHER) == [first, second]


def test_swapped_payloads_are_detected(tmp_path: Path, hidden: FinalHiddenColumn) -> None:
    row = random_rows(1)[0]
    others = [TeacherRow(row.ids[::-1].copy(), row.positions), row]
    writer = ShardWriter(tmp_path, TEACHER, hidden)
    for number, other in enumerate(others):
        writer.write_shard([other], random_tensors(hidden, len(row.positions), seed=number))
    first, second = (folder / PAYLOAD for folder in shard_folders(tmp_path))
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    for other in others:
        with pytest.raises(CacheError, match="hash differs"):
            read_everything(tmp_path, hidden, [other])


def test_a_shard_of_another_teacher_or_column_is_detected(filled: Filled, hidden: FinalHiddenColumn) -> None:
    root, rows, _ = filled()
    shutil.copytree(root / TEACHER, root / "fedcba9876543210")
    with pytest.raises(CacheError, match="folders were moved"):
        CacheReader(root, "fedcba9876543210", hidden)
    wider = FinalHiddenColumn(hidden.width, "bf16")
    shutil.move(column_folder(root, TEACHER, hidden), column_folder(root, TEACHER, wider))
    with pytest.raises(CacheError, match="folders were moved"):
        read_everything(root, wider, rows)


def test_a_dropped_shard_is_a_missing_row(filled: Filled, hidden: FinalHiddenColumn) -> None:
    root, rows, _ = filled()
    lost = open_shard(shard_folders(root)[0])
    shutil.rmtree(lost.folder)
    with pytest.raises(CacheError, match="not row") as caught:
        read_everything(root, hidden, rows)
    assert any(key.hex() in str(caught.value) for key in lost.keys)
    assert "teach stage" in str(caught.value)


def test_folders_without_a_manifest_are_ignored_and_swept(filled: Filled, hidden: FinalHiddenColumn) -> None:
    root, rows, _ = filled()
    folder = column_folder(root, TEACHER, hidden)
    before = every_folder(root)
    stale = folder / ("0" * 32)
    stale.mkdir()
    (stale / INDEX).write_bytes(b"not a numpy file")
    abandoned = folder / f"{'1' * 32}.tmp.999999999.aabbccdd"
    abandoned.mkdir()
    (folder / "notes.txt").write_text("mine")
    read_everything(root, hidden, rows)
    assert verify_cache(root, TEACHER) == [stale]
    ShardWriter(root, TEACHER, hidden)
    assert every_folder(root) == before


def test_pickles_and_foreign_indexes_are_refused_even_when_the_manifest_fits(
    tmp_path: Path, hidden: FinalHiddenColumn
) -> None:
    pickled, wide, text = io.BytesIO(), io.BytesIO(), b"no numpy"
    np.save(pickled, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(wide, np.zeros(3))
    name = "a" * 32
    for index, reason in ((pickled.getvalue(), "cannot be read"), (wide.getvalue(), "dtype"), (text, "cannot be read")):
        fields = seal_fields({"teacher": TEACHER, "column": hidden.spec, "shard": name, "plan": name})
        path = column_folder(tmp_path, TEACHER, hidden) / name
        with new_artifact(path, kind=SHARD_KIND, fields=fields) as folder:
            (folder / INDEX).write_bytes(index)
            (folder / PAYLOAD).write_bytes(b"")
        with pytest.raises(CacheError, match=reason):
            CacheReader(tmp_path, TEACHER, hidden)


@pytest.mark.parametrize("case", ["offset", "nbytes", "num_positions", "rows"])
def test_an_index_that_does_not_describe_its_payload_is_refused(
    tmp_path: Path, hidden: FinalHiddenColumn, case: str
) -> None:
    rows = random_rows(3)
    source = ShardWriter(tmp_path / "source", TEACHER, hidden).write_shard(
        rows, random_tensors(hidden, num_positions(rows))
    )
    manifest = read_manifest(source)
    assert manifest is not None
    index = np.load(source / INDEX)
    assert index.dtype == INDEX_DTYPE
    if case == "rows":
        index = index[:2]
    else:
        index[case][1] += 1
    path = column_folder(tmp_path, TEACHER, hidden) / source.name
    with new_artifact(path, kind=SHARD_KIND, fields=manifest.fields) as folder:
        np.save(folder / INDEX, index)
        shutil.copy(source / PAYLOAD, folder)
    with pytest.raises(CacheError, match="does not describe its payload"):
        CacheReader(tmp_path, TEACHER, hidden)


def test_other_format_versions_kinds_and_missing_files_are_refused(tmp_path: Path, hidden: FinalHiddenColumn) -> None:
    name = "b" * 32
    path = column_folder(tmp_path, TEACHER, hidden) / name
    fields = seal_fields({"teacher": TEACHER, "column": hidden.spec, "shard": name, "plan": name})
    for kind, version, sealed, reason in (
        (SHARD_KIND, 2, fields, "format version 2"),
        ("checkpoint", 1, fields, "were changed"),
        (SHARD_KIND, 1, {**fields, "plan": "c"}, "were changed"),
        (SHARD_KIND, 1, fields, "lacks files or fields"),
        (SHARD_KIND, 1, seal_fields({"teacher": TEACHER}), "lacks files or fields"),
    ):
        with new_artifact(path, kind=kind, format_version=version, fields=sealed) as folder:
            (folder / "other.bin").write_bytes(b"x")
        with pytest.raises(CacheError, match=reason):
            open_shard(path)


def test_a_refused_signal_names_row_and_position_and_leaves_nothing(tmp_path: Path) -> None:
    column = TopKColumn(3, (1, 2), 97)
    rows = random_rows(8)
    writer = ShardWriter(tmp_path, TEACHER, column)
    before = every_folder(tmp_path)
    flat = [(row, int(position)) for row in rows for position in row.positions]
    for bad in (0, len(flat) // 2, len(flat) - 1):
        tensors = random_tensors(column, len(flat))
        tensors["logprobs_NK"][bad, 1] = float("nan")
        row, position = flat[bad]
        with pytest.raises(NumericsError, match=f"not finite at position {position} of row {row.key.hex()}"):
            writer.write_shard(rows, tensors)
    assert every_folder(tmp_path) == before


@pytest.mark.parametrize("point", ["before_payload", "before_index", "before_fsync", "before_manifest",
                                   "manifest.before_write", "manifest.before_fsync", "manifest.before_rename",
                                   "manifest.after_rename", "before_rename"])  # fmt: skip
def test_a_full_disk_leaves_nothing_half_visible(
    tmp_path: Path, hidden: FinalHiddenColumn, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    rows = random_rows(5)
    tensors = random_tensors(hidden, num_positions(rows))
    writer = ShardWriter(tmp_path, TEACHER, hidden)
    before = every_folder(tmp_path)
    monkeypatch.setattr("tutelage.store.crash._passages", {})
    monkeypatch.setenv("TUTELAGE_CRASH_POINT", f"cache.shard.{point}")
    monkeypatch.setenv("TUTELAGE_CRASH_ACTION", "enospc")
    with pytest.raises(DiskError, match="No space left") as caught:
        writer.write_shard(rows, tensors)
    assert caught.value.exit_code == 4
    assert every_folder(tmp_path) == before
    monkeypatch.delenv("TUTELAGE_CRASH_POINT")
    writer.write_shard(rows, tensors)
    read_everything(tmp_path, hidden, rows)


def test_the_digest_depends_on_content_and_not_on_provenance_or_order(
    tmp_path: Path, hidden: FinalHiddenColumn
) -> None:
    rows = random_rows(6)
    parts = [(rows[:3], 0), (rows[3:], 1)]
    digests = []
    for name, order, seed in (("a", parts, 0), ("b", parts[::-1], 0), ("c", parts, 5)):
        writer = ShardWriter(tmp_path / name, TEACHER, hidden, provenance={"host": name})
        for part, number in order:
            writer.write_shard(part, random_tensors(hidden, num_positions(part), seed=number + seed))
        digests.append(cache_digest(tmp_path / name, TEACHER, hidden))
    assert digests[0] == digests[1] != digests[2]
    flip_bit(shard_folders(tmp_path / "a")[0] / INDEX, 5)
    with pytest.raises(CacheError, match="damaged"):
        cache_digest(tmp_path / "a", TEACHER, hidden)


def test_a_shard_is_named_by_keys_lengths_and_positions() -> None:
    first, second = random_rows(2)
    fewer = TeacherRow(first.ids, first.positions[:0])
    assert len({shard_name(rows) for rows in ([first], [second], [first, second], [second, first], [fewer])}) == 5


def test_provenance_travels_in_every_manifest(filled: Filled) -> None:
    root, _, _ = filled()
    for folder in shard_folders(root):
        fields = json.loads((folder / MANIFEST).read_text())["fields"]
        assert fields["provenance"] == {"teacher": "tiny", "licence": "MIT"}
        assert fields["teacher"] == TEACHER
