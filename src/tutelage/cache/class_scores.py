"""The column of class scores.

In: ``scores_NC``. Out: fixed-size records, and back.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from typing_extensions import override

from tutelage.cache.column import TensorDict, first_true
from tutelage.cache.fixed import FixedColumn, from_bytes, to_bytes
from tutelage.errors import CapabilityError
from tutelage.store import value_digest
from tutelage.types import TeacherRow


@dataclass(frozen=True)
class ClassScoresColumn(FixedColumn):
    """The log-probability of each label's one-token verbaliser at a row's first wanted position.

    The log-softmax runs over the whole vocabulary, so the scores of a row need not sum to 1.
    """

    class_token_ids: tuple[int, ...]

    kind: ClassVar[str] = "class_scores"

    def __post_init__(self) -> None:
        object.__setattr__(self, "class_token_ids", tuple(int(token) for token in self.class_token_ids))
        if len(set(self.class_token_ids)) != len(self.class_token_ids) or len(self.class_token_ids) < 2:
            raise CapabilityError(
                f"class_scores was given the verbaliser ids {list(self.class_token_ids)}. Expected at least two, all "
                "different; change the verbalisers of the task."
            )

    @property
    @override
    def name(self) -> str:
        digest = value_digest(list(self.class_token_ids), length=8)
        return f"class_scores-c{len(self.class_token_ids)}-{digest}"

    @property
    @override
    def parts(self) -> dict[str, int]:
        return {"values": 4 * len(self.class_token_ids)}

    @property
    @override
    def spec(self) -> dict[str, Any]:
        return {"kind": self.kind, "class_token_ids": list(self.class_token_ids)}

    @override
    def positions_of(self, row: TeacherRow) -> np.ndarray:
        return row.positions[:1]

    @override
    def first_problem(self, tensors: TensorDict) -> tuple[int, str] | None:
        scores_NC = tensors["scores_NC"]
        wrong_N = ~(scores_NC.isfinite() & (scores_NC <= 0)).all(dim=1)
        return first_true(wrong_N, "a class score is not a finite log-probability")

    @override
    def encode(self, tensors: TensorDict) -> np.ndarray:
        return to_bytes(tensors["scores_NC"], torch.float32)

    @override
    def decode(self, records: np.ndarray) -> TensorDict:
        return {"scores_NC": from_bytes(records, torch.float32)}
