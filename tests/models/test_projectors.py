"""Projectors: on the student's side alone, drawn from their own seed, in float32."""

import pytest
import torch
from tiny_families import tiny_model
from torch import nn
from torch.testing import assert_close

from tutelage.errors import ModelError, TrainingError
from tutelage.losses import hidden_mse, hidden_normalised_mse
from tutelage.models.projectors import Projectors
from tutelage.train.module import DistillationModule
from tutelage.train.optimizer import make_optimizer, trainable_parameters
from tutelage.train.options import TrainOptions
from tutelage.types import StateTerm

PAIRS = [(3, 6), (6, 12)]


def states(width: int, seed: int = 0, num_tokens: int = 32) -> torch.Tensor:
    return torch.randn(num_tokens, width, generator=torch.Generator().manual_seed(seed))


def test_names_in_checkpoints_say_the_pair():
    module = nn.Module()
    module.projectors = Projectors(PAIRS, 4, 6, seed=0)
    assert {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()} == {
        "projectors.s3_t6.weight": (6, 4),
        "projectors.s6_t12.weight": (6, 4),
    }
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}


def test_weights_depend_on_the_seed_and_their_own_pair_only():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = Projectors(PAIRS, 4, 6, seed=7).state_dict()
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    again = Projectors([(9, 20), (6, 12)], 4, 6, seed=7).state_dict()
    assert torch.equal(first["s6_t12.weight"], again["s6_t12.weight"])
    assert not torch.equal(first["s6_t12.weight"], first["s3_t6.weight"])
    other = Projectors(PAIRS, 4, 6, seed=8).state_dict()
    assert not torch.equal(first["s6_t12.weight"], other["s6_t12.weight"])


@pytest.mark.parametrize("seed", [0, 1])
def test_between_equal_widths_a_map_begins_as_the_identity_and_learns(seed):
    projectors = Projectors([(1, 2)], 6, 6, seed=seed)
    hidden = states(6)
    assert torch.equal(projectors(1, 2, hidden), hidden)
    hidden_mse(projectors(1, 2, hidden), states(6, seed=1)).total.backward()
    grad = projectors.get_parameter("s1_t2.weight").grad
    assert grad is not None
    assert grad.abs().max() > 0


def test_a_drawn_map_keeps_the_size_of_the_states():
    projected = Projectors([(1, 1)], 64, 96, seed=0)(1, 1, states(64, num_tokens=256))
    assert projected.square().mean().sqrt().item() == pytest.approx(1.0, abs=0.1)


def test_gradients_reach_the_student_and_the_projector_and_not_the_teacher():
    student, teacher = states(4).requires_grad_(), states(6, seed=1).requires_grad_()
    projectors = Projectors(PAIRS, 4, 6, seed=0)
    hidden_normalised_mse(projectors(6, 12, student), teacher).total.backward()
    assert student.grad is not None
    assert student.grad.abs().max() > 0
    used, unused = projectors.get_parameter("s6_t12.weight"), projectors.get_parameter("s3_t6.weight")
    assert used.grad is not None
    assert used.grad.abs().max() > 0
    assert unused.grad is None
    assert teacher.grad is None


def test_a_micro_batch_without_tokens_takes_part_with_a_gradient_of_zero():
    projectors = Projectors(PAIRS, 4, 6, seed=0)
    hidden_mse(projectors(6, 12, states(4)[:0]), states(6)[:0]).total.backward()
    grad = projectors.get_parameter("s6_t12.weight").grad
    assert grad is not None
    assert (grad == 0).all()


def undetached_mse(student, teacher):
    return (student - teacher).square().mean(dim=1).sum()


def train_both_sides(loss) -> tuple[float, float, float]:
    """Train a map on either side between states that have nothing to do with each other.

    Returns the share of the loss that is left, and how large the student's and the teacher's weights still are.
    """
    student, teacher = states(4, num_tokens=64), states(6, seed=1, num_tokens=64)
    of_student = Projectors([(1, 1)], 4, 6, seed=0)
    of_teacher = nn.Linear(6, 6, bias=False)
    nn.init.eye_(of_teacher.weight)
    optimizer = torch.optim.Adam([*of_student.parameters(), *of_teacher.parameters()], lr=0.03)
    losses = []
    for _ in range(200):
        optimizer.zero_grad()
        total = loss(of_student(1, 1, student), of_teacher(teacher))
        total.backward()
        optimizer.step()
        losses.append(total.item())
    return (
        losses[-1] / losses[0],
        of_student.get_parameter("s1_t1.weight").norm().item(),
        of_teacher.weight.norm().item(),
    )


def test_a_trainable_teacher_side_collapses_and_with_our_loss_it_is_not_trained():
    share_left, student_norm, teacher_norm = train_both_sides(undetached_mse)
    assert share_left < 0.01  # the put-back defect: agreement on nothing, without any learning
    assert max(student_norm, teacher_norm) < 0.1
    share_left, _, teacher_norm = train_both_sides(lambda student, teacher: hidden_mse(student, teacher).total)
    assert share_left > 0.4  # what cannot be learnt stays
    assert teacher_norm == pytest.approx(6**0.5)  # as it began


def test_without_a_student_there_is_nothing_to_give():
    """A bias would give the teacher's mean state for any input, and with a large common offset most of the states."""
    teacher = states(6, seed=1) + 5.0
    without = Projectors([(1, 1)], 4, 6, seed=0)(1, 1, torch.zeros(32, 4))
    assert (without == 0).all()
    mean_state = teacher.mean(dim=0).expand_as(teacher)
    assert hidden_mse(mean_state, teacher).total < 0.1 * hidden_mse(without, teacher).total


def test_the_product_is_float32_also_under_autocast_and_from_bfloat16():
    projectors, hidden = Projectors([(1, 1)], 64, 96, seed=0), states(64).bfloat16()
    linear = projectors.get_submodule("s1_t1")
    expected = linear(hidden.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(projectors(1, 1, hidden), expected)
        assert not torch.equal(linear(hidden).float(), expected)  # what a plain call would round


def test_states_of_equal_width_may_be_compared_as_they_are():
    projectors = Projectors(PAIRS, 6, 6, seed=0, learned=False)
    assert list(projectors.parameters()) == []
    hidden = states(6).bfloat16()
    assert_close(projectors(6, 12, hidden), hidden.float(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("pairs", "widths", "learned", "message"),
    [
        (PAIRS, (4, 6), False, "The student is 4 wide and the teacher 6.*Use learned projectors"),
        ([], (4, 6), True, "at least one and each once"),
        ([(1, 2), (1, 2)], (4, 6), True, r"\[\(1, 2\), \(1, 2\)\].*each once"),
    ],
)
def test_projectors_that_make_no_sense_are_refused(pairs, widths, learned, message):
    with pytest.raises(ModelError, match=message):
        Projectors(pairs, *widths, seed=0, learned=learned)


@pytest.mark.parametrize("learned", [True, False])
def test_a_pair_without_a_projector_is_refused(learned):
    projectors = Projectors(PAIRS, 6, 6, seed=0, learned=learned)
    with pytest.raises(ModelError, match=r"no projector from student layer 12 to teacher layer 6.*s3_t6, s6_t12"):
        projectors(12, 6, states(6))


def train_one_step(projectors: Projectors, optimizer: torch.optim.Optimizer) -> bool:
    """Say whether a step of the feature loss moves the projector."""
    before = projectors.get_parameter("s1_t2.weight").detach().clone()
    hidden_mse(projectors(1, 2, states(32)), states(48, seed=1)).total.backward()
    optimizer.step()
    return not torch.equal(before, projectors.get_parameter("s1_t2.weight"))


def test_a_projector_created_after_the_optimizer_does_not_learn_and_cannot_be_made():
    student, late = tiny_model(), Projectors([(1, 2)], 32, 48, seed=0)
    terms = [StateTerm("hidden_mse", 1.0, ((1, 2),))]
    # The defect: the optimizer's list is closed when the projector comes.
    assert not train_one_step(late, make_optimizer(trainable_parameters(student), TrainOptions()))
    with pytest.raises(TrainingError, match="Make `Projectors` for the same pairs"):
        DistillationModule(student, terms)
    projectors = Projectors([(1, 2)], 32, 48, seed=0)
    parameters = trainable_parameters(DistillationModule(student, terms, projectors=projectors))
    assert "projectors.s1_t2.weight" in parameters
    assert train_one_step(projectors, make_optimizer(parameters, TrainOptions()))
