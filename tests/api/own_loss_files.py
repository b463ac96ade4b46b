"""A recipe with a loss of the user's own, and the file that registers it."""

from tiny_experiment import RECIPE, write_experiment

PLUGIN = "my_loss.py"
OWN_LOSS = '''\
import torch

import tutelage


@tutelage.register_loss("hellinger")
def hellinger(student_logits, teacher_logits, *, temperature: float, power: float = 2.0):
    """T^2 times the summed difference of square roots of probabilities, to a power."""
    q, p = (torch.softmax(logits.float() / temperature, -1) for logits in (student_logits, teacher_logits))
    total = temperature**2 * (q.sqrt() - p.sqrt()).abs().clamp(min=1e-12).pow(power).sum()
    return tutelage.LossSum(total, len(student_logits))
'''
SMALL = (
    RECIPE.replace("name: tiny", f"name: tiny\nplugins: [{PLUGIN}]")
    .replace("report: [1, 2]", "report: [1]")
    .replace(
        "  PSEUDO: {kind: pseudo}\n",
        "  MINE:\n    signal: final_hidden\n    losses:\n      - {kind: cross_entropy, weight: 0.5}\n"
        "      - {kind: hellinger, weight: 0.5, temperature: 2, power: 1.5}\n",
    )
)


def write_small(folder):
    """The tiny experiment with three arms, one of a loss of its own."""
    (folder / PLUGIN).write_text(OWN_LOSS, encoding="utf-8")
    return write_experiment(folder, recipe=SMALL)
