import math
from decimal import Decimal, getcontext

import pytest
import torch
from loss_cases import top_k_of
from loss_oracles import log_softmax, log_sum

from tutelage.errors import AlignmentError, CapabilityError
from tutelage.losses.buckets import log_one_minus_exp, teacher_buckets
from tutelage.types import TopK

getcontext().prec = 50


@pytest.mark.parametrize("log_mass", [-1e-30, -1e-16, -1e-13, -1e-3, -0.6931, -0.6932, -5.0, -80.0])
def test_log_one_minus_exp_keeps_its_digits(log_mass):
    expected = (1 - Decimal(log_mass).exp()).ln()
    value = log_one_minus_exp(torch.tensor([log_mass], dtype=torch.float64)).item()
    assert value == pytest.approx(float(expected), rel=1e-14)


def test_log_one_minus_exp_of_a_full_or_overfull_mass_is_minus_infinity():
    assert log_one_minus_exp(torch.tensor([0.0, 1e-7])).tolist() == [-math.inf, -math.inf]


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_buckets_equal_the_teachers_own_probabilities_at_the_temperature(temperature):
    logits = 3 * torch.randn(6, 17, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    buckets = teacher_buckets(top_k_of(logits, 4, [1, 2, 4]), temperature=temperature, num_shared=17)
    for n in range(6):
        logprobs = log_softmax(logits[n].tolist(), temperature)
        kept = buckets.ids_NK[n].tolist()
        assert buckets.logprobs_NK[n].tolist() == pytest.approx([logprobs[i] for i in kept], rel=1e-12)
        rest = log_sum(logprobs[i] for i in range(17) if i not in kept)
        assert buckets.tail_logprob_N[n].item() == pytest.approx(rest, rel=1e-10)


def test_a_teacher_tail_of_e_minus_30_keeps_the_digits_that_double_precision_stores():
    logits = torch.tensor([[3.0, 2.0, -28.5, -29.5]], dtype=torch.float64)
    buckets = teacher_buckets(top_k_of(logits, 2, [1]), temperature=1.0, num_shared=4)
    expected = log_sum(log_softmax(logits[0].tolist())[2:])
    assert expected < -30
    assert buckets.tail_logprob_N.item() == pytest.approx(expected, abs=5e-3)


def test_mass_above_one_by_rounding_is_normalised_over_all_buckets():
    signal = TopK(torch.tensor([[0, 1]]), torch.tensor([[0.75, 0.2501]]).log(), {}, vocab_size=5)
    buckets = teacher_buckets(signal, temperature=1.0, num_shared=5)
    assert buckets.logprobs_NK.exp().sum().item() == pytest.approx(1.0, abs=1e-6)
    assert buckets.tail_logprob_N.item() == -math.inf


def test_mass_below_one_is_not_renormalised_over_k():
    signal = TopK(torch.tensor([[0, 1]]), torch.tensor([[0.5, 0.2]]).log(), {}, vocab_size=5)
    buckets = teacher_buckets(signal, temperature=1.0, num_shared=5)
    assert buckets.logprobs_NK.exp().tolist()[0] == pytest.approx([0.5, 0.2], rel=1e-6)
    assert buckets.tail_logprob_N.exp().item() == pytest.approx(0.3, rel=1e-6)


def test_half_precision_storage_is_read_in_float32():
    signal = TopK(torch.tensor([[3, 1]]), torch.tensor([[0.5, 0.2]]).log().half(), {}, vocab_size=5)
    assert teacher_buckets(signal, temperature=1.0, num_shared=5).logprobs_NK.dtype == torch.float32


def test_a_temperature_without_log_z_is_refused_and_the_stored_ones_are_named():
    signal = top_k_of(torch.randn(2, 9), 3, [1, 4])
    with pytest.raises(CapabilityError, match=r"temperature 2 \(stored: 1, 4\)"):
        teacher_buckets(signal, temperature=2.0, num_shared=9)
    with pytest.raises(CapabilityError, match="stored: none"):
        teacher_buckets(top_k_of(torch.randn(2, 9), 3, []), temperature=2.0, num_shared=9)


def test_kept_padding_ids_are_taken_out_and_the_rest_normalised():
    logits = torch.tensor([[1.0, 2.0, 0.5, 4.0, 3.0]], dtype=torch.float64)  # ids 3 and 4 are padding, and the top
    buckets = teacher_buckets(top_k_of(logits, 3, [1]), temperature=1.0, num_shared=3)
    expected = log_softmax([1.0, 2.0, 0.5])
    assert buckets.ids_NK.tolist() == [[1, 1, 1]]
    assert buckets.valid_NK.tolist() == [[False, False, True]]
    assert buckets.logprobs_NK[0].tolist() == [-math.inf, -math.inf, pytest.approx(expected[1], rel=1e-12)]
    assert buckets.tail_logprob_N.item() == pytest.approx(log_sum([expected[0], expected[2]]), rel=1e-12)


def test_a_position_that_keeps_padding_ids_only_is_refused():
    signal = top_k_of(torch.tensor([[5.0, 1.0, 1.0, 0.0], [1.0, 1.0, 5.0, 6.0]]), 2, [1])
    with pytest.raises(AlignmentError, match="position 1: all 2 kept teacher ids"):
        teacher_buckets(signal, temperature=1.0, num_shared=2)
