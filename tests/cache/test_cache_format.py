"""A reader written from ``docs/cache_format.md`` alone reads what the package wrote."""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from naive_readers import read_compressed_topk, read_sampled
from random_signals import TEACHER, num_positions, random_rows, random_tensors

from tutelage.cache import FinalHiddenColumn, SampledColumn, ShardWriter, TopKColumn, cache_digest
from tutelage.cache.layout import INDEX_DTYPE, column_folder
from tutelage.store import MANIFEST

DOCUMENT = Path(__file__).parents[2] / "docs" / "cache_format.md"


def documented_reader() -> Callable[[Path, bytes, int], np.ndarray]:
    block = re.search(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    names: dict = {}
    exec(block.group(1), names)
    return names["read_final_hidden"]


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_the_documented_reader_reads_every_position(tmp_path: Path, dtype: str) -> None:
    column = FinalHiddenColumn(6, dtype)
    rows = random_rows(8)
    tensors = random_tensors(column, num_positions(rows))
    ShardWriter(tmp_path, TEACHER, column).write_shard(rows, tensors)
    expected = column.decode(column.encode(tensors))["hidden_NE"].float().numpy()
    read = documented_reader()
    folder = column_folder(tmp_path, TEACHER, column)
    found = [read(folder, row.key, int(position)) for row in rows for position in row.positions]
    assert np.array_equal(np.stack(found).astype(np.float32), expected)
    with pytest.raises(KeyError):
        read(folder, b"?" * 16, 0)
    payload = next(folder.rglob("payload.bin"))
    payload.write_bytes(payload.read_bytes()[:-1] + b"!")
    with pytest.raises(ValueError, match="damaged"):
        read(folder, rows[-1].key, int(rows[-1].positions[0]))


def test_digests_and_names_are_those_of_the_document(tmp_path: Path) -> None:
    column = TopKColumn(3, (1, 2.5), 97, "fp16")
    assert column.name == "topk-k3-v97-t1_2.5-fp16"
    assert column.stride == 3 * (2 + 2) + 4
    assert INDEX_DTYPE.itemsize == 44
    rows = random_rows(4)
    path = ShardWriter(tmp_path, TEACHER, column, provenance={"name": "Müller", "b": 1}).write_shard(
        rows, random_tensors(column, num_positions(rows))
    )
    manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    parts = {name: {part: entry[part] for part in ("bytes", "sha256")} for name, entry in manifest["files"].items()}
    files = json.dumps(parts, sort_keys=True)
    assert manifest["content_digest"] == hashlib.sha256(files.encode()).hexdigest()
    fields = manifest["fields"]
    sealed = fields.pop("fields_digest")
    plain = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert sealed == hashlib.sha256(plain.encode()).hexdigest()
    name = hashlib.sha256()
    for row in rows:
        name.update(row.key)
        name.update(np.array([len(row.ids), len(row.positions), *row.positions], dtype="<i8").tobytes())
    assert path.name == name.hexdigest()[:32]
    whole = json.dumps({path.name: manifest["content_digest"]}, separators=(",", ":"))
    assert cache_digest(tmp_path, TEACHER, column) == hashlib.sha256(whole.encode()).hexdigest()
    key = hashlib.blake2b(b"tutelage-row-1" + rows[0].ids.astype("<i4").tobytes(), digest_size=16).digest()
    assert bytes(np.load(path / "index.npy")["key"][0]) == key


@pytest.mark.parametrize(
    "column",
    [
        SampledColumn(12, 1, 0, 97),
        SampledColumn(1, 1, 0, 97),
        SampledColumn(25, 2.5, 7, 49_152, head_k=3, logprob_bits=5),
        SampledColumn(25, 1, 0, 70_000, logprob_bits=9),
        SampledColumn(300, 1, 0, 600, head_k=1),
    ],
    ids=lambda column: column.name,
)
def test_a_reader_that_takes_one_integer_at_a_time_reads_sampled_blocks(column: SampledColumn) -> None:
    counts = np.array([1, 40, 7])
    tensors = random_tensors(column, int(counts.sum()))
    blocks = column.encode_rows(tensors, counts)
    decoded = column.decode_rows([np.frombuffer(block, np.uint8) for block in blocks], counts)
    found = [
        position
        for block, count in zip(blocks, counts, strict=True)
        for position in read_sampled(block, int(count), column.spec)
    ]
    for number, position in enumerate(found):
        drawn = slice(column.head_k, column.head_k + len(position.ids))
        assert [id_ for id_, _ in position.head] + position.ids == decoded["ids_NK"][number, : drawn.stop].tolist()
        assert position.counts == tensors["counts_NK"][number, drawn].tolist()
        logprobs = [value for _, value in position.head] + position.logprobs
        assert logprobs == pytest.approx(decoded["logprobs_NK"][number, : drawn.stop].tolist(), abs=1e-5)


def test_a_reader_that_takes_one_integer_at_a_time_reads_compressed_topk() -> None:
    column, counts = TopKColumn(7, (1, 2, 4), 70_000, "q8"), np.array([1, 40, 0, 7])
    tensors = random_tensors(column, int(counts.sum()))
    blocks = column.encode_rows(tensors, counts)
    decoded = column.decode_rows([np.frombuffer(block, np.uint8) for block in blocks], counts)
    found = [
        position
        for block, count in zip(blocks, counts, strict=True)
        for position in read_compressed_topk(block, int(count), column.spec)
    ]
    for number, (ids, logprobs, log_z) in enumerate(found):
        assert ids == tensors["ids_NK"][number].tolist()
        assert logprobs == pytest.approx(decoded["logprobs_NK"][number].tolist(), abs=1e-5)
        assert log_z == tensors["log_z_NT"][number].numpy().tobytes()
