"""Compare hidden states token by token: squared error, squared error of directions, cosine.

In: the student's hidden states at P tokens, already in the teacher's width, and the teacher's at the same tokens.
Out: a ``LossSum`` over the P tokens. Gradients flow to the student's side alone, so nothing on the teacher's side can
be trained to make the comparison easy.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tutelage.errors import AlignmentError
from tutelage.losses.precision import widen
from tutelage.types import LossSum

# Below this root mean square a vector has no direction. Hidden states have 0.1 to 1,000; without a floor the gradient
# of a direction grows as one over the length, and one dead token would decide a step.
RMS_FLOOR = 1e-6

States = Float[Tensor, "P E"]
TokenMask = Bool[Tensor, " P"]


def hidden_mse(student_PE: States, teacher_PE: States, *, mask: TokenMask | None = None) -> LossSum:
    """Sum the mean squared error over the tokens.

    ``1/E * sum_e (s_e - t_e)**2`` per token; 0 for equal inputs. It grows with the square of the states' size, which
    differs between layers and is ruled by a few large entries: ``hidden_normalised_mse`` does not.

    Args:
        student_PE: Projected hidden states, any float dtype; upcast to float32. Gradients flow here only.
        teacher_PE: Hidden states of the teacher's layer at the same tokens.
        mask: True where a token counts; the others have no effect, even when NaN. None: all count.

    Returns:
        The sum (float32 scalar, in squared units of the states) and the number of tokens.

    Raises:
        AlignmentError: If the shapes differ.

    Source:
        Jiao et al. 2019 (TinyBERT), arXiv:1909.10351, equation 8.
    """
    student_PE, teacher_PE = _counted(student_PE, teacher_PE, mask)
    return LossSum((student_PE - teacher_PE).square().mean(dim=1).sum(), student_PE.shape[0])


def hidden_normalised_mse(student_PE: States, teacher_PE: States, *, mask: TokenMask | None = None) -> LossSum:
    """Sum the mean squared error over the tokens, both sides scaled to a root mean square of 1 per token.

    ``1/E * sum_e (s_e / rms(s) - t_e / rms(t))**2``; 0 for equal directions, 4 for opposite ones, whatever the lengths.
    Scaling to unit *norm* and summing over e, as the source writes it, is the same number, ``2 (1 - cos)``: twice
    ``hidden_cosine``. A vector whose root mean square is below 1e-6 has no direction and is left as it is.

    Args:
        student_PE: Projected hidden states, any float dtype; upcast to float32. Gradients flow here only.
        teacher_PE: Hidden states of the teacher's layer at the same tokens.
        mask: True where a token counts; the others have no effect, even when NaN. None: all count.

    Returns:
        The sum, dimensionless (float32 scalar), and the number of tokens.

    Raises:
        AlignmentError: If the shapes differ.

    Source:
        Sun et al. 2019 (Patient KD), arXiv:1908.09355, section 3.2.
    """
    student_PE, teacher_PE = _counted(student_PE, teacher_PE, mask)
    return LossSum((_unit_rms(student_PE) - _unit_rms(teacher_PE)).square().mean(dim=1).sum(), student_PE.shape[0])


def hidden_cosine(student_PE: States, teacher_PE: States, *, mask: TokenMask | None = None) -> LossSum:
    """Sum ``1 - cos(student, teacher)`` over the tokens.

    0 for equal directions, 1 at right angles, 2 for opposite ones, whatever the lengths. Computed as half the squared
    distance of the unit vectors, which is the same number, never negative, and keeps the digits of small angles that
    ``1 - cos`` loses. A vector whose root mean square is below 1e-6 has no direction and counts as 0: the loss is 1/2.

    Args:
        student_PE: Projected hidden states, any float dtype; upcast to float32. Gradients flow here only.
        teacher_PE: Hidden states of the teacher's layer at the same tokens.
        mask: True where a token counts; the others have no effect, even when NaN. None: all count.

    Returns:
        The sum, dimensionless (float32 scalar), and the number of tokens.

    Raises:
        AlignmentError: If the shapes differ.

    Source:
        Sanh et al. 2019 (DistilBERT), arXiv:1910.01108, section 2.
    """
    loss_sum = hidden_normalised_mse(student_PE, teacher_PE, mask=mask)
    return LossSum(0.5 * loss_sum.total, loss_sum.count)


def _counted(student_PE: Tensor, teacher_PE: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Give both sides at the tokens that count, in float32, the teacher's without a graph."""
    if student_PE.shape != teacher_PE.shape:  # broadcasting would compare every token with one
        raise AlignmentError(
            f"student states of shape {list(student_PE.shape)} against the teacher's {list(teacher_PE.shape)}; "
            "expected equal shapes [tokens, teacher width]: select the teacher's tokens, and project the student's"
        )
    teacher_PE = teacher_PE.detach()
    if mask is not None:
        student_PE, teacher_PE = student_PE[mask], teacher_PE[mask]
    return widen(student_PE), widen(teacher_PE)


def _unit_rms(states_PE: Tensor) -> Tensor:
    """Scale every vector to root mean square 1; one below the floor stays, with a gradient of ordinary size."""
    power_P1 = states_PE.square().mean(dim=1, keepdim=True)
    # Replaced before the root: its slope at 0 is infinite, and 0 * inf would arrive as NaN.
    return states_PE * torch.where(power_P1 < RMS_FLOOR**2, 1.0, power_P1).rsqrt()
