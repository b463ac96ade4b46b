"""Defects on the way back, from a cache that is right to a loss that is not: each is caught."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from taught_cache import HIDDEN, ROWS, SAMPLED, TOPK, read, run
from tiny_teacher import FINGERPRINT, VOCAB_SIZE, batch_of, dense_logprobs, tiny_llama
from transformers import LlamaForCausalLM

from tutelage.cache import (
    SampledColumn,
)
from tutelage.errors import AlignmentError, CacheError, CapabilityError
from tutelage.losses import head_losses
from tutelage.models.head import final_hidden, find_head
from tutelage.teacher import CachedTeacher, LiveTeacher
from tutelage.types import Batch, LossTerm, OutputHead, Sampled, TeacherRow, TopK


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("taught")
    run(root, HIDDEN, TOPK, SAMPLED)
    return root


def test_padding_among_the_supervised_positions_is_refused(tmp_path: Path, taught: Path) -> None:
    batch = batch_of(ROWS)
    everywhere_N = torch.arange(batch.input_ids.numel())
    unmasked = Batch(**{**vars(batch), "logit_index_N": everywhere_N, "labels_N": batch.input_ids.flatten()})
    for column in (HIDDEN, TOPK, SAMPLED):
        with pytest.raises(AlignmentError, match="one teacher position per target"):
            CachedTeacher(taught, FINGERPRINT, column).signal(unmasked)
    width = max(len(row.ids) for row in ROWS)
    with pytest.raises(AlignmentError, match="inside of the row"):
        run(tmp_path, HIDDEN, rows=[TeacherRow(row.ids, np.arange(width)) for row in ROWS])


def test_a_student_whose_mask_is_unshifted_by_one_finds_no_signal(taught: Path) -> None:
    unshifted = [TeacherRow(row.ids, row.positions + 1) for row in ROWS]
    batch = Batch(**{**vars(batch_of(ROWS)), "teacher_rows": unshifted})
    for column in (HIDDEN, TOPK, SAMPLED):
        with pytest.raises(CacheError, match="not all of its positions"):
            CachedTeacher(taught, FINGERPRINT, column).signal(batch)


def test_ids_of_another_tokenizer_find_no_signal(taught: Path) -> None:
    foreign = np.random.default_rng(0).permutation(VOCAB_SIZE).astype(np.int32)
    rows = [TeacherRow(foreign[row.ids], row.positions) for row in ROWS]
    with pytest.raises(CacheError, match="but not row"):
        CachedTeacher(taught, FINGERPRINT, HIDDEN).signal(batch_of(rows))


def test_a_key_of_another_row_is_refused_when_it_is_read(taught: Path) -> None:
    """The defect: ids and keys in two lists, and only one of them shuffled."""
    keys = [row.key for row in ROWS[1:] + ROWS[:1]]
    rows = [TeacherRow(row.ids, row.positions, key) for row, key in zip(ROWS, keys, strict=True)]
    with pytest.raises(AlignmentError, match="its ids give"):
        CachedTeacher(taught, FINGERPRINT, HIDDEN).signal(batch_of(rows))


def kd(student: LlamaForCausalLM, signal: Any, batch: Batch, *, temperature: float) -> torch.Tensor:
    """The loss per position with respect to the student's hidden states."""
    terms = [LossTerm("forward_kl", 1.0, temperature)]
    with torch.no_grad():
        hidden_ND = final_hidden(student, batch)
    losses = head_losses(hidden_ND, find_head(student), batch.labels_N, signal, terms=terms, fused=True)
    return losses.objective.total.detach()


def test_batchmean_over_rows_depends_on_the_split_and_ours_does_not(taught: Path) -> None:
    student, teacher = tiny_llama(seed=7), CachedTeacher(taught, FINGERPRINT, TOPK)
    rows = sorted(ROWS, key=lambda row: len(row.positions))
    splits = [[rows], [rows[:2], rows[2:]], [rows[:5], rows[5:]]]
    ours, theirs = [], []
    for split in splits:
        batches = [batch_of(part) for part in split]
        totals = [float(kd(student, teacher.signal(batch), batch, temperature=2.0)) for batch in batches]
        ours.append(sum(totals) / sum(batch.num_targets for batch in batches))
        per_row = [total / len(batch.teacher_rows) for total, batch in zip(totals, batches, strict=True)]
        theirs.append(sum(per_row) / len(per_row))  # a mean over rows, then over micro-batches
    assert ours == pytest.approx([ours[0]] * 3, rel=1e-6)
    assert max(abs(value / theirs[0] - 1) for value in theirs) > 0.02


def both_renormalised(student_NV: torch.Tensor, kept: TopK) -> torch.Tensor:
    """Softmax over the kept ids on both sides."""
    teacher_NK = kept.logprobs_NK.log_softmax(dim=1)
    return teacher_NK.exp() * (teacher_NK - student_NV.gather(1, kept.ids_NK).log_softmax(dim=1))


def teacher_renormalised(student_NV: torch.Tensor, kept: TopK) -> torch.Tensor:
    """The teacher over the kept ids, the student over the vocabulary."""
    teacher_NK = kept.logprobs_NK.log_softmax(dim=1)
    return teacher_NK.exp() * (teacher_NK - student_NV.log_softmax(dim=1).gather(1, kept.ids_NK))


def teacher_raw(student_NV: torch.Tensor, kept: TopK) -> torch.Tensor:
    """The teacher's probabilities as they are, the student over the vocabulary, and no tail."""
    student_NK = student_NV.log_softmax(dim=1).gather(1, kept.ids_NK)
    return kept.logprobs_NK.exp() * (kept.logprobs_NK - student_NK)


def tail_bucket(student_NV: torch.Tensor, kept: TopK) -> torch.Tensor:
    """What the package does: k + 1 buckets."""
    hidden_ND, head = student_NV, OutputHead(torch.eye(student_NV.shape[1]))
    labels_N = torch.zeros(len(student_NV), dtype=torch.int64)
    terms = [LossTerm("forward_kl", 1.0)]
    return head_losses(hidden_ND, head, labels_N, kept, terms=terms, fused=False).objective.total


def gradients(semantics: Callable[..., torch.Tensor], root: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """At the teacher's own logits, and with the student's tail moved: [N, V] each, the second outside of the kept."""
    kept = read(root, TOPK)
    exact_NV = dense_logprobs(tiny_llama(), ROWS).float()
    moved_NV = exact_NV.scatter_add(1, kept.ids_NK, torch.full_like(kept.logprobs_NK, -2.0))  # too much tail
    found = []
    for logits_NV in (exact_NV, moved_NV):
        logits_NV = logits_NV.clone().requires_grad_()
        semantics(logits_NV, kept).sum().backward()
        assert logits_NV.grad is not None
        found.append(logits_NV.grad)
    return found[0], found[1].scatter(1, kept.ids_NK, 0.0)


SEMANTICS = {  # is the teacher a fixed point; is the mass of the tail held
    both_renormalised: (True, False),
    teacher_renormalised: (False, True),
    teacher_raw: (False, True),
    tail_bucket: (True, True),
}


@pytest.mark.parametrize("semantics", SEMANTICS, ids=lambda semantics: semantics.__name__)
def test_only_a_tail_bucket_rests_at_the_teacher_and_holds_the_tail(taught: Path, semantics: Callable) -> None:
    at_the_teacher, on_the_tail = gradients(semantics, taught)
    assert (bool(at_the_teacher.abs().max() < 1e-4), bool(on_the_tail.abs().max() > 1e-3)) == SEMANTICS[semantics]


def test_draws_at_one_temperature_are_refused_at_another_and_reweighing_them_does_not_help(tmp_path: Path) -> None:
    """The defect: draw at T = 1 once and give the draws the weights of T = 4."""
    model = tiny_llama()
    column = SampledColumn(50, 1.0, 0, VOCAB_SIZE, logprob_bits=16)
    run(tmp_path, column)
    signal = read(tmp_path, column)
    assert isinstance(signal, Sampled)
    with pytest.raises(CapabilityError, match="drawn at temperature 1"):
        kd(tiny_llama(seed=7), signal, batch_of(ROWS), temperature=4.0)
    exact_NV = dense_logprobs(model, ROWS)
    hot_NV = (exact_NV / 4).softmax(dim=1)
    ratios_NK = signal.weights_NK * hot_NV.gather(1, signal.ids_NK) / exact_NV.exp().gather(1, signal.ids_NK)
    weights_NK = ratios_NK / ratios_NK.sum(dim=1, keepdim=True)
    reweighed_NV = torch.zeros_like(hot_NV).scatter_add_(1, signal.ids_NK, weights_NK)
    drawn_hot = LiveTeacher(model, column=SampledColumn(50, 4.0, 0, VOCAB_SIZE)).signal(batch_of(ROWS))
    assert isinstance(drawn_hot, Sampled)
    drawn_NV = torch.zeros_like(hot_NV).scatter_add_(1, drawn_hot.ids_NK, drawn_hot.weights_NK.double())
    errors = [float((found_NV - hot_NV).norm(dim=1).mean()) for found_NV in (reweighed_NV, drawn_NV)]
    assert errors[0] > 1.5 * errors[1]
    counts_NK = (signal.weights_NK.double() * 50).round().clamp(min=1)
    effective_N = 1 / (weights_NK**2 / counts_NK).sum(dim=1)  # so many even draws would be as good
    assert effective_N.mean() < 0.3 * 50
