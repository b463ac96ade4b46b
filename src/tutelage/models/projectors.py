"""Learned linear maps from the student's width to the teacher's, one for every pair of layers that is compared.

In: pairs of layer numbers, two widths, a seed. Out: a module; hidden states in the teacher's width.

There is no map on the teacher's side: two trained sides agree best on a constant, and the student learns nothing.
"""

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tutelage.errors import ModelError
from tutelage.losses.precision import no_autocast, widen

Pair = tuple[int, int]  # (student layer, teacher layer)


class Projectors(nn.Module):
    """One map per pair of layers, trained with the student and left behind at export.

    The map of student layer 6 to teacher layer 12 is the child ``s6_t12``, a linear layer without bias: a bias alone
    could give the teacher's mean state, which is most of many states, and would earn that part of the loss without the
    student.

    Weights are float32. Between equal widths a map begins as the identity: a student that was cut from the teacher
    already speaks its language, and a random map would make it unlearn that first. Between different widths it is
    drawn with a standard deviation of ``1 / sqrt(student width)``, so that the output is as large as the input, by the
    seed and its own pair only, whatever other pairs there are.
    """

    def __init__(
        self, pairs: Sequence[Pair], student_width: int, teacher_width: int, seed: int, *, learned: bool = True
    ) -> None:
        """Draw the maps.

        Args:
            pairs: (student layer, teacher layer), each pair once.
            student_width: D.
            teacher_width: E.
            seed: Of the drawn weights.
            learned: False: no parameters, states are compared as they are; the widths must be equal.

        Raises:
            ModelError: If there are no pairs, one occurs twice, or different widths are to be compared unprojected.
        """
        super().__init__()
        if not pairs or len(set(pairs)) < len(pairs):
            raise ModelError(
                f"Projectors were asked for the layer pairs {list(pairs)}, expected at least one and each once."
            )
        if not learned and student_width != teacher_width:
            raise ModelError(
                f"The student is {student_width} wide and the teacher {teacher_width}, so their hidden states cannot "
                "be compared as they are. Use learned projectors."
            )
        self.pairs = tuple(pairs)
        self.learned = learned
        if learned:
            for pair in self.pairs:
                self.add_module(projector_name(*pair), _first_map(pair, student_width, teacher_width, seed))

    def forward(self, student_layer: int, teacher_layer: int, hidden_PD: Float[Tensor, "P D"]) -> Float[Tensor, "P E"]:
        """Give hidden states of the student in the teacher's width, in float32 also under autocast.

        Args:
            student_layer: With ``teacher_layer`` one of ``pairs``.
            teacher_layer: See above.
            hidden_PD: Any float dtype. Gradients flow to it and to the pair's weight.

        Raises:
            ModelError: If the pair has no projector.
        """
        if (student_layer, teacher_layer) not in self.pairs:
            raise ModelError(
                f"There is no projector from student layer {student_layer} to teacher layer {teacher_layer}. Expected "
                f"one of {', '.join(projector_name(*pair) for pair in self.pairs)}."
            )
        if not self.learned:
            return widen(hidden_PD)
        # The product is a few parts in a thousand of a training step; in bf16 it would round what the loss compares.
        with no_autocast(hidden_PD.device):
            return self.get_submodule(projector_name(student_layer, teacher_layer))(widen(hidden_PD))


def projector_name(student_layer: int, teacher_layer: int) -> str:
    """Name the map of a pair, in checkpoints too."""
    return f"s{student_layer}_t{teacher_layer}"


def _first_map(pair: Pair, student_width: int, teacher_width: int, seed: int) -> nn.Linear:
    # On the meta device it draws nothing, so the global generator stays where it is.
    linear = nn.Linear(student_width, teacher_width, bias=False, device="meta", dtype=torch.float32)
    linear = linear.to_empty(device="cpu")
    if student_width == teacher_width:
        nn.init.eye_(linear.weight)
        return linear
    digest = hashlib.blake2b(f"projector {seed} {pair[0]} {pair[1]}".encode(), digest_size=8).digest()
    draw = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    nn.init.normal_(linear.weight, std=student_width**-0.5, generator=draw)
    return linear
