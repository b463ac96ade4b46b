"""A cache of the tiny teacher for the tests that put defects back: how it is filled and read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tiny_teacher import FINGERPRINT, VOCAB_SIZE, batch_of, teacher_rows, tiny_llama

from tutelage.cache import (
    FinalHiddenColumn,
    SampledColumn,
    TopKColumn,
)
from tutelage.cache.column import Column
from tutelage.teacher import CachedTeacher, TeachReport, teach
from tutelage.types import TeacherRow

HIDDEN = FinalHiddenColumn(32, "fp32")
TOPK = TopKColumn(40, (1, 2, 4), VOCAB_SIZE)
SAMPLED = SampledColumn(12, 1.0, 0, VOCAB_SIZE, logprob_bits=16)
ROWS = teacher_rows(10)


def run(root: Path, *columns: Column, rows: Sequence[TeacherRow] = ROWS, **options: Any) -> TeachReport:
    model = options.pop("model", None) or tiny_llama()
    settings = {"fingerprint": FINGERPRINT, "shard_rows": 4, "token_budget": 60, **options}
    return teach(model, rows, columns=columns, root=root, **settings)


def read(root: Path, column: Column, rows: Sequence[TeacherRow] = ROWS) -> Any:
    return CachedTeacher(root, FINGERPRINT, column).signal(batch_of(rows))
