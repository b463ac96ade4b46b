"""Deleting what is damaged, and nothing else."""

from collections.abc import Callable
from pathlib import Path

import torch
from random_signals import TEACHER

from tutelage.cache import verify_cache, write_head
from tutelage.cache.column import TensorDict
from tutelage.cache.repair import delete_shards
from tutelage.types import OutputHead, TeacherRow

Filled = Callable[..., tuple[Path, list[TeacherRow], TensorDict]]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_damaged_shards_go_and_good_ones_stay(filled: Filled) -> None:
    root, _, _ = filled(30)
    payloads = sorted(root.rglob("payload.bin"))
    flip(payloads[1])
    damaged = verify_cache(root, TEACHER)
    assert damaged == [payloads[1].parent]
    assert delete_shards(root, TEACHER, damaged) == damaged
    assert [path.exists() for path in payloads] == [True, False, True]
    assert verify_cache(root, TEACHER) == []


def test_a_damaged_head_goes_too(filled: Filled) -> None:
    root, _, _ = filled(10)
    head = write_head(root, TEACHER, OutputHead(torch.zeros(97, 8)))
    flip(head / "head.safetensors")
    assert delete_shards(root, TEACHER, verify_cache(root, TEACHER)) == [head]
    assert not head.exists()


def test_a_folder_that_is_good_again_is_not_deleted(filled: Filled) -> None:
    """Another process may have made it anew since it was listed."""
    root, _, _ = filled(10)
    head = write_head(root, TEACHER, OutputHead(torch.zeros(97, 8)))
    (payload,) = root.rglob("payload.bin")
    assert delete_shards(root, TEACHER, [payload.parent, head, root / TEACHER / "gone"]) == []
    assert payload.exists()
    assert head.exists()
