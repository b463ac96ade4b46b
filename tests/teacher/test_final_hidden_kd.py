"""Distillation from cached final hidden states is distillation from the live teacher's whole vocabulary."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from tiny_teacher import FINGERPRINT, batch_of, dense_logprobs, teacher_rows, tiny_llama
from transformers import LlamaForCausalLM

from tutelage.losses import head_losses
from tutelage.models.head import final_hidden, find_head
from tutelage.teacher import CachedTeacher, LiveTeacher, build_column, teach
from tutelage.types import Batch, DenseLogits, FinalHidden, LossTerm, TeacherSignal

ROWS = sorted(teacher_rows(12), key=lambda row: len(row.ids))
TEMPERATURES = (1, 2, 4, 8)
PATHS = {"plain": False, "fused": True}
# Float32 sums in another order, relative to the whole; where both run the same products, 0 is seen.
ROUNDING = 2e-6
# What products in bfloat16 may cost; 1.2 % of a probability at logits of 10, less in a sum of many.
BF16_PRODUCTS = 0.02


@dataclass(frozen=True)
class Step:
    """What a student's step sees of a loss: its value per position, and the gradient of every parameter in one."""

    loss: float
    gradient: torch.Tensor

    def distance(self, other: "Step") -> tuple[float, float]:
        """How far two steps are apart, relative to the other."""
        norm = float(other.gradient.norm())
        return abs(self.loss - other.loss) / abs(other.loss), float((self.gradient - other.gradient).norm()) / norm


def distil(
    student: LlamaForCausalLM,
    batch: Batch,
    signal: TeacherSignal,
    *,
    temperature: float,
    path: str,
    compute_dtype: torch.dtype | None = None,
) -> Step:
    """Run the student, compare it with the signal and with the labels, and go back through all of it."""
    student.zero_grad()
    terms = [LossTerm("forward_kl", 0.7, float(temperature)), LossTerm("cross_entropy", 0.3)]
    losses = head_losses(
        final_hidden(student, batch),
        find_head(student),
        batch.labels_N,
        signal,
        terms=terms,
        fused=PATHS[path],
        chunk=5 if PATHS[path] else None,
        compute_dtype=compute_dtype,
    )
    (losses.objective.total / losses.objective.count).backward()
    gradients = [parameter.grad.flatten() for parameter in student.parameters() if parameter.grad is not None]
    assert len(gradients) == len(list(student.parameters()))
    return Step(float(losses.objective.total.detach()) / losses.objective.count, torch.cat(gradients).double())


@pytest.fixture(scope="module")
def student() -> LlamaForCausalLM:
    return tiny_llama(seed=7)


def cached_teacher(model: LlamaForCausalLM, root: Path) -> CachedTeacher:
    column = build_column(model, kind="final_hidden")
    teach(model, ROWS, columns=[column], root=root, fingerprint=FINGERPRINT, token_budget=10_000)
    return CachedTeacher(root, FINGERPRINT, column)


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory, teacher_model: LlamaForCausalLM) -> CachedTeacher:
    return cached_teacher(teacher_model, tmp_path_factory.mktemp("float32"))


def dense_alone(model: LlamaForCausalLM, batch: Batch) -> DenseLogits:
    """The live teacher's logits with every row in a batch of its own."""
    live = LiveTeacher(model, kind="dense")
    parts = [live.signal(batch_of([row])) for row in batch.teacher_rows]
    return DenseLogits(torch.cat([part.logits_NU for part in parts if isinstance(part, DenseLogits)]))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_value_and_gradient_equal_those_of_dense_live_logits(
    teacher_model: LlamaForCausalLM, cached: CachedTeacher, student: LlamaForCausalLM, temperature: float, path: str
) -> None:
    batch = batch_of(ROWS)  # the shape in which they were taught: nothing but the cache lies between the two
    live = LiveTeacher(teacher_model, kind="dense").signal(batch)
    ours, dense = (
        distil(student, batch, signal, temperature=temperature, path=path) for signal in (cached.signal(batch), live)
    )
    assert max(ours.distance(dense)) <= ROUNDING


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize(
    ("chosen", "packed"), [(range(12), True), ([7, 2, 11, 0], False), ([5, 9, 3], True), ([6], False)]
)
def test_in_other_orders_subsets_and_packings_they_are_equal_within_the_noise_of_the_teachers_batches(
    teacher_model: LlamaForCausalLM,
    cached: CachedTeacher,
    student: LlamaForCausalLM,
    temperature: float,
    path: str,
    chosen: list[int],
    packed: bool,
) -> None:
    batch = batch_of([ROWS[number] for number in chosen], packed=packed)
    here = LiveTeacher(teacher_model, kind="dense").signal(batch)
    ours, live, alone = (
        distil(student, batch, signal, temperature=temperature, path=path)
        for signal in (cached.signal(batch), here, dense_alone(teacher_model, batch))
    )
    for distance, noise in zip(ours.distance(live), alone.distance(live), strict=True):
        assert distance <= 2 * noise + ROUNDING


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_value_is_that_of_float64_over_the_whole_vocabulary(
    teacher_model: LlamaForCausalLM, cached: CachedTeacher, student: LlamaForCausalLM, temperature: float, path: str
) -> None:
    batch = batch_of(ROWS[3:9], packed=True)
    teacher_NV, student_NV = (
        (dense_logprobs(model, batch.teacher_rows) / temperature).log_softmax(dim=1)
        for model in (teacher_model, student)
    )
    kl = temperature**2 * float((teacher_NV.exp() * (teacher_NV - student_NV)).sum())
    gold = -float(dense_logprobs(student, batch.teacher_rows).gather(1, batch.labels_N[:, None]).sum())
    ours = distil(student, batch, cached.signal(batch), temperature=temperature, path=path)
    assert ours.loss == pytest.approx((0.7 * kl + 0.3 * gold) / batch.num_targets, rel=2e-5)


Spoil = Callable[[FinalHidden], FinalHidden]
SPOILT: dict[str, Spoil] = {
    "another row's states": lambda signal: replace(signal, hidden_NE=signal.hidden_NE.roll(1, dims=0)),
    "another head": lambda signal: replace(signal, head=find_head(tiny_llama(seed=3))),
    "states in float16": lambda signal: replace(signal, hidden_NE=signal.hidden_NE.half().float()),
    "a head in bfloat16": lambda signal: replace(
        signal, head=replace(signal.head, weight_VD=signal.head.weight_VD.bfloat16().float())
    ),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_comparison_finds_what_is_not_the_teachers(
    teacher_model: LlamaForCausalLM, cached: CachedTeacher, student: LlamaForCausalLM, temperature: float, spoil: Spoil
) -> None:
    batch = batch_of(ROWS)
    signal = cached.signal(batch)
    assert isinstance(signal, FinalHidden)
    live = LiveTeacher(teacher_model, kind="dense").signal(batch)
    wrong, dense = (
        distil(student, batch, each, temperature=temperature, path="plain") for each in (spoil(signal), live)
    )
    assert wrong.distance(dense)[1] > 10 * ROUNDING


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_a_bfloat16_teacher_loses_nothing_in_the_cache_and_what_its_products_lose_is_bounded(
    tmp_path: Path, student: LlamaForCausalLM, temperature: float, path: str
) -> None:
    model = tiny_llama(dtype=torch.bfloat16)
    batch, teacher = batch_of(ROWS), cached_teacher(model, tmp_path)
    live, dense, ours = (each.signal(batch) for each in (LiveTeacher(model), LiveTeacher(model, kind="dense"), teacher))

    def step(signal: TeacherSignal, compute_dtype: torch.dtype | None) -> Step:
        return distil(student, batch, signal, temperature=temperature, path=path, compute_dtype=compute_dtype)

    exact = step(dense, torch.float32)
    assert max(step(ours, torch.float32).distance(exact)) <= ROUNDING
    low = step(ours, None)  # each head's products in its own dtype: the teacher's in bfloat16
    assert low.distance(step(live, None)) == (0.0, 0.0)
    assert ROUNDING < low.distance(exact)[1] <= BF16_PRODUCTS
