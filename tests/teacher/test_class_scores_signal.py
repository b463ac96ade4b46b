"""Class scores say which token ids they are of and which of the batch's positions they belong to."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_teacher import FINGERPRINT, VOCAB_SIZE, batch_of, dense_logprobs, teacher_rows
from transformers import LlamaForCausalLM

from tutelage.cache import ClassScoresColumn
from tutelage.losses import forward_kl
from tutelage.teacher import CachedTeacher, LiveTeacher, teach
from tutelage.types import ClassScores, TeacherRow

CLASS_IDS = (90, 5, 6)


@pytest.mark.parametrize("source", ["live", "cached"])
def test_the_loss_reads_the_scores_at_the_first_position_of_every_row(
    tmp_path: Path, teacher_model: LlamaForCausalLM, source: str
) -> None:
    rows = teacher_rows(8)
    if source == "live":  # a row without targets has no scores, and is not in the cache
        rows[3] = TeacherRow(rows[3].ids, np.empty(0, dtype=np.int64))
    batch, column = batch_of(rows), ClassScoresColumn(CLASS_IDS)
    if source == "cached":
        teach(teacher_model, rows, columns=[column], root=tmp_path, fingerprint=FINGERPRINT)
        signal = CachedTeacher(tmp_path, FINGERPRINT, column).signal(batch)
    else:
        signal = LiveTeacher(teacher_model, column=column).signal(batch)
    assert isinstance(signal, ClassScores)
    assert signal.token_ids_C is not None
    assert signal.index_B is not None
    assert signal.token_ids_C.tolist() == list(CLASS_IDS)
    starts = np.cumsum([0, *(len(row.positions) for row in rows)])[:-1]
    assert signal.index_B.tolist() == [
        int(start) for start, row in zip(starts, rows, strict=True) if len(row.positions)
    ]

    teacher_NV = dense_logprobs(teacher_model, rows)
    student_NV = torch.randn(batch.num_targets, VOCAB_SIZE, generator=torch.Generator().manual_seed(1))
    p, q = (
        torch.log_softmax(logits[signal.index_B][:, list(CLASS_IDS)].double() / 2, dim=1)
        for logits in (teacher_NV, student_NV)
    )
    found = forward_kl(student_NV, signal, temperature=2.0)
    assert found.total.item() == pytest.approx(4 * float((p.exp() * (p - q)).sum()), rel=1e-4)
    assert found.count == batch.num_targets
