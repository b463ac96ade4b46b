"""Looking into one row of a cache."""

from pathlib import Path

import numpy as np
import pytest
import torch
from random_signals import TEACHER

from tutelage.cache import FinalHiddenColumn, SampledColumn, ShardWriter, TopKColumn, write_head
from tutelage.cache.inspect import EntryReader
from tutelage.errors import CacheError
from tutelage.types import OutputHead, TeacherRow

VOCAB_SIZE, WIDTH = 97, 8
ROW = TeacherRow(np.arange(12, dtype=np.int32), np.array([3, 7, 10]))
HIDDEN = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(0))
HEAD = OutputHead(torch.randn(VOCAB_SIZE, WIDTH, generator=torch.Generator().manual_seed(1)), scale=0.5)
LOGPROBS = HEAD.logits(HIDDEN).log_softmax(dim=1)


def write_topk(root: Path, k: int = 5) -> None:
    top = LOGPROBS.topk(k)
    tensors = {"ids_NK": top.indices, "logprobs_NK": top.values, "log_z_NT": torch.empty(3, 0)}
    ShardWriter(root, TEACHER, TopKColumn(k, (1,), VOCAB_SIZE)).write_shard([ROW], tensors)


def write_hidden(root: Path) -> None:
    column = FinalHiddenColumn(WIDTH, "fp32")
    ShardWriter(root, TEACHER, column).write_shard([ROW], {"hidden_NE": HIDDEN})
    write_head(root, TEACHER, HEAD)


def write_samples(root: Path, temperature: float = 1.0) -> None:
    column = SampledColumn(4, temperature, 0, VOCAB_SIZE, head_k=1)
    top = LOGPROBS.topk(3)
    ids = torch.cat([top.indices[:, :1], top.indices[:, 1:].sort(dim=1).values], dim=1)
    counts = torch.tensor([[0, 3, 1]] * 3)
    tensors = {"ids_NK": ids, "counts_NK": counts, "logprobs_NK": LOGPROBS.gather(1, ids)}
    ShardWriter(root, TEACHER, column).write_shard([ROW], tensors)


def test_final_hidden_states_give_the_whole_distribution(tmp_path: Path) -> None:
    write_hidden(tmp_path)
    write_topk(tmp_path)
    found = EntryReader(tmp_path, TEACHER).entries(ROW.key, count=4)
    assert found is not None
    assert found.column == "final_hidden-e8-fp32"
    assert [each.position for each in found.positions] == [3, 7, 10]
    top = LOGPROBS.exp().topk(4)
    assert [each.ids for each in found.positions] == top.indices.tolist()
    for each, probs in zip(found.positions, top.values, strict=True):
        assert each.probs == pytest.approx(probs.tolist(), rel=1e-5)
        assert each.rest == pytest.approx(1 - float(probs.sum()), abs=1e-6)


def test_a_topk_shows_its_entries_and_the_tail(tmp_path: Path) -> None:
    write_topk(tmp_path)
    found = EntryReader(tmp_path, TEACHER).entries(ROW.key, count=9)
    assert found is not None
    assert [len(each.ids) for each in found.positions] == [5, 5, 5]
    assert found.positions[0].rest == pytest.approx(1 - float(LOGPROBS[0].topk(5).values.exp().sum()), abs=1e-5)


def test_samples_show_estimates_that_add_up(tmp_path: Path) -> None:
    write_samples(tmp_path, temperature=2.0)
    found = EntryReader(tmp_path, TEACHER).entries(ROW.key, count=9)
    assert found is not None
    assert found.temperature == 2.0
    for position, logprobs in zip(found.positions, LOGPROBS, strict=True):
        head = float(logprobs.max().exp())
        assert sum(position.probs) == pytest.approx(1.0, abs=1e-5)
        assert sorted(position.probs) == pytest.approx(sorted([head, (1 - head) * 0.75, (1 - head) * 0.25]), abs=1e-3)


def test_a_row_that_no_column_holds_has_no_entries(tmp_path: Path) -> None:
    write_topk(tmp_path)
    assert EntryReader(tmp_path, TEACHER).entries(b"x" * 16, count=3) is None
    assert EntryReader(tmp_path / "empty", TEACHER).entries(ROW.key, count=3) is None


def test_a_damaged_row_is_an_error(tmp_path: Path) -> None:
    write_topk(tmp_path)
    (payload,) = tmp_path.rglob("payload.bin")
    content = bytearray(payload.read_bytes())
    content[-1] ^= 1
    payload.write_bytes(content)
    with pytest.raises(CacheError, match="is damaged"):
        EntryReader(tmp_path, TEACHER).entries(ROW.key, count=3)
