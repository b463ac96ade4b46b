"""The losses of a ``logit`` method on plain logits, for anybody's own training loop.

In: the student's logits, the teacher's logits or a record of the cache, labels. Out: a ``LossSum``, or a message that
says what was found, what was expected and what to do.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import NoReturn

import torch
from torch import Tensor

from tutelage.errors import AlignmentError, NumericsError
from tutelage.losses.plain import logits_losses
from tutelage.losses.registry import LOSSES
from tutelage.types import ClassScores, DenseLogits, FinalHidden, LossSum, LossTerm, Sampled, TeacherSignal, TopK

# What a recipe takes where it says nothing.
DEFAULT_ALPHA, DEFAULT_SHARES = 0.3, {"beta": 0.5, "skew": 0.1}
IGNORE_INDEX = -100  # torch's and transformers'
RECORDS = DenseLogits | TopK | FinalHidden | Sampled | ClassScores
MASS_TOLERANCE = 1e-2  # of stored log-probabilities, which may be float16


def kd_loss(
    student_logits: Tensor,
    teacher: Tensor | TeacherSignal,
    labels: Tensor,
    *,
    temperature: float = 1.0,
    divergence: str = "forward_kl",
    alpha: float = DEFAULT_ALPHA,
    beta: float | None = None,
    skew: float | None = None,
    shift: bool | None = None,
    ignore_index: int = IGNORE_INDEX,
) -> LossSum:
    """Sum ``alpha * CE(labels) + (1 - alpha) * D(teacher, student)`` over the supervised positions.

    D is what a recipe's ``divergence`` of this name is, ``temperature**2`` (``temperature`` for total variation)
    included. ``alpha=0`` with equal logits gives 0. A position counts where its label is not ``ignore_index``; what
    stands at the others, NaN included, has no effect. ``loss.mean.backward()`` fits one batch per optimizer step;
    see :meth:`LossSum.over` for gradient accumulation.

    Args:
        student_logits: [B, T, V], or [N, V] of supervised positions; any float dtype, upcast to float32. Gradients
            flow here only.
        teacher: Logits (or log-probabilities over all ids) of the student's shape; or a record ``TopK`` (see
            :func:`topk_record`), ``FinalHidden`` or ``Sampled`` over all positions or over the supervised ones in
            their order, as the cache gives them; or ``ClassScores``.
        labels: [B, T] or [N], the gold token ids.
        temperature: Dimensionless, > 0.
        divergence: forward_kl, reverse_kl, jsd, skew_kl, skew_reverse_kl or total_variation.
        alpha: Weight of the gold labels, from 0 to below 1.
        beta: Of jsd only; 0.5 by default.
        skew: Of skew_kl and skew_reverse_kl only; 0.1 by default.
        shift: Needed for [B, T, V]. True: ``labels`` are a model's own ``labels``, as in transformers, and logit ``t``
            is compared with label ``t + 1``. False: logit ``t`` belongs to label ``t``.
        ignore_index: The label of positions that do not count.

    Returns:
        The sum in nats (float32 scalar) and the number of positions that count; 0 and 0 where there is none.

    Raises:
        AlignmentError: If shapes, vocabularies or positions do not fit together, or a label is no token id.
        CapabilityError: If the record does not define the divergence, or not at this temperature.
        NumericsError: If a number is NaN or infinite, with the first position, or the loss is.
        TypeError: If something has the wrong dtype or is no tensor.
        ValueError: If a setting is out of range or has no effect.

    Source:
        Hinton et al. 2015, arXiv:1503.02531; the divergences name theirs.
    """
    terms = kd_terms(divergence, temperature=temperature, alpha=alpha, beta=beta, skew=skew)
    _check_kinds(student_logits, teacher, labels)
    _check_tensors(student_logits, teacher, labels)
    targets = _targets(student_logits, labels, shift=shift, ignore_index=ignore_index).flatten()
    index_N = (targets != ignore_index).nonzero().squeeze(1)
    labels_N = targets[index_N]
    vocab_size = student_logits.shape[-1]
    _check_labels(labels_N, index_N, labels.shape, vocab_size, ignore_index)
    logits_NV = student_logits.flatten(0, -2)
    signal = _signal_at(teacher, index_N, num_positions=len(targets), vocab_size=vocab_size)
    if len(index_N) < len(targets):
        logits_NV = logits_NV[index_N]
    if len(index_N):
        _check_numbers(logits_NV, signal, index_N, labels.shape)
    loss = logits_losses(logits_NV, labels_N, signal, terms=terms).objective
    if not math.isfinite(loss.total.item()):
        _refuse_infinity(logits_NV, labels_N, index_N, labels.shape)
    return loss


def kd_terms(
    divergence: str,
    *,
    temperature: float = 1.0,
    alpha: float = DEFAULT_ALPHA,
    beta: float | None = None,
    skew: float | None = None,
) -> list[LossTerm]:
    """Return the weighted terms of :func:`kd_loss`, with its defaults.

    Raises:
        ValueError: If the divergence is unknown, or a setting is out of range or has no effect.
    """
    known = [name for name, loss in LOSSES.items() if loss.compares_with == "teacher"]
    if divergence not in known:
        raise ValueError(f"divergence is {divergence!r}; expected one of {', '.join(known)}")
    if not 0 <= alpha < 1:
        raise ValueError(
            f"alpha is {alpha}; expected from 0 (the teacher alone) to below 1 (at 1 nothing would read the teacher: "
            "use torch's cross_entropy)"
        )
    setting, given = LOSSES[divergence].setting, {"beta": beta, "skew": skew}
    for name, share in given.items():
        if share is not None and name != setting:
            raise ValueError(f"{name} is {share}, and {divergence} does not read it; leave it out")
    shares = {} if setting is None else {setting: DEFAULT_SHARES[setting] if given[setting] is None else given[setting]}
    gold = [LossTerm("cross_entropy", alpha)] if alpha > 0 else []
    return [*gold, LossTerm(divergence, 1 - alpha, temperature, beta=shares.get("beta"), skew=shares.get("skew"))]


def topk_record(ids: Tensor, logprobs: Tensor, *, vocab_size: int, log_z: Mapping[float, Tensor] | None = None) -> TopK:
    """Make a record of the teacher's k most likely ids, for :func:`kd_loss`.

    Args:
        ids: [B, T, K] or [N, K], each position's ids once.
        logprobs: Of the same shape: natural logarithms of the probabilities over the *whole* vocabulary at T = 1, as
            servers give them; not logits, and not normalised over the k.
        vocab_size: Of the teacher.
        log_z: By temperature, ``log sum_v p_v ** (1/T)`` over the whole vocabulary, [B, T] or [N]; without it only
            T = 1 is defined, because the probabilities that were not kept decide it.

    Raises:
        AlignmentError: If the shapes differ, or an id is not below ``vocab_size``.
        ValueError: If the numbers cannot be log-probabilities.
    """
    if ids.shape != logprobs.shape or ids.ndim < 2:
        raise AlignmentError(
            f"the top-k ids have shape {_shape(ids)}, their log-probabilities {_shape(logprobs)}; expected one shape, "
            "[B, T, K] or [N, K]"
        )
    ids_NK, logprobs_NK = ids.flatten(0, -2), logprobs.flatten(0, -2)
    if ids.numel():
        _check_topk(ids_NK, logprobs_NK, vocab_size)
    log_z_N = {float(temperature): values.flatten() for temperature, values in (log_z or {}).items()}
    for temperature, values in log_z_N.items():
        if len(values) != len(ids_NK):
            raise AlignmentError(
                f"log_z at temperature {temperature:g} has {len(values)} values, the record {len(ids_NK)} positions; "
                "expected one per position"
            )
    return TopK(ids_NK, logprobs_NK, log_z_N, vocab_size)


def _check_topk(ids_NK: Tensor, logprobs_NK: Tensor, vocab_size: int) -> None:
    largest = int(ids_NK.max())
    if int(ids_NK.min()) < 0 or largest >= vocab_size:
        raise AlignmentError(
            f"the top-k ids go from {int(ids_NK.min())} to {largest}; expected 0 to {vocab_size - 1}: check vocab_size"
        )
    mass_N = logprobs_NK.double().exp().sum(dim=1) if logprobs_NK.device.type != "mps" else logprobs_NK.exp().sum(dim=1)
    if not bool((mass_N <= 1 + MASS_TOLERANCE).all()):
        position = int((~(mass_N <= 1 + MASS_TOLERANCE)).nonzero()[0])
        raise ValueError(
            f"the kept probabilities of position {position} sum to {float(mass_N[position]):.4g}; expected at most 1: "
            "pass log-probabilities over the whole vocabulary (`torch.log_softmax(logits, -1).topk(k)`), not logits "
            "and not probabilities"
        )


def _check_kinds(student_logits: object, teacher: object, labels: object) -> None:
    expected = {
        "student_logits": (student_logits, Tensor, "a tensor"),
        "labels": (labels, Tensor, "a tensor"),
        "teacher": (teacher, Tensor | RECORDS, "logits or a record (TopK, FinalHidden, Sampled, ClassScores)"),
    }
    for name, (found, kinds, words) in expected.items():
        if not isinstance(found, kinds):
            hint = f"; pass its `.logits` as {name}" if hasattr(found, "logits") else ""
            raise TypeError(f"{name} is a {type(found).__name__}; expected {words}{hint}")


def _check_tensors(student_logits: Tensor, teacher: Tensor | TeacherSignal, labels: Tensor) -> None:
    logits = {"student_logits": student_logits} | ({"teacher": teacher} if isinstance(teacher, Tensor) else {})
    for name, tensor in logits.items():
        if not tensor.is_floating_point():
            raise TypeError(f"{name} has dtype {tensor.dtype}; expected raw logits in a float dtype")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"labels have dtype {labels.dtype}; expected token ids in an integer dtype such as torch.long")
    if student_logits.ndim not in (2, 3):
        raise AlignmentError(f"student_logits have shape {_shape(student_logits)}; expected [B, T, V] or [N, V]")
    if labels.shape != student_logits.shape[:-1]:
        raise AlignmentError(
            f"labels have shape {_shape(labels)}, student_logits {_shape(student_logits)}; expected one label per "
            f"position, {list(student_logits.shape[:-1])}, and {IGNORE_INDEX} where a position does not count"
        )
    if isinstance(teacher, Tensor) and teacher.shape != student_logits.shape:
        raise AlignmentError(
            f"the teacher's logits have shape {_shape(teacher)}, the student's {_shape(student_logits)}; expected the "
            "same positions and the same ids. " + _how_to_fit(teacher.shape[-1], student_logits.shape[-1])
        )
    for name, tensor in {**logits, "labels": labels}.items():
        if tensor.device != student_logits.device:
            raise AlignmentError(
                f"{name} lies on {tensor.device}, student_logits on {student_logits.device}; expected one device: use "
                f"`{name}.to({str(student_logits.device)!r})`"
            )


def _how_to_fit(teacher_size: int, student_size: int) -> str:
    if teacher_size == student_size:
        return "Run both models on the same `input_ids`."
    return (
        f"The teacher has {teacher_size} ids and the student {student_size}: with one tokenizer, cut both to its ids "
        "(`logits[..., : len(tokenizer)]`); with two, ids do not mean the same and no divergence over them is defined."
    )


def _targets(student_logits: Tensor, labels: Tensor, *, shift: bool | None, ignore_index: int) -> Tensor:
    """Give the label that belongs to each logit, of the labels' shape."""
    if student_logits.ndim == 2:
        if shift:
            raise ValueError(
                "shift is True, but [N, V] logits are positions of several rows laid end to end; expected labels that "
                "are shifted already: leave `shift` out, or pass [B, T, V]"
            )
        return labels
    if shift is None:
        raise ValueError(
            "shift is missing, and logits of [B, T, V] need it; expected True for a model's own labels as in "
            "transformers (logit t predicts label t + 1), or False for labels that are shifted already"
        )
    if not shift:
        return labels
    return torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], ignore_index)], dim=1)


def _check_labels(labels_N: Tensor, index_N: Tensor, shape: torch.Size, vocab_size: int, ignore_index: int) -> None:
    outside_N = (labels_N < 0) | (labels_N >= vocab_size)
    if bool(outside_N.any()):
        first = int(outside_N.nonzero()[0])
        raise AlignmentError(
            f"the label of {_place(int(index_N[first]), shape)} is {int(labels_N[first])}; expected a token id from 0 "
            f"to {vocab_size - 1}, or {ignore_index} (ignore_index) where a position does not count"
        )


def _signal_at(
    teacher: Tensor | TeacherSignal, index_N: Tensor, *, num_positions: int, vocab_size: int
) -> TeacherSignal:
    """Give the teacher's signal at the supervised positions."""
    if isinstance(teacher, Tensor):
        logits_NU = teacher.flatten(0, -2)
        return DenseLogits(logits_NU if len(index_N) == num_positions else logits_NU[index_N])
    if isinstance(teacher, ClassScores):
        return teacher
    found, size = _extent(teacher)
    if size != vocab_size:
        raise AlignmentError(f"The record does not fit the student. {_how_to_fit(size, vocab_size)}")
    if found not in (num_positions, len(index_N)):
        raise AlignmentError(
            f"the teacher's record has {found} positions; expected {len(index_N)}, the positions whose label counts, "
            f"or {num_positions}, all of them"
        )
    return teacher if found == len(index_N) else _take(teacher, index_N)


def _extent(record: TeacherSignal) -> tuple[int, int]:
    """Give the number of positions of a record and the size of its vocabulary."""
    match record:
        case DenseLogits():
            return record.logits_NU.shape[0], record.logits_NU.shape[1]
        case FinalHidden():
            return record.hidden_NE.shape[0], record.head.weight_VD.shape[0]
        case TopK() | Sampled():
            return record.ids_NK.shape[0], record.vocab_size
    raise TypeError(f"a {type(record).__name__} holds no distribution at positions")


def _take(record: TeacherSignal, index_N: Tensor) -> TeacherSignal:
    match record:
        case DenseLogits():
            return DenseLogits(record.logits_NU[index_N])
        case FinalHidden():
            return replace(record, hidden_NE=record.hidden_NE[index_N])
        case TopK():
            log_z_N = {temperature: values[index_N] for temperature, values in record.log_z_N.items()}
            return TopK(record.ids_NK[index_N], record.logprobs_NK[index_N], log_z_N, record.vocab_size)
        case Sampled():
            taken = {name: getattr(record, name)[index_N] for name in ("ids_NK", "weights_NK", "logprobs_NK")}
            return replace(record, **taken)
    raise TypeError(f"a {type(record).__name__} holds no distribution at positions")


def _check_numbers(logits_NV: Tensor, signal: TeacherSignal, index_N: Tensor, shape: torch.Size) -> None:
    """Refuse NaN and +inf before they are summed: where a probability is not above 0, a divergence adds nothing."""
    sides = {"student_logits": logits_NV} | ({} if isinstance(signal, ClassScores) else {"teacher": _numbers(signal)})
    for name, numbers_NX in sides.items():
        # a row's maximum is NaN or +inf if anything in it is, and -inf if everything is; a single -inf is an id that
        # cannot occur
        is_bad_N = ~numbers_NX.detach().amax(dim=1).isfinite()
        if bool(is_bad_N.any()):
            place = _place(int(index_N[int(is_bad_N.nonzero()[0])]), shape)
            raise NumericsError(
                f"{name} holds NaN or infinity at {place} ({int(is_bad_N.sum())} of {len(index_N)} positions that "
                "count); expected finite numbers: look at that row's input, lower the learning rate, or compute in "
                "bfloat16 or float32 instead of float16"
            )


def _refuse_infinity(logits_NV: Tensor, labels_N: Tensor, index_N: Tensor, shape: torch.Size) -> NoReturn:
    is_impossible_N = logits_NV.gather(1, labels_N[:, None]).squeeze(1).isneginf()
    if bool(is_impossible_N.any()):
        place = _place(int(index_N[int(is_impossible_N.nonzero()[0])]), shape)
        raise NumericsError(
            f"student_logits gives the label of {place} no probability (its logit is -inf); expected labels that the "
            "student can produce: check which ids are masked out"
        )
    raise NumericsError(
        "the loss is not finite: the student gives no probability (logit -inf) to an id that the teacher may produce; "
        "mask the same ids out of both logits"
    )


def _numbers(signal: TeacherSignal) -> Tensor:
    match signal:
        case DenseLogits():
            return signal.logits_NU
        case FinalHidden():
            return signal.hidden_NE
        case TopK() | Sampled():
            return signal.logprobs_NK
    raise TypeError(f"a {type(signal).__name__} holds no distribution at positions")


def _place(flat: int, shape: torch.Size) -> str:
    return f"position {flat}" if len(shape) == 1 else f"row {flat // shape[1]}, logit {flat % shape[1]}"


def _shape(tensor: Tensor) -> list[int]:
    return list(tensor.shape)
