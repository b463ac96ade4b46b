"""Relational losses: compare how the rows of a group lie to each other, in the student's space and in the teacher's.

In: one vector per row of both models, rows of a group adjacent, and the sizes of the groups. Out: a ``LossSum`` over
groups. A group is compared with nothing outside it, so whole groups may be dealt to micro-batches and ranks at will.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from tutelage.errors import AlignmentError
from tutelage.losses.precision import no_autocast, wide_dtype
from tutelage.types import LossSum

# Closer than this, the direction from one row to another is made of roundings of the rows.
COINCIDENT_ROUNDINGS = 64


def relation_distance(
    student_BD: Float[Tensor, "B D"],
    teacher_BE: Float[Tensor, "B E"],
    group_sizes: Sequence[int],
    *,
    pairs_per_sample: int = 0,
    seeds: Sequence[int] | None = None,
) -> LossSum:
    """Sum over the groups how much the rows' relative distances differ between student and teacher.

    Per group ``mean over i != j of huber(d_S(i, j) / mean(d_S) - d_T(i, j) / mean(d_T))``: Euclidean distances,
    each side divided by its own mean over all pairs of the group, Huber with delta 1. 0 when the student's vectors are
    the teacher's up to rotation, shift and scale, and for every group of one or two different rows. The distance of
    rows that coincide is 0 without a gradient; so a student whose rows all coincide is not moved.

    Args:
        student_BD: One vector per row, any float dtype; upcast to float32. Gradients flow here only.
        teacher_BE: The teacher's vectors of the same rows, of any width.
        group_sizes: Rows of each group, in order; they add up to B.
        pairs_per_sample: Partners drawn for each row, without repetition; 0 or more than there are: all. The mean
            that divides stays that over all pairs, so the drawn loss is an unbiased estimate of the whole one.
        seeds: One per group, at least 0; a group's draw depends on its seed, its size and ``pairs_per_sample`` only.

    Returns:
        The sum, without unit (float32 scalar), and the number of groups, small ones included.

    Raises:
        AlignmentError: If the rows of student, teacher and groups do not agree.
        ValueError: If something is to be drawn and there is not one seed per group, or a number is negative.

    Source:
        Park et al. 2019 (RKD), arXiv:1904.05068, section 3.2.1.
    """
    _check(student_BD, teacher_BE, group_sizes, drawn=pairs_per_sample, seeds=seeds)
    total = _connected_zero(student_BD)
    with no_autocast(student_BD.device):
        for student_JGD, teacher_JGE, seeds_J in _groups_of_one_size(student_BD, teacher_BE, group_sizes, seeds):
            num_rows = student_JGD.shape[1]
            partners_JGQ = _draw(seeds_J, num_rows=num_rows, num_choices=num_rows - 1, count=pairs_per_sample)
            if partners_JGQ is not None:
                partners_JGQ = _partners(partners_JGQ).to(student_JGD.device)
            total = total + _distance_per_group(student_JGD, teacher_JGE, partners_JGQ).sum()
    return LossSum(total, len(group_sizes))


def relation_angle(
    student_BD: Float[Tensor, "B D"],
    teacher_BE: Float[Tensor, "B E"],
    group_sizes: Sequence[int],
    *,
    form: Literal["rkd", "cosine"] = "rkd",
    triplets_per_sample: int = 0,
    seeds: Sequence[int] | None = None,
) -> LossSum:
    """Sum over the groups how much the angles between rows differ between student and teacher.

    Per group, with Huber of delta 1:

    * ``rkd``: ``mean over distinct (i, j, k) of huber(cos_S(i, j, k) - cos_T(i, j, k))``, the cosine of the angle at
      vertex j between the rows i and k. 0 for equality up to rotation, shift and scale, and for fewer than three rows.
      A triplet with coincident rows on either side has no angle: it adds 0 and stays in the mean's denominator.
    * ``cosine``: ``mean over i != j of huber(cos(s_i, s_j) - cos(t_i, t_j))``, the angle at the origin: pairs, no
      triplets. 0 for equality up to rotation and scale, and for a single row. A pair with a zero vector adds 0.

    Args:
        student_BD: One vector per row, any float dtype; upcast to float32. Gradients flow here only.
        teacher_BE: The teacher's vectors of the same rows, of any width.
        group_sizes: Rows of each group, in order; they add up to B.
        form: Where the angle's vertex lies: at each row in turn (``rkd``), or at the origin (``cosine``).
        triplets_per_sample: Pairs of partners drawn for each vertex, without repetition; 0 or more than there are:
            all. The drawn loss is an unbiased estimate of the whole one. ``rkd`` only.
        seeds: One per group, at least 0; a group's draw depends on its seed, its size and ``triplets_per_sample`` only.

    Returns:
        The sum, without unit (float32 scalar), and the number of groups, small ones included.

    Raises:
        AlignmentError: If the rows of student, teacher and groups do not agree.
        ValueError: If ``form`` is unknown or has no triplets to draw, if something is to be drawn and there is not
            one seed per group, or a number is negative.

    Source:
        Park et al. 2019 (RKD), arXiv:1904.05068, section 3.2.2. ``cosine`` is close to Tung and Mori 2019,
        arXiv:1907.09682, who compare matrices of inner products with normalised rows.
    """
    if form not in ("rkd", "cosine"):
        raise ValueError(f"the form of the angle is {form!r}, expected 'rkd' or 'cosine'")
    if form == "cosine" and triplets_per_sample:
        raise ValueError(
            f"triplets_per_sample is {triplets_per_sample}, but the cosine form compares pairs and has no triplets: "
            "set it to 0, or the form to 'rkd'"
        )
    _check(student_BD, teacher_BE, group_sizes, drawn=triplets_per_sample, seeds=seeds)
    total = _connected_zero(student_BD)
    with no_autocast(student_BD.device):
        for student_JGD, teacher_JGE, seeds_J in _groups_of_one_size(student_BD, teacher_BE, group_sizes, seeds):
            if form == "cosine":
                per_group_J = _cosine_per_group(student_JGD, teacher_JGE)
            else:
                per_group_J = _angle_per_group(student_JGD, teacher_JGE, seeds_J, triplets_per_sample)
            total = total + per_group_J.sum()
    return LossSum(total, len(group_sizes))


def _check(
    student_BD: Tensor, teacher_BE: Tensor, group_sizes: Sequence[int], *, drawn: int, seeds: Sequence[int] | None
) -> None:
    """Refuse rows, groups and seeds that do not belong together."""
    if len(student_BD) != len(teacher_BE) or len(student_BD) != sum(group_sizes) or min(group_sizes, default=1) < 1:
        raise AlignmentError(
            f"the student has {len(student_BD)} row(s), the teacher {len(teacher_BE)}, the groups {list(group_sizes)}: "
            "expected groups of at least one row that hold every row of both once; take the sizes from the batch plan"
        )
    if drawn < 0:
        raise ValueError(f"{drawn} draws per row; expected 0 (all) or more")
    if drawn and (seeds is None or len(seeds) != len(group_sizes) or min(seeds, default=0) < 0):
        found = "no seeds" if seeds is None else f"the seeds {list(seeds)}"
        raise ValueError(f"{found} for {len(group_sizes)} group(s); drawing needs one seed of at least 0 per group")


def _connected_zero(student_BD: Tensor) -> Float[Tensor, ""]:
    """Give a 0 that reaches the student in backward, also where no group has a pair; NaN rows do not matter."""
    return student_BD[:0].to(wide_dtype(student_BD.dtype)).sum()


def _groups_of_one_size(
    student_BD: Tensor, teacher_BE: Tensor, group_sizes: Sequence[int], seeds: Sequence[int] | None
) -> Iterator[tuple[Float[Tensor, "J G D"], Float[Tensor, "J G E"], list[int]]]:
    """Stack the groups of each size, widened, the teacher detached; single rows have no relation and are left out."""
    sizes = np.asarray(group_sizes, dtype=np.int64)
    starts = np.cumsum(sizes) - sizes
    dtype = wide_dtype(student_BD.dtype)
    for size in sorted(set(group_sizes) - {1}):
        groups = np.flatnonzero(sizes == size)
        rows_JG = torch.from_numpy(starts[groups, None] + np.arange(size)).to(student_BD.device)
        seeds_J = [] if seeds is None else [seeds[group] for group in groups.tolist()]
        yield student_BD[rows_JG].to(dtype), teacher_BE.detach()[rows_JG.to(teacher_BE.device)].to(dtype), seeds_J


def _draw(seeds_J: list[int], *, num_rows: int, num_choices: int, count: int) -> Int[Tensor, "J G Q"] | None:
    """Draw ``count`` of the choices for every row of every group, without repetition; None stands for all of them."""
    if count == 0 or count >= num_choices:
        return None
    # Raw draws are equal in every numpy (NEP 19), on every device; the smallest `count` of them name the choices.
    keys = np.stack([np.random.PCG64(seed).random_raw(num_rows * num_choices) for seed in seeds_J])
    chosen = np.argpartition(keys.reshape(len(seeds_J), num_rows, num_choices), count - 1, axis=-1)[..., :count]
    return torch.from_numpy(np.sort(chosen, axis=-1))


def _partners(choices_JGQ: Int[Tensor, "J G Q"]) -> Int[Tensor, "J G Q"]:
    """Number the other rows of a group: the c-th choice of row g is row c, or c + 1 from g on."""
    row_G1 = torch.arange(choices_JGQ.shape[1], device=choices_JGQ.device)[:, None]
    return choices_JGQ + (choices_JGQ >= row_G1)


def _distance_per_group(
    student_JGD: Float[Tensor, "J G D"], teacher_JGE: Float[Tensor, "J G E"], partners_JGQ: Int[Tensor, "J G Q"] | None
) -> Float[Tensor, " J"]:
    num_rows = student_JGD.shape[1]
    student_JGG, teacher_JGG = _relative_distances(student_JGD), _relative_distances(teacher_JGE)
    gap_JGG = smooth_l1_loss(student_JGG, teacher_JGG, reduction="none")
    if partners_JGQ is None:
        return gap_JGG.sum(dim=(1, 2)) / (num_rows * (num_rows - 1))  # the diagonal is 0 on both sides
    return gap_JGG.gather(2, partners_JGQ).mean(dim=(1, 2))


def _relative_distances(rows_JGD: Float[Tensor, "J G D"]) -> Float[Tensor, "J G G"]:
    """Divide the distances by their mean over pairs."""
    num_rows = rows_JGD.shape[1]
    # Without products: |x|^2 - 2xy + |y|^2 loses the distance of near rows, and its root has no gradient at 0.
    distance_JGG = torch.cdist(rows_JGD, rows_JGD, compute_mode="donot_use_mm_for_euclid_dist")
    mean_J11 = distance_JGG.sum(dim=(1, 2), keepdim=True) / (num_rows * (num_rows - 1))
    return distance_JGG / mean_J11.masked_fill(mean_J11 == 0, 1.0)


def _angle_per_group(
    student_JGD: Float[Tensor, "J G D"], teacher_JGE: Float[Tensor, "J G E"], seeds_J: list[int], count: int
) -> Float[Tensor, " J"]:
    num_groups, num_rows, _ = student_JGD.shape
    if num_rows < 3:
        return student_JGD.new_zeros(num_groups)
    pairs_2X = torch.triu_indices(num_rows - 1, num_rows - 1, offset=1)
    chosen_JGQ = _draw(seeds_J, num_rows=num_rows, num_choices=pairs_2X.shape[1], count=count)
    if chosen_JGQ is None:
        num_triplets = num_rows * (num_rows - 1) * (num_rows - 2)
        return _summed_gap(_all_angles(student_JGD), _all_angles(teacher_JGE)) / num_triplets
    ends = [_partners(pairs_X[chosen_JGQ]).to(student_JGD.device) for pairs_X in pairs_2X]
    return _summed_gap(_drawn_angles(student_JGD, *ends), _drawn_angles(teacher_JGE, *ends)) / (num_rows * count)


def _cosine_per_group(student_JGD: Float[Tensor, "J G D"], teacher_JGE: Float[Tensor, "J G E"]) -> Float[Tensor, " J"]:
    num_rows = student_JGD.shape[1]
    return _summed_gap(_angles_at_origin(student_JGD), _angles_at_origin(teacher_JGE)) / (num_rows * (num_rows - 1))


@dataclass(frozen=True)
class _Angles:
    """Cosines, and which of them belong to an angle; the others are finite and mean nothing."""

    cosines: Float[Tensor, "J ..."]
    exist: Bool[Tensor, "J ..."]


def _summed_gap(student: _Angles, teacher: _Angles) -> Float[Tensor, " J"]:
    """Sum, per group, the gaps of the angles that exist on both sides."""
    gap = smooth_l1_loss(student.cosines, teacher.cosines, reduction="none")
    return gap.masked_fill(~(student.exist & teacher.exist), 0.0).flatten(start_dim=1).sum(dim=1)


def _all_angles(rows_JGD: Float[Tensor, "J G D"]) -> _Angles:
    """Give the angles at every vertex (first G) between every two rows, [J, G, G, G]; of a row with itself, 0."""
    direction_JGGD, apart_JGG = _directions(rows_JGD[:, :, None], rows_JGD[:, None])
    exist_JGGG = apart_JGG[..., :, None] & apart_JGG[..., None, :]  # no row is apart from the vertex that it is
    return _Angles(direction_JGGD @ direction_JGGD.transpose(-1, -2), exist_JGGG)


def _drawn_angles(
    rows_JGD: Float[Tensor, "J G D"], first_JGQ: Int[Tensor, "J G Q"], second_JGQ: Int[Tensor, "J G Q"]
) -> _Angles:
    """Give the angles at every vertex (G) between drawn pairs of rows, [J, G, Q]."""
    group_J11 = torch.arange(len(rows_JGD), device=rows_JGD.device)[:, None, None]
    first_JGQD, first_apart_JGQ = _directions(rows_JGD[:, :, None], rows_JGD[group_J11, first_JGQ])
    second_JGQD, second_apart_JGQ = _directions(rows_JGD[:, :, None], rows_JGD[group_J11, second_JGQ])
    return _Angles((first_JGQD * second_JGQD).sum(dim=-1), first_apart_JGQ & second_apart_JGQ)


def _angles_at_origin(rows_JGD: Float[Tensor, "J G D"]) -> _Angles:
    """Give the angles between every two rows seen from the origin, [J, G, G]; of a row with itself, 0."""
    length_JG1 = torch.linalg.vector_norm(rows_JGD, dim=-1, keepdim=True)
    zero_JG1 = length_JG1 == 0
    direction_JGD = rows_JGD / length_JG1.masked_fill(zero_JG1, 1.0)
    return _Angles(direction_JGD @ direction_JGD.transpose(-1, -2), ~zero_JG1 & ~zero_JG1.transpose(-1, -2))


def _directions(
    vertex_JG1D: Float[Tensor, "J G 1 D"], ends_JXYD: Float[Tensor, "J X Y D"]
) -> tuple[Float[Tensor, "J G Y D"], Bool[Tensor, "J G Y"]]:
    """Give unit vectors from vertices to ends, and where the two are apart; elsewhere the vectors mean nothing."""
    arm_JGYD = ends_JXYD - vertex_JG1D
    length_JGY1 = torch.linalg.vector_norm(arm_JGYD, dim=-1, keepdim=True)
    rounding = COINCIDENT_ROUNDINGS * torch.finfo(arm_JGYD.dtype).eps
    near_JGY1 = length_JGY1 <= rounding * torch.linalg.vector_norm(vertex_JG1D, dim=-1, keepdim=True)
    # Clamping the length instead would send gradients of one over the clamp through rows that coincide.
    return arm_JGYD / length_JGY1.masked_fill(near_JGY1, 1.0), ~near_JGY1.squeeze(-1)
