"""A small random problem for every entry of CAPABILITIES.

In: (source, signal, divergence). Out: student tensors, a teacher signal at chosen temperatures, a way to run a path.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from loss_oracles import ORACLES, head_logits
from torch import Tensor

from tutelage.losses import CAPABILITIES, LOSSES, HeadLosses, head_losses
from tutelage.types import ClassScores, DenseLogits, FinalHidden, LossTerm, OutputHead, Sampled, TopK

Implementation = Callable[..., HeadLosses]  # (hidden, head, labels, signal, *, terms)
STORED_TEMPERATURES = (1.0, 2.0, 4.0)
NUM_DRAWS, HEAD_K = 6, 2
CHUNK = 3  # does not divide N: the last chunk is shorter
SETTINGS = {"beta": 0.3, "skew": 0.1}  # not symmetric: a swap of the sides shows


def plain(hidden, head, labels, signal, *, terms) -> HeadLosses:
    return head_losses(hidden, head, labels, signal, terms=terms, fused=False)


def fused(hidden, head, labels, signal, *, terms) -> HeadLosses:
    return head_losses(hidden, head, labels, signal, terms=terms, fused=True, chunk=CHUNK)


PATHS: dict[str, Implementation] = {"plain": plain, "fused": fused}


def top_k_of(logits: Tensor, k: int, temperatures) -> TopK:
    logprobs = torch.log_softmax(logits, dim=-1)
    values, ids = logprobs.topk(k)
    log_z = {float(t): torch.logsumexp(logprobs / t, dim=-1) for t in temperatures}
    return TopK(ids, values, log_z, logits.shape[1])


def samples_of(logits: Tensor, temperature: float, *, seed: int = 0, head_k: int = HEAD_K) -> Sampled:
    """Keep an exact head of ``head_k`` ids and draw ``NUM_DRAWS`` more from the rest; what is not filled is padding.

    An id is drawn by its rank, so that renaming the vocabulary renames the draws and changes nothing else.
    """
    num_positions, num_ids = logits.shape
    head_k = min(head_k, num_ids)
    draw = torch.Generator().manual_seed(seed)
    logprobs, ids = torch.log_softmax(logits.double() / temperature, dim=-1).sort(dim=-1, descending=True)
    uniform = torch.rand(num_positions, NUM_DRAWS, generator=draw, dtype=torch.float64)
    tail = logprobs.exp().index_fill(1, torch.arange(head_k), 0.0)
    mass = tail.sum(dim=1, keepdim=True)
    weights = torch.zeros(num_positions, num_ids, dtype=torch.float64)  # by rank
    if head_k < num_ids:
        ranks = torch.searchsorted(tail.cumsum(1), uniform * mass, right=True)
        weights.scatter_add_(1, ranks, torch.ones_like(uniform) * mass / NUM_DRAWS)
    weights[:, :head_k] = logprobs[:, :head_k].exp()
    # The entries of a position first, in order of their rank; what is not drawn is padding.
    order = (weights == 0).to(torch.int8).argsort(dim=1, stable=True)[:, : min(head_k + NUM_DRAWS, num_ids)]
    out_weights = weights.gather(1, order)
    padding = out_weights == 0
    out_ids = ids.gather(1, order).masked_fill(padding, 0)
    out_logprobs = logprobs.gather(1, order).masked_fill(padding, 0.0)
    wide = torch.promote_types(logits.dtype, torch.float32)
    return Sampled(out_ids, out_weights.to(wide), out_logprobs.to(wide), temperature, num_ids)


def class_ids_of(num_ids: int) -> list[int]:
    """Name three label words, in no order, within a small vocabulary too."""
    return [num_ids - 2, 1, num_ids // 2]


@dataclass(frozen=True)
class Case:
    key: tuple[str, str, str]
    hidden: Tensor
    head: OutputHead
    labels: Tensor
    teacher_hidden: Tensor
    teacher_head: OutputHead
    k: int = 5
    class_ids: tuple[int, ...] = ()

    def at_size(self, *, num_positions: int, num_ids: int) -> "Case":
        """Give the case cut to fewer positions and ids."""

        def cut(head: OutputHead) -> OutputHead:
            bias = None if head.bias_V is None else head.bias_V[:num_ids]
            return replace(head, weight_VD=head.weight_VD[:num_ids], bias_V=bias)

        return replace(
            self,
            hidden=self.hidden[:num_positions],
            head=cut(self.head),
            labels=self.labels[:num_positions] % num_ids,
            teacher_hidden=self.teacher_hidden[:num_positions],
            teacher_head=cut(self.teacher_head),
            k=min(self.k, num_ids // 2),
            class_ids=tuple(class_ids_of(num_ids)),
        )

    def repeated(self, times: int) -> "Case":
        """Give the case with every position ``times`` over."""

        def tile(tensor: Tensor) -> Tensor:
            return tensor.repeat(times, *[1] * (tensor.ndim - 1))

        return replace(
            self, hidden=tile(self.hidden), labels=tile(self.labels), teacher_hidden=tile(self.teacher_hidden)
        )

    @property
    def source(self) -> str:
        return self.key[0]

    @property
    def signal_kind(self) -> str:
        return self.key[1]

    @property
    def divergence(self) -> str:
        return self.key[2]

    @property
    def capability(self):
        return CAPABILITIES[self.key]

    @property
    def compares_with_teacher(self) -> bool:
        return LOSSES[self.divergence].compares_with == "teacher"

    @property
    def temperatures(self) -> tuple[float, ...]:
        return (1.0,) if self.capability.temperatures == "one" else STORED_TEMPERATURES

    @property
    def teacher_logits(self) -> Tensor:
        return self.teacher_head.logits(self.teacher_hidden)

    def terms(self, temperature: float = 1.0, weight: float = 1.0) -> list[LossTerm]:
        return [LossTerm(self.divergence, weight, temperature, **self.settings)]

    @property
    def settings(self) -> dict[str, float]:
        """Give the divergence's beta or skew."""
        setting = LOSSES[self.divergence].setting
        return {} if setting is None else {setting: SETTINGS[setting]}

    @property
    def scored_positions(self) -> Tensor:
        """Say at which positions class scores are known: not at all of them."""
        return torch.tensor([n for n in range(len(self.labels)) if n % 3 != 1], dtype=torch.int64)

    def signal(self, temperatures=STORED_TEMPERATURES, k: int | None = None, *, at: float = 1.0):
        """Give the teacher's signal for a loss at temperature ``at``; only draws depend on it."""
        if self.signal_kind == "none":
            return None
        if self.signal_kind == "dense":
            return DenseLogits(self.teacher_logits)
        if self.signal_kind == "final_hidden":
            return FinalHidden(self.teacher_hidden, self.teacher_head)
        if self.signal_kind == "sampled":
            # float64 logits first: rounding must not move a draw to another id
            return in_dtype(samples_of(self.to(torch.float64).teacher_logits, at), self.hidden.dtype)
        if self.signal_kind == "class_scores":
            index, class_ids = self.scored_positions, torch.tensor(self.class_ids)
            logprobs = torch.log_softmax(self.teacher_logits, dim=-1)
            return ClassScores(logprobs[index][:, class_ids], class_ids, index)
        if self.source == "served":
            temperatures = ()
        return top_k_of(self.teacher_logits, k or self.k, temperatures)

    def equal_teacher(self) -> "Case":
        """Give the case whose teacher is the student itself."""
        return replace(self, teacher_hidden=self.hidden, teacher_head=self.head)

    def to(self, dtype: torch.dtype) -> "Case":
        def cast(head: OutputHead) -> OutputHead:
            bias = None if head.bias_V is None else head.bias_V.to(dtype)
            return replace(head, weight_VD=head.weight_VD.to(dtype), bias_V=bias)

        return replace(
            self,
            hidden=self.hidden.to(dtype),
            head=cast(self.head),
            teacher_hidden=self.teacher_hidden.to(dtype),
            teacher_head=cast(self.teacher_head),
        )

    def oracle(self, temperature: float) -> float:
        """Give the float64 loss by the oracle, from hidden states on."""
        student = _oracle_logits(self.hidden, self.head)
        teacher = _oracle_logits(self.teacher_hidden, self.teacher_head)
        kept = torch.as_tensor(teacher).topk(self.k).indices.tolist()
        if self.signal_kind == "sampled":
            signal = self.to(torch.float64).signal(at=temperature)
            kept = [
                list(zip(*row, strict=True))
                for row in zip(signal.ids_NK.tolist(), signal.weights_NK.tolist(), strict=True)
            ]
        if self.signal_kind == "class_scores":
            scored = self.scored_positions.tolist()
            kept = [self.class_ids if n in scored else None for n in range(len(self.labels))]
        oracle = ORACLES[self.divergence, self.signal_kind]
        return oracle(student, self.labels.tolist(), teacher, kept, temperature, *self.settings.values())


def in_dtype(signal: Sampled, dtype: torch.dtype) -> Sampled:
    """Give the signal as a cache would beside a student in ``dtype``: float32, or float64."""
    wide = torch.promote_types(dtype, torch.float32)
    return replace(signal, weights_NK=signal.weights_NK.to(wide), logprobs_NK=signal.logprobs_NK.to(wide))


def _oracle_logits(hidden: Tensor, head: OutputHead):
    bias = None if head.bias_V is None else head.bias_V.double().numpy()
    return head_logits(
        hidden.double().numpy(), head.weight_VD.double().numpy(), bias, scale=head.scale, softcap=head.softcap
    )


HEADS = {
    "plain": {"bias": False, "scale": 1.0, "softcap": None},
    "bias_scale": {"bias": True, "scale": 1.7, "softcap": None},
    "softcap": {"bias": True, "scale": 0.8, "softcap": 3.0},
}


def make_case(key, *, head: str = "plain", num_positions=7, num_ids=19, width=6, teacher_width=5, seed=0) -> Case:
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    form = HEADS[head]
    student_head = OutputHead(
        normal(num_ids, width), normal(num_ids) if form["bias"] else None, form["scale"], form["softcap"]
    )
    teacher_head = OutputHead(normal(num_ids, teacher_width), normal(num_ids), scale=1.2, softcap=6.0)
    labels = torch.randint(0, num_ids, (num_positions,), generator=draw)
    hidden, teacher_hidden = normal(num_positions, width), normal(num_positions, teacher_width)
    class_ids = tuple(class_ids_of(num_ids))
    return Case(key, hidden, student_head, labels, teacher_hidden, teacher_head, class_ids=class_ids)


def gradients(case: Case, implementation: Implementation, signal, terms):
    """Give the objective's value and its gradients with respect to hidden states, weight and bias."""
    leaves = [case.hidden, case.head.weight_VD] + ([] if case.head.bias_V is None else [case.head.bias_V])
    leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    head = replace(case.head, weight_VD=leaves[1], bias_V=leaves[2] if len(leaves) == 3 else None)
    losses = implementation(leaves[0], head, case.labels, signal, terms=terms)
    return losses.objective.total.detach(), torch.autograd.grad(losses.objective.total, leaves)
