"""The column of final hidden states.

In: ``hidden_NE``. Out: fixed-size records, and back.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from typing_extensions import override

from tutelage.cache.column import TensorDict, first_true
from tutelage.cache.fixed import DTYPES, FixedColumn, from_bytes, require_dtype, to_bytes


@dataclass(frozen=True)
class FinalHiddenColumn(FixedColumn):
    """The teacher's last hidden state; with the copy of its head this is every logit, exactly.

    ``dtype`` is the teacher's compute dtype when the round trip is to be exact.
    """

    width: int  # E
    dtype: str = "bf16"

    kind: ClassVar[str] = "final_hidden"

    def __post_init__(self) -> None:
        require_dtype(self.dtype, self.kind)

    @property
    @override
    def name(self) -> str:
        return f"final_hidden-e{self.width}-{self.dtype}"

    @property
    @override
    def parts(self) -> dict[str, int]:
        return {"values": self.width * DTYPES[self.dtype].itemsize}

    @property
    @override
    def spec(self) -> dict[str, Any]:
        return {"kind": self.kind, "width": self.width, "dtype": self.dtype}

    @override
    def first_problem(self, tensors: TensorDict) -> tuple[int, str] | None:
        stored_NE = tensors["hidden_NE"].to(DTYPES[self.dtype])
        return first_true(~stored_NE.isfinite().all(dim=1), f"a hidden value is not finite in {self.dtype}")

    @override
    def encode(self, tensors: TensorDict) -> np.ndarray:
        return to_bytes(tensors["hidden_NE"], DTYPES[self.dtype])

    @override
    def decode(self, records: np.ndarray) -> TensorDict:
        return {"hidden_NE": from_bytes(records, DTYPES[self.dtype])}
