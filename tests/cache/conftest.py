"""A small cache of random signals, without a model."""

from collections.abc import Callable
from pathlib import Path

import pytest
from random_signals import TEACHER, num_positions, random_rows, random_tensors

from tutelage.cache import FinalHiddenColumn, ShardWriter
from tutelage.cache.column import Column, TensorDict
from tutelage.types import TeacherRow


@pytest.fixture
def hidden() -> FinalHiddenColumn:
    return FinalHiddenColumn(8, "fp32")


@pytest.fixture
def filled(tmp_path: Path, hidden: FinalHiddenColumn) -> Callable[..., tuple[Path, list[TeacherRow], TensorDict]]:
    """Write rows in shards of ten: root, rows, tensors."""

    def fill(count: int = 30, column: Column = hidden) -> tuple[Path, list[TeacherRow], TensorDict]:
        rows = random_rows(count)
        tensors = random_tensors(column, num_positions(rows))
        writer = ShardWriter(tmp_path, TEACHER, column, provenance={"teacher": "tiny", "licence": "MIT"})
        done = 0
        for start in range(0, count, 10):
            part = rows[start : start + 10]
            size = num_positions(part)
            writer.write_shard(part, {name: tensor[done : done + size] for name, tensor in tensors.items()})
            done += size
        return tmp_path, rows, tensors

    return fill
