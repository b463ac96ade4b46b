"""The properties of losses/capabilities.py as checks that raise AssertionError.

In: a case and an implementation (a path of the package, or a deliberately wrong one). Out: nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from loss_cases import PATHS, STORED_TEMPERATURES, Case, Implementation, gradients, samples_of
from torch.testing import assert_close

from tutelage.align import logit_indices
from tutelage.types import ClassScores, DenseLogits, FinalHidden, OutputHead, Sampled, TopK

# bfloat16 keeps 8 bits, so the head's product rounds each logit by up to 2^-9 of its size.
BF16_VALUE_TOLERANCE = 0.02  # relative
BF16_MIN_COSINE = 0.999  # gradient with respect to the hidden states
# Made of signs: an id whose p and q differ by less than the rounding turns round. Worst of 240 random problems: 0.991.
BF16_MIN_COSINE_OF_SIGNS = 0.98
NUM_REPEATS = 256  # draws behind a mean


@contextmanager
def named(*words: str) -> Iterator[None]:
    """Say in a failure which of several cases of one test it was."""
    try:
        yield
    except BaseException as error:
        error.add_note("case: " + ", ".join(words))
        raise


def run(case: Case, implementation: Implementation, *, temperature=1.0, signal=None, weight=1.0):
    signal = case.signal(at=temperature) if signal is None else signal
    return implementation(case.hidden, case.head, case.labels, signal, terms=case.terms(temperature, weight))


def check_oracle(case, implementation):
    for temperature in case.temperatures:
        expected = case.oracle(temperature)
        losses = run(case, implementation, temperature=temperature, weight=0.3)
        assert losses.objective.count == losses.parts[case.divergence].count == len(case.labels)
        assert_close(losses.parts[case.divergence].total.item(), expected, rtol=1e-10, atol=1e-12)
        assert_close(losses.objective.total.item(), 0.3 * expected, rtol=1e-10, atol=1e-12)
        single = run(case.to(torch.float32), implementation, temperature=temperature)
        assert single.objective.total.dtype == torch.float32
        assert_close(single.objective.total.item(), expected, rtol=1e-5, atol=1e-5)


def check_fixed_point(case, implementation):
    case = case.equal_teacher()
    for temperature in case.temperatures:
        total, grads = gradients(case, implementation, case.signal(at=temperature), case.terms(temperature))
        assert abs(total.item()) < 1e-12, total
        for grad in grads:
            assert grad.abs().max() < 1e-12, grad


def check_gradcheck(case, implementation):
    case = case.at_size(num_positions=4, num_ids=7)  # two evaluations per input
    weight, bias = case.head.weight_VD, case.head.bias_V
    leaves = [case.hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
    leaves += [] if bias is None else [bias.clone().requires_grad_()]
    for temperature in {case.temperatures[0], case.temperatures[-1]}:
        signal, terms = case.signal(at=temperature), case.terms(temperature)

        def objective(hidden, weight, bias=None, signal=signal, terms=terms):
            head = replace(case.head, weight_VD=weight, bias_V=bias)
            return implementation(hidden, head, case.labels, signal, terms=terms).objective.total

        # Along random directions: a wrong entry shows in every one of them, at two evaluations instead of 140.
        assert torch.autograd.gradcheck(objective, leaves, atol=1e-7, rtol=1e-5, fast_mode=True)


def check_detached_teacher(case, implementation):
    for temperature in case.temperatures:
        signal, tensors = _require_gradients(case.signal(at=temperature))
        assert tensors, "there is no teacher"
        hidden = case.hidden.clone().requires_grad_()
        losses = implementation(hidden, case.head, case.labels, signal, terms=case.terms(temperature))
        losses.objective.total.backward()
        assert hidden.grad is not None
        assert all(tensor.grad is None for tensor in tensors)


def _require_gradients(signal):
    """Give the same signal with every float tensor a leaf that asks for a gradient."""
    tensors = []

    def leaf(tensor):
        if tensor is None:
            return None
        tensors.append(tensor.detach().clone().requires_grad_())
        return tensors[-1]

    if isinstance(signal, DenseLogits):
        signal = DenseLogits(leaf(signal.logits_NU))
    elif isinstance(signal, FinalHidden):
        head = signal.head
        head = OutputHead(leaf(head.weight_VD), leaf(head.bias_V), head.scale, head.softcap)
        signal = FinalHidden(leaf(signal.hidden_NE), head)
    elif isinstance(signal, TopK):
        log_z = {t: leaf(values) for t, values in signal.log_z_N.items()}
        signal = TopK(signal.ids_NK, leaf(signal.logprobs_NK), log_z, signal.vocab_size)
    elif isinstance(signal, Sampled):
        signal = replace(signal, weights_NK=leaf(signal.weights_NK), logprobs_NK=leaf(signal.logprobs_NK))
    elif isinstance(signal, ClassScores):
        signal = replace(signal, scores_BC=leaf(signal.scores_BC))
    return signal, tensors


def rows_of(signal, index):
    """Give a signal at some of its positions."""
    if isinstance(signal, DenseLogits):
        return DenseLogits(signal.logits_NU[index])
    if isinstance(signal, FinalHidden):
        return FinalHidden(signal.hidden_NE[index], signal.head)
    if isinstance(signal, TopK):
        log_z = {t: values[index] for t, values in signal.log_z_N.items()}
        return TopK(signal.ids_NK[index], signal.logprobs_NK[index], log_z, signal.vocab_size)
    if isinstance(signal, Sampled):
        parts = (part[index] for part in (signal.ids_NK, signal.weights_NK, signal.logprobs_NK))
        return Sampled(*parts, signal.temperature, signal.vocab_size)
    if isinstance(signal, ClassScores):
        here = (signal.index_B >= index.start) & (signal.index_B < index.stop)
        return replace(signal, scores_BC=signal.scores_BC[here], index_B=signal.index_B[here] - index.start)
    return None


def check_split_invariance(case, implementation):
    """Eight rows with 0 to 3 targets each: the step's gradient is the same however the rows are split."""
    targets_per_row = [2, 0, 3, 1, 0, 0, 1, 0]
    assert sum(targets_per_row) == len(case.labels), "the case has one position per target"
    edges = np.concatenate([[0], np.cumsum(targets_per_row)])
    temperature, step = case.temperatures[-1], {}
    signal = case.signal(at=temperature)
    for num_micro_batches in (1, 2, 4):
        rows = 8 // num_micro_batches
        weight = case.head.weight_VD.clone().requires_grad_()
        totals, counts = [], []
        for first in range(0, 8, rows):
            index = slice(edges[first], edges[first + rows])
            head = replace(case.head, weight_VD=weight)
            terms = case.terms(temperature)
            losses = implementation(case.hidden[index], head, case.labels[index], rows_of(signal, index), terms=terms)
            totals.append(losses.objective.total)
            counts.append(losses.objective.count)
        loss = sum(totals) / sum(counts)
        step[num_micro_batches] = (loss.detach(), torch.autograd.grad(loss, weight)[0])
    for split in (2, 4):
        assert_close(step[split][0], step[1][0], rtol=1e-12, atol=1e-12)
        assert_close(step[split][1], step[1][1], rtol=1e-10, atol=1e-12)


def check_mask_blindness(case, implementation, positions_of=logit_indices):
    """Hidden states are NaN wherever no supervised target is predicted; nothing of it arrives."""
    num_positions = len(case.labels)
    target_mask = np.zeros(3 * num_positions + 1, dtype=bool)
    target_mask[2 : 2 + 3 * num_positions : 3] = True
    index = torch.as_tensor(positions_of(target_mask))
    student_grid = torch.full((len(target_mask), case.hidden.shape[1]), torch.nan, dtype=case.hidden.dtype)
    student_grid[np.flatnonzero(target_mask) - 1] = case.hidden
    teacher_grid = torch.full((len(target_mask), case.teacher_hidden.shape[1]), torch.nan, dtype=case.hidden.dtype)
    teacher_grid[np.flatnonzero(target_mask) - 1] = case.teacher_hidden
    student_grid.requires_grad_()
    seen = replace(case, hidden=student_grid.index_select(0, index), teacher_hidden=teacher_grid.index_select(0, index))
    expected = run(case, implementation).objective.total
    total = run(seen, implementation).objective.total
    assert_close(total, expected)
    (grad,) = torch.autograd.grad(total, student_grid)
    others = np.setdiff1d(np.arange(len(target_mask)), np.flatnonzero(target_mask) - 1)
    assert grad.isfinite().all()
    assert (grad[others] == 0).all()


def check_permutation(case, implementation):
    new_id = torch.randperm(len(case.head.weight_VD), generator=torch.Generator().manual_seed(1))
    old_id = new_id.argsort()

    def rename(head: OutputHead) -> OutputHead:
        bias = None if head.bias_V is None else head.bias_V[old_id]
        return replace(head, weight_VD=head.weight_VD[old_id], bias_V=bias)

    renamed = replace(
        case,
        head=rename(case.head),
        teacher_head=rename(case.teacher_head),
        labels=new_id[case.labels],
        class_ids=tuple(new_id[list(case.class_ids)].tolist()),
    )
    for temperature in case.temperatures:
        expected, grads = gradients(case, implementation, case.signal(at=temperature), case.terms(temperature))
        total, renamed_grads = gradients(
            renamed, implementation, renamed.signal(at=temperature), case.terms(temperature)
        )
        assert_close(total, expected, rtol=1e-12, atol=1e-12)
        assert_close(renamed_grads[0], grads[0], rtol=1e-9, atol=1e-11)
        assert_close(renamed_grads[1], grads[1][old_id], rtol=1e-9, atol=1e-11)


def check_small_tails(case, implementation):
    """One side gives e^-30 to all but k ids (or to the label); float32 sees the difference.

    The student does in the first case. In the second the teacher does, where a signal can say so: a top-k record holds
    its tail as 1 - sum, which has no such digits.
    """
    num_ids = len(case.head.weight_VD)
    peaked = torch.full((len(case.labels), num_ids), -33.0)
    peaked[:, : case.k] = torch.linspace(0.0, 1.0, case.k)
    peaked[:, case.k :] += torch.linspace(0.0, 1.0, num_ids - case.k)
    flat = torch.zeros(len(case.labels), num_ids)
    flat[:, : case.k] = torch.linspace(2.0, 3.0, case.k)
    identity = OutputHead(torch.eye(num_ids))
    case = replace(case, head=identity, teacher_head=identity, labels=torch.full_like(case.labels, num_ids - 1))
    cases = [replace(case, hidden=peaked, teacher_hidden=flat)]
    if case.signal_kind != "topk":
        cases.append(replace(case, hidden=flat, teacher_hidden=peaked))
    for case in cases:
        total, grads = gradients(case, implementation, case.signal(), case.terms())
        assert_close(total.item(), case.oracle(1.0), rtol=2e-6, atol=0.0)
        double = case.to(torch.float64)
        _, expected = gradients(double, PATHS["plain"], double.signal(), double.terms())
        assert_close(grads[0].double(), expected[0], rtol=1e-5, atol=1e-6)


def check_empty(case, implementation):
    hidden = torch.zeros(0, case.hidden.shape[1], dtype=case.hidden.dtype, requires_grad=True)
    weight = case.head.weight_VD.clone().requires_grad_()
    head = replace(case.head, weight_VD=weight)
    signal = rows_of(case.signal(), slice(0, 0))
    losses = implementation(hidden, head, case.labels[:0], signal, terms=case.terms())
    assert (losses.objective.total.item(), losses.objective.count) == (0.0, 0)
    losses.objective.total.backward()
    assert hidden.grad is not None
    assert weight.grad is not None
    assert (weight.grad == 0).all()


def check_bf16(case, implementation):
    low = case.to(torch.bfloat16)
    for temperature in case.temperatures:
        total, grads = gradients(low, implementation, low.signal(at=temperature), low.terms(temperature))
        double = low.to(torch.float64)
        _, expected = gradients(double, PATHS["plain"], double.signal(at=temperature), double.terms(temperature))
        assert total.dtype == torch.float32
        assert grads[0].dtype == torch.bfloat16
        assert_close(total.item(), low.oracle(temperature), rtol=BF16_VALUE_TOLERANCE, atol=0.0)
        cosine = torch.cosine_similarity(grads[0].double().flatten(), expected[0].flatten(), dim=0)
        is_made_of_signs = case.divergence == "total_variation"
        assert cosine > (BF16_MIN_COSINE_OF_SIGNS if is_made_of_signs else BF16_MIN_COSINE), cosine


def check_fused(case, implementation):
    """Compare with the other path: values, and gradients to hidden states, weight and bias."""
    other = PATHS["plain" if implementation is PATHS["fused"] else "fused"]
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 1e-5)):
        typed = case.to(dtype)
        for temperature in case.temperatures:
            ours = gradients(typed, implementation, typed.signal(at=temperature), typed.terms(temperature, weight=0.7))
            theirs = gradients(typed, other, typed.signal(at=temperature), typed.terms(temperature, weight=0.7))
            assert_close(ours[0], theirs[0], rtol=tolerance, atol=tolerance)
            for our_grad, their_grad in zip(ours[1], theirs[1], strict=True):
                assert_close(our_grad, their_grad, rtol=tolerance, atol=tolerance * 10)


def check_temperature_scale(case, implementation):
    """Doubling a large T leaves the gradient's size; without T**2 (T) it would fall to a quarter (half)."""
    norms = []
    for temperature in (32.0, 64.0):
        signal = case.signal(temperatures=(32.0, 64.0), at=temperature)
        norms.append(gradients(case, implementation, signal, case.terms(temperature))[1][0].norm())
    assert 0.8 < norms[1] / norms[0] < 1.25, norms


def check_dense_equality(case, implementation):
    for temperature in (1.0, 2.0, 4.0, 8.0):
        signal = case.signal(temperatures=(1.0, 2.0, 4.0, 8.0), at=temperature)
        _expect_dense(case, run(case, implementation, temperature=temperature, signal=signal), temperature)


def check_k_equals_v(case, implementation):
    assert case.signal_kind == "topk", "the signal has no k"
    signal = case.signal(k=len(case.head.weight_VD))
    for temperature in case.temperatures:
        _expect_dense(case, run(case, implementation, temperature=temperature, signal=signal), temperature)


def _expect_dense(case, losses, temperature):
    assert case.compares_with_teacher, "there is no teacher"
    expected = run(case, PATHS["plain"], temperature=temperature, signal=DenseLogits(case.teacher_logits))
    assert_close(losses.objective.total, expected.objective.total, rtol=1e-11, atol=1e-12)


def check_any_temperature(case, implementation):
    signal = case.signal()
    for temperature in (*STORED_TEMPERATURES, 0.5, 1.7):
        assert run(case, implementation, temperature=temperature, signal=signal).objective.total.isfinite()


def check_unbiased(case, implementation):
    """The gradient's mean over many independent draws is the dense one's; weights that are p_T give it at once."""
    assert case.compares_with_teacher, "there is no teacher"
    # Without draws every repeat is the same: two show what 256 would.
    num_repeats = NUM_REPEATS if case.signal_kind == "sampled" else 2
    many = case.repeated(num_repeats)
    for temperature in case.temperatures:
        terms = case.terms(temperature)
        _, dense = gradients(case, PATHS["plain"], DenseLogits(case.teacher_logits), terms)
        _, grads = gradients(many, implementation, many.signal(at=temperature), terms)
        draws = grads[0].reshape(num_repeats, *case.hidden.shape)
        error = draws.std(dim=0) / num_repeats**0.5
        assert ((draws.mean(dim=0) - dense[0]).abs() <= 4 * error + 1e-12).all()
        if case.signal_kind == "sampled":
            exact = samples_of(case.teacher_logits, temperature, head_k=len(case.head.weight_VD))
            _expect_dense(case, run(case, implementation, temperature=temperature, signal=exact), temperature)
            for ours, theirs in zip(gradients(case, implementation, exact, terms)[1], dense, strict=True):
                assert_close(ours, theirs, rtol=1e-10, atol=1e-11)


CHECKS = {name.removeprefix("check_"): check for name, check in list(globals().items()) if name.startswith("check_")}
