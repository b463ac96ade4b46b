"""Pair the student's layers with the teacher's.

In: the number of decoder layers of both, the teacher's layers whose states are at hand, a kind of map. Out: pairs
(student layer, teacher layer). Layer 0 is the output of the embeddings, ``n`` that of the n-th decoder layer before the
final norm.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

from tutelage.errors import AlignmentError

LAYER_MAPS = ("even", "proportional", "fixed", "shrink")
Pair = tuple[int, int]


def layer_pairs(
    kind: str,
    *,
    student_layers: int,
    teacher_layers: int,
    available: Collection[int],
    given: Mapping[int, int] | None = None,
    kept: Sequence[int] | None = None,
) -> list[Pair]:
    """Say which layer of the student is compared with which layer of the teacher.

    With m and n decoder layers:

    * ``even`` asks for exact depths: student layer ``i`` is paired with teacher layer ``round(i * n / m)``, for all i
      from 1 to m; every one of these teacher layers must be available. (A student with more layers than the teacher
      pairs its layer ``round(i * m / n)`` with teacher layer i.)
    * ``proportional`` takes what is available: each such teacher layer is paired with the student layer nearest to it
      in relative depth, and where several share a student layer only the nearest stays. With all layers available it
      is ``even``.
    * ``fixed`` is ``given``; every teacher layer in it must be available.
    * ``shrink`` pairs each student layer with the teacher layer that it was copied from, where that is available.

    Halves are rounded up, and no layer is used twice except where ``given`` says so. The embeddings are paired with
    each other only: by ``proportional`` where the teacher's layer 0 is available, or where ``given`` says so.

    Args:
        kind: One of ``LAYER_MAPS``.
        student_layers: m, at least 1.
        teacher_layers: n, at least 1.
        available: Numbers of the teacher's layers whose states are at hand (the cached ones).
        given: For ``fixed``: student layer -> teacher layer.
        kept: For ``shrink``: which of the teacher's layers the student keeps, as *indices* from 0, ascending
            (``choose_layers``). Index k is layer number k + 1.

    Returns:
        At least one pair, by ascending student layer.

    Raises:
        AlignmentError: If a layer does not exist or is not available, or the kind lacks its argument.
    """
    if kind not in LAYER_MAPS:
        raise AlignmentError(f"found layer map {kind!r}; expected one of {', '.join(LAYER_MAPS)}")
    if min(student_layers, teacher_layers) < 1:
        raise AlignmentError(
            f"found {student_layers} student layers and {teacher_layers} teacher layers; expected 1 or more"
        )
    _check_numbers(available, teacher_layers, "available teacher layer")
    if kind == "proportional":
        pairs = _proportional(student_layers, teacher_layers, available)
    elif kind == "shrink":
        pairs = _copied(student_layers, teacher_layers, available, kept)
    else:
        pairs = (
            _given(student_layers, teacher_layers, given) if kind == "fixed" else _even(student_layers, teacher_layers)
        )
        _check_available(kind, pairs, available)
    return sorted(pairs)


def _even(m: int, n: int) -> list[Pair]:
    num_pairs = min(m, n)
    return [(_round(i * m, num_pairs), _round(i * n, num_pairs)) for i in range(1, num_pairs + 1)]


def _proportional(m: int, n: int, available: Collection[int]) -> list[Pair]:
    """Pair every available decoder layer with the nearest of the student's, and keep one for each of these."""
    nearest: dict[int, int] = {0: 0} if 0 in available else {}
    student_of = {t: max(_round(t * m, n), 1) for t in available if t > 0}
    # The nearest is written last and stays; of two that are equally near, the deeper one.
    for t in sorted(student_of, key=lambda t: (-abs(t * m - student_of[t] * n), t)):
        nearest[student_of[t]] = t
    if not nearest:
        raise AlignmentError("no teacher layer is available; add a signal `hidden` with layers to `signals`")
    return list(nearest.items())


def _given(m: int, n: int, given: Mapping[int, int] | None) -> list[Pair]:
    if not given:
        raise AlignmentError("layer map 'fixed' without layers; give `layers: {student layer: teacher layer, ..}`")
    _check_numbers(given.keys(), m, "student layer")
    _check_numbers(given.values(), n, "teacher layer")
    return list(given.items())


def _copied(m: int, n: int, available: Collection[int], kept: Sequence[int] | None) -> list[Pair]:
    if kept is None:
        raise AlignmentError(
            "layer map 'shrink' needs a student that was made by leaving out the teacher's layers (`shrink`); this "
            "one was not, use even, proportional or fixed"
        )
    if len(kept) != m or list(kept) != sorted({k for k in kept if 0 <= k < n}):
        raise AlignmentError(
            f"the student keeps the teacher's layers {list(kept)}; expected {m} ascending indices below {n}: the list "
            "belongs to another student or teacher"
        )
    pairs = [(index + 1, k + 1) for index, k in enumerate(kept) if k + 1 in available]
    if not pairs:
        raise AlignmentError(
            f"none of the layers that the student was copied from (numbers {_listed(k + 1 for k in kept)}) is "
            f"available; found {_listed(available)}: add some of them to the `layers` of the signal `hidden`, or use "
            "layer map proportional"
        )
    return pairs


def _round(numerator: int, denominator: int) -> int:
    """Divide whole numbers; halves go up (Python's own ``round`` would send 0.5 and 2.5 down and 1.5 up)."""
    return (2 * numerator + denominator) // (2 * denominator)


def _check_numbers(numbers: Collection[int], count: int, what: str) -> None:
    wrong = [number for number in numbers if not 0 <= number <= count]
    if wrong:
        raise AlignmentError(
            f"found {what} {wrong[0]}; expected 0 (the embeddings) to {count} (the last decoder layer)"
        )


def _check_available(kind: str, pairs: Sequence[Pair], available: Collection[int]) -> None:
    missing = sorted({teacher for _, teacher in pairs} - set(available))
    if missing:
        raise AlignmentError(
            f"layer map {kind!r} compares with the teacher's layers {_listed(t for _, t in pairs)}, but "
            f"of these {_listed(missing)} cannot be had (available: {_listed(available)}): add "
            "them to the `layers` of the signal `hidden`, or use layer map proportional, which takes what is available"
        )


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(set(numbers)))) or "none"
