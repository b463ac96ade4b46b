"""A cache as plain Parquet."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from random_signals import TEACHER, random_tensors

from tutelage.cache import FinalHiddenColumn, ShardWriter, TopKColumn, read_head, write_head
from tutelage.cache.column import TensorDict
from tutelage.cache.export import as_lists, export_cache
from tutelage.cache.sequences import Answer, SequencesColumn, pack_answers
from tutelage.errors import CacheError, DataError
from tutelage.types import OutputHead, TeacherRow

Filled = Callable[..., tuple[Path, list[TeacherRow], TensorDict]]


def test_every_stored_position_is_a_line_with_its_values(filled: Filled, tmp_path: Path) -> None:
    column = TopKColumn(5, (1, 2), 97)
    root, rows, tensors = filled(30, column)
    (path,) = export_cache(root, TEACHER, tmp_path / "out")
    assert path.name == f"{column.name}.parquet"
    table = pq.read_table(path)
    assert table.column_names == ["row_key", "position", "ids", "logprobs", "log_z"]
    keys = [row.key.hex() for row in rows for _ in row.positions]
    positions = [int(position) for row in rows for position in row.positions]
    wanted = {pair: n for n, pair in enumerate(zip(keys, positions, strict=True))}
    found = list(zip(table["row_key"].to_pylist(), table["position"].to_pylist(), strict=True))
    assert sorted(found) == sorted(wanted)
    order = [wanted[pair] for pair in found]
    assert table["ids"].to_pylist() == tensors["ids_NK"][order].tolist()
    assert table["logprobs"].to_pylist() == tensors["logprobs_NK"][order].tolist()
    assert table["log_z"].to_pylist() == tensors["log_z_NT"][order].tolist()


def test_the_file_says_whose_signal_it_is(filled: Filled, tmp_path: Path) -> None:
    column = TopKColumn(5, (1,), 97)
    root, _, _ = filled(10, column)
    (path,) = export_cache(root, TEACHER, tmp_path / "out")
    metadata = {name.decode(): value.decode() for name, value in pq.read_schema(path).metadata.items()}
    assert metadata["tutelage.teacher"] == TEACHER
    assert json.loads(metadata["tutelage.column"]) == json.loads(json.dumps(column.spec))
    assert json.loads(metadata["tutelage.provenance"])["licence"] == "MIT"


def test_a_position_in_two_shards_is_written_once(tmp_path: Path) -> None:
    column, ids = FinalHiddenColumn(8, "fp32"), np.arange(9, dtype=np.int32)
    first, second = TeacherRow(ids, np.array([1, 2])), TeacherRow(ids, np.array([2, 5]))
    for row in (first, second):
        ShardWriter(tmp_path, TEACHER, column).write_shard([row], random_tensors(column, 2))
    (path,) = export_cache(tmp_path, TEACHER, tmp_path / "out")
    assert sorted(pq.read_table(path)["position"].to_pylist()) == [1, 2, 5]


def test_bfloat16_is_exported_without_loss() -> None:
    values = torch.randn(3, 4).bfloat16()
    assert as_lists(values).to_pylist() == values.float().tolist()


def test_answers_are_exported_as_texts(tmp_path: Path) -> None:
    column = SequencesColumn(vocab_size=97, max_new_tokens=4, num_samples=2)
    answers = [
        [Answer(np.array([5, 6, 7, 8], dtype=np.int32), "grün", "length"), Answer(np.array([9], np.int32), "", "stop")],
        [Answer(np.array([], np.int32), "", "stop"), Answer(np.array([1, 2], np.int32), "a b", "stop")],
    ]
    rows = [TeacherRow(np.arange(n, dtype=np.int32), np.zeros(1, dtype=np.int64)) for n in (3, 5)]
    ShardWriter(tmp_path, TEACHER, column).write_shard(rows, pack_answers(answers))
    (path,) = export_cache(tmp_path, TEACHER, tmp_path / "out")
    table = pq.read_table(path)
    assert table["text"].to_pylist() == [["grün", ""], ["", "a b"]]
    assert table["ids"].to_pylist() == [[[5, 6, 7, 8], [9]], [[], [1, 2]]]
    assert table["finish"].to_pylist() == [["length", "stop"], ["stop", "stop"]]


def test_the_head_goes_with_the_hidden_states(filled: Filled, tmp_path: Path) -> None:
    root, _, _ = filled(10)
    write_head(root, TEACHER, OutputHead(torch.ones(97, 8)))
    paths = export_cache(root, TEACHER, tmp_path / "out")
    assert [path.name for path in paths] == ["final_hidden-e8-fp32.parquet", "head"]
    assert (paths[1] / "head.safetensors").read_bytes() == (root / TEACHER / "head" / "head.safetensors").read_bytes()
    assert read_head(root, TEACHER).weight_VD.shape == (97, 8)


def test_nothing_is_overwritten(filled: Filled, tmp_path: Path) -> None:
    root, _, _ = filled(10)
    (path,) = export_cache(root, TEACHER, tmp_path / "out")
    before = path.read_bytes()
    with pytest.raises(DataError, match="exists and was left alone"):
        export_cache(root, TEACHER, tmp_path / "out")
    assert path.read_bytes() == before


def test_a_damaged_shard_stops_the_export_and_leaves_no_half_file(filled: Filled, tmp_path: Path) -> None:
    root, _, _ = filled(30)
    payload = sorted(root.rglob("payload.bin"))[2]
    content = bytearray(payload.read_bytes())
    content[-1] ^= 1
    payload.write_bytes(content)
    with pytest.raises(CacheError, match="is damaged"):
        export_cache(root, TEACHER, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_an_empty_cache_has_nothing_to_export(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="nothing to export"):
        export_cache(tmp_path, TEACHER, tmp_path / "out")
