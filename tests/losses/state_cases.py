"""A small random problem for every loss over hidden states.

In: the name of a loss and its settings. Out: states of both sides, whose rows belong to units (tokens or groups).
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from state_oracles import STATE_ORACLES
from torch import Tensor

from tutelage.losses import STATE_LOSSES
from tutelage.types import LossSum

Implementation = Callable[..., LossSum]  # (student, teacher, sizes of the units, mask or None)

# Losses that a setting turns into another one are proven in each form.
VARIANTS: dict[str, list[dict[str, Any]]] = {"relation_angle": [{"form": "rkd"}, {"form": "cosine"}]}
GROUP_SIZES = (3, 4, 3, 5, 3, 3, 4, 3)
TOKENS_PER_ROW = (2, 0, 3, 1, 0, 0, 1, 0)


@dataclass(frozen=True)
class StateCase:
    name: str
    student: Tensor  # [R, D]
    teacher: Tensor  # [R, E]
    sizes: tuple[int, ...]  # rows of each unit, adjacent: 1 for a token
    units_per_row: tuple[int, ...]  # how the units are dealt to the eight rows, or groups, of a step
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def takes_mask(self) -> bool:
        return STATE_LOSSES[self.name].reads == "hidden"

    @property
    def implementation(self) -> Implementation:
        """The package's loss, called as the checks call one."""
        compute = STATE_LOSSES[self.name].compute
        if self.takes_mask:
            return lambda student, teacher, sizes, mask=None: compute(student, teacher, mask=mask)
        return lambda student, teacher, sizes, mask=None: compute(student, teacher, sizes, **self.settings)

    def oracle(self) -> float:
        return STATE_ORACLES[self.name](self.student.numpy(), self.teacher.numpy(), self.sizes, **self.settings)

    def to(self, dtype: torch.dtype) -> "StateCase":
        return replace(self, student=self.student.to(dtype), teacher=self.teacher.to(dtype))


def make_state_case(name: str, settings: dict[str, Any] | None = None) -> StateCase:
    """Draw states with a common offset and sizes that differ between rows, as a model's do."""
    draw = torch.Generator().manual_seed(5)
    pooled = STATE_LOSSES[name].reads == "pooled"
    sizes = GROUP_SIZES if pooled else (1,) * sum(TOKENS_PER_ROW)
    student_width, teacher_width = (7, 5) if pooled else (6, 6)  # a relation is compared across widths

    def states(width: int) -> Tensor:
        rows = torch.randn(sum(sizes), width, generator=draw, dtype=torch.float64)
        return (rows + 0.5) * torch.rand(sum(sizes), 1, generator=draw, dtype=torch.float64).add(0.5)

    units_per_row = (1,) * len(sizes) if pooled else TOKENS_PER_ROW
    return StateCase(name, states(student_width), states(teacher_width), sizes, units_per_row, settings or {})
