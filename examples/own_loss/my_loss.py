"""A loss of one's own, for `tutelage run examples/own_loss/recipe.yaml --plugin examples/own_loss/my_loss.py`."""

import torch

import tutelage


@tutelage.register_loss("hellinger")
def hellinger(student_logits, teacher_logits, *, temperature: float, power: float = 2.0):
    """Sum the differences of square roots of probabilities, to a power, times the squared temperature."""
    q, p = (torch.softmax(logits.float() / temperature, -1) for logits in (student_logits, teacher_logits))
    total = temperature**2 * (q.sqrt() - p.sqrt()).abs().clamp(min=1e-12).pow(power).sum()
    return tutelage.LossSum(total, len(student_logits))
