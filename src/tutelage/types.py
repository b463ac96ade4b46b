"""The records that cross a border between two folders.

In: tensors, ids and keys made by ``data``, ``models`` and ``teacher``. Out: frozen dataclasses
that ``losses``, ``train`` and ``evaluate`` read. Axis letters: ``docs/notation.md``.
"""

import hashlib
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

ROW_KEY_VERSION = b"tutelage-row-1"
ROW_KEY_BYTES = 16


def row_key(ids: np.ndarray) -> bytes:
    """Address a row by the teacher's token ids.

    Args:
        ids: Token ids, any integer dtype, shape [S].

    Returns:
        16 bytes: blake2b-128 over a version tag and the ids as little-endian int32.
    """
    digest = hashlib.blake2b(ROW_KEY_VERSION, digest_size=ROW_KEY_BYTES)
    digest.update(np.ascontiguousarray(ids, dtype="<i4").tobytes())
    return digest.digest()


@dataclass(frozen=True)
class TeacherRow:
    """One sequence as the teacher reads it.

    ``positions`` are the *logit* indices whose signal is wanted: index ``i`` predicts token
    ``i + 1``. They are sorted, unique and not part of the key.
    """

    ids: np.ndarray  # int32 [S]
    positions: np.ndarray  # int64 [P], 0 <= p < S
    key: bytes = field(default=b"")

    def __post_init__(self) -> None:
        if not self.key:
            object.__setattr__(self, "key", row_key(self.ids))


@dataclass(frozen=True)
class StudentRow:
    """One sequence as the student reads it.

    ``target_mask[i]`` is True when token ``i`` is a supervised *target*; ``target_mask[0]`` is
    always False because no logit predicts it. ``teacher_ids`` equal ``ids`` when teacher and
    student share one tokenizer.
    """

    item_key: str
    ids: np.ndarray  # int32 [T]
    target_mask: np.ndarray  # bool [T]
    teacher_key: bytes
    byte_spans: np.ndarray | None = None  # int32 [T, 2]: start and end byte of each token in the text


@dataclass(frozen=True)
class Batch:
    """Rows laid out for one forward pass, with the flat indices of their N supervised positions.

    Padded: ``input_ids`` is [B, T] and ``attention_mask`` marks real tokens. Packed:
    ``input_ids`` is [1, B*T'] and ``attention_mask`` is None; ``position_ids`` restart at every
    document. ``logit_index_N`` indexes the flattened [B*T] grid of hidden states.
    """

    input_ids: Int[Tensor, "B T"]
    position_ids: Int[Tensor, "B T"]
    attention_mask: Int[Tensor, "B T"] | None
    logit_index_N: Int[Tensor, " N"]
    labels_N: Int[Tensor, " N"]
    teacher_rows: list[TeacherRow]  # the same rows as the teacher reads them, with the positions that the N come from
    item_keys: list[str]
    num_tokens: int  # real tokens, padding not counted
    group_sizes: tuple[int, ...] = ()  # of adjacent rows that are compared with each other; none without groups
    group_seeds: tuple[int, ...] = ()  # for what is drawn within each

    @property
    def num_targets(self) -> int:
        """N, the number of supervised positions."""
        return int(self.labels_N.shape[0])


@dataclass(frozen=True)
class LossSum:
    """A loss over ``count`` supervised positions: ``total`` in nats, float32, not yet divided.

    ``loss.mean.backward()`` is right where one call sees the whole optimizer step. Where gradients of several
    micro-batches add up, divide each by the count of all of them: ``loss.over(num_items_in_batch).backward()``.
    """

    total: Float[Tensor, ""]
    count: int

    @property
    def mean(self) -> Tensor:
        """The loss per position of this call alone; 0 where there is none."""
        return self.total / max(self.count, 1)

    def over(self, count: int | Tensor | None) -> Tensor:
        """Divide by the count of a whole optimizer step; None: by that of this call, as :attr:`mean` does.

        Raises:
            ValueError: If the step is said to hold fewer positions than this part of it.
        """
        if count is None:
            return self.mean
        if torch.as_tensor(count).ndim == 0 and int(count) < self.count:  # data parallelism scatters a vector
            raise ValueError(
                f"the optimizer step is said to count {int(count)} positions, this part of it alone has {self.count}; "
                "expected the number over all micro-batches of the step: count the labels that are not ignored, after "
                "the shift by one"
            )
        return self.total / torch.as_tensor(count, device=self.total.device).clamp(min=1).squeeze()


@dataclass(frozen=True)
class LossTerm:
    """One summand of a method's objective: ``weight * LOSSES[kind]`` at ``temperature``.

    ``beta`` belongs to ``jsd`` and ``skew`` to the skew losses: between 0 and 1 there, None elsewhere.
    """

    kind: str  # a key of losses.LOSSES, or the name of a registered loss
    weight: float
    temperature: float = 1.0
    beta: float | None = None
    skew: float | None = None
    settings: tuple[tuple[str, float | int | bool | str], ...] = ()  # of a loss that a user registered

    @property
    def name(self) -> str:
        """How logs and reports call this term."""
        return self.kind


@dataclass(frozen=True)
class StateTerm:
    """One summand over hidden states: ``weight`` times the mean over ``pairs`` of ``STATE_LOSSES[kind]``.

    ``pairs`` are (student layer, teacher layer); a loss over pooled vectors has one. ``form`` belongs to
    ``relation_angle`` and ``per_sample``, how many partners are drawn (0: all), to both relation losses.
    """

    kind: str  # a key of losses.STATE_LOSSES
    weight: float
    pairs: tuple[tuple[int, int], ...]
    form: str = "rkd"
    per_sample: int = 0

    @property
    def name(self) -> str:
        """How logs and reports call this term."""
        return self.kind


@dataclass(frozen=True)
class OutputHead:
    """What turns a final hidden state into logits.

    ``logits = softcap * tanh(z / softcap)`` with ``z = scale * (h @ weight.T + bias)``; without
    a softcap, ``logits = z``.
    """

    weight_VD: Float[Tensor, "V D"]
    bias_V: Float[Tensor, " V"] | None = None
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, hidden_ND: Float[Tensor, "N D"]) -> Float[Tensor, "N V"]:
        """Apply the head in the weight's dtype; float32 comes out (float64 stays). Gradients flow to both."""
        z_NV = torch.nn.functional.linear(hidden_ND.to(self.weight_VD.dtype), self.weight_VD, self.bias_V)
        z_NV = z_NV.to(torch.promote_types(z_NV.dtype, torch.float32))
        if self.scale != 1.0:
            z_NV = z_NV * self.scale
        if self.softcap is not None:
            z_NV = self.softcap * torch.tanh(z_NV / self.softcap)
        return z_NV


@dataclass(frozen=True)
class DenseLogits:
    """The teacher's full logits at N positions, from a live teacher."""

    logits_NU: Float[Tensor, "N U"]


@dataclass(frozen=True)
class TopK:
    """The teacher's k largest log-probabilities at T = 1 and what is needed to move to another T.

    ``log_z_N[T] = log sum_v p_v ** (1/T)`` over the whole vocabulary, so that
    ``log p_T(v) = log p_1(v) / T - log_z_N[T]`` is exact for every kept id and the tail mass is
    ``1 - sum_kept``. ``log_z_N[1.0]`` is 0 up to rounding.
    """

    ids_NK: Int[Tensor, "N K"]
    logprobs_NK: Float[Tensor, "N K"]
    log_z_N: dict[float, Float[Tensor, " N"]]
    vocab_size: int


@dataclass(frozen=True)
class FinalHidden:
    """The teacher's last hidden state at N positions, with the head that reads it."""

    hidden_NE: Float[Tensor, "N E"]
    head: OutputHead


@dataclass(frozen=True)
class ClassScores:
    """The teacher's log-probability of each label's verbaliser, one row of scores per item.

    ``token_ids_C`` are the verbalisers' ids and ``index_B`` says which of the batch's N positions a row belongs to, the
    one that predicts the verbaliser; None: all, in order. A loss needs the ids, reading the scores does not.
    """

    scores_BC: Float[Tensor, "B C"]
    token_ids_C: Int[Tensor, " C"] | None = None
    index_B: Int[Tensor, " B"] | None = None


@dataclass(frozen=True)
class Sampled:
    """A sparse, unbiased estimate of the teacher's distribution at one temperature.

    ``weights_NK[n, j]`` estimates ``p_T(ids_NK[n, j])``: exact for the entries of an exact head, ``tail mass *
    count / draws`` for the drawn ones. The weights of a position sum to 1; an entry of weight 0 is padding.
    """

    ids_NK: Int[Tensor, "N K"]
    weights_NK: Float[Tensor, "N K"]
    logprobs_NK: Float[Tensor, "N K"]  # log p_T, 0 where padding; out of a cache their weighted mean is kept, not each
    temperature: float
    vocab_size: int


@dataclass(frozen=True)
class HiddenStates:
    """The teacher's hidden states after one layer, at P tokens of the batch's rows.

    Layer 0 is the output of the embeddings, layer ``n`` that of the n-th decoder layer, before the final norm.
    ``tokens`` lists, per row, the stored token numbers (0-based, in the teacher's row).
    """

    layer: int
    hidden_PE: Float[Tensor, "P E"]
    tokens: list[np.ndarray]


@dataclass(frozen=True)
class Pooled:
    """One vector per row: the mean over its real tokens of the hidden states after one layer."""

    layer: int
    pooled_BE: Float[Tensor, "B E"]


TeacherSignal = DenseLogits | TopK | FinalHidden | ClassScores | Sampled | HiddenStates | Pooled


@dataclass(frozen=True)
class TeacherSignals:
    """All that is said about one batch: at most one distribution per target, hidden states by teacher layer."""

    distribution: DenseLogits | TopK | FinalHidden | ClassScores | Sampled | None = None
    hidden: dict[int, HiddenStates] = field(default_factory=dict)
    pooled: dict[int, Pooled] = field(default_factory=dict)
