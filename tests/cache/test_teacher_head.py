"""The copied head is the head, or an error."""

from pathlib import Path

import pytest
import torch
from random_signals import TEACHER

from tutelage.cache import read_head, verify_cache, write_head
from tutelage.cache.layout import head_folder
from tutelage.errors import CacheError, DiskError
from tutelage.types import OutputHead


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("with_bias", [False, True])
def test_the_head_comes_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype, with_bias: bool) -> None:
    bias_V = torch.randn(11).to(dtype) if with_bias else None
    head = OutputHead(torch.randn(11, 4).to(dtype).requires_grad_(), bias_V, 0.25, 30.0)
    write_head(tmp_path, TEACHER, head)
    found = read_head(tmp_path, TEACHER)
    assert found.weight_VD.equal(head.weight_VD)
    assert found.weight_VD.dtype == dtype
    assert not found.weight_VD.requires_grad
    assert (found.bias_V is None) == (bias_V is None)
    assert (found.scale, found.softcap) == (0.25, 30.0)
    hidden_NE = torch.randn(3, 4)
    assert found.logits(hidden_NE).equal(head.logits(hidden_NE))


def test_a_good_head_is_kept_and_a_damaged_one_replaced(tmp_path: Path) -> None:
    head = OutputHead(torch.randn(11, 4))
    path = write_head(tmp_path, TEACHER, head) / "head.safetensors"
    first = path.stat().st_mtime_ns
    write_head(tmp_path, TEACHER, head)
    assert path.stat().st_mtime_ns == first
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)
    for _attempt in range(2):
        with pytest.raises(CacheError, match="damaged"):
            read_head(tmp_path, TEACHER)
    assert verify_cache(tmp_path, TEACHER) == [head_folder(tmp_path, TEACHER)]
    write_head(tmp_path, TEACHER, head)
    assert read_head(tmp_path, TEACHER).weight_VD.equal(head.weight_VD)
    assert verify_cache(tmp_path, TEACHER) == []


def test_a_missing_or_foreign_head_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="cannot be used"):
        read_head(tmp_path, TEACHER)
    write_head(tmp_path, "other", OutputHead(torch.randn(11, 4)))
    (tmp_path / "other").rename(tmp_path / TEACHER)
    with pytest.raises(CacheError, match="head of other"):
        read_head(tmp_path, TEACHER)


def test_a_full_disk_leaves_no_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tutelage.store.crash._passages", {})
    monkeypatch.setenv("TUTELAGE_CRASH_POINT", "cache.head.before_manifest")
    monkeypatch.setenv("TUTELAGE_CRASH_ACTION", "enospc")
    with pytest.raises(DiskError):
        write_head(tmp_path, TEACHER, OutputHead(torch.randn(11, 4)))
    assert list((tmp_path / TEACHER).iterdir()) == []
