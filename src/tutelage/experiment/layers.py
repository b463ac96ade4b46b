"""Which layers of a student are compared with which of the teacher's, found out before the teacher runs.

In: a recipe's methods and signals, the models' configurations, the stored layer map of a cut student. Out: pairs
(student layer, teacher layer), or an error that names the method and the student.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from tutelage.config import Feature, HiddenSignal, PooledSignal, Relation, grid_points, with_point
from tutelage.errors import AlignmentError
from tutelage.experiment.origin import student_source, taught_source
from tutelage.experiment.stage import Context

Pairs = tuple[tuple[int, int], ...]


def compared_layers(
    method: Any,
    *,
    student_layers: int,
    teacher_layers: int,
    available: Collection[int],
    kept: Sequence[int] | None = None,
) -> Pairs:
    """Return the pairs of layers that a method compares; none for a method that compares no hidden states.

    Args:
        method: Its section of the recipe.
        student_layers: Decoder layers of the student.
        teacher_layers: Decoder layers of the teacher.
        available: The teacher's layers that the method's signal keeps.
        kept: The layer map of a cut student.

    Raises:
        AlignmentError: If a layer does not exist or is not kept.
    """
    from tutelage.align import layer_pairs  # late: it imports torch

    if isinstance(method, Feature):
        pairs = layer_pairs(
            method.layer_map, student_layers=student_layers, teacher_layers=teacher_layers, available=available,
            given=method.layers, kept=kept,
        )  # fmt: skip
        return tuple(pairs)
    if not isinstance(method, Relation):
        return ()
    student_layer = student_layers if method.student_layer is None else method.student_layer
    teacher_layer = max(available) if method.teacher_layer is None else method.teacher_layer
    if student_layer > student_layers or teacher_layer not in available:
        raise AlignmentError(
            f"student layer {student_layer} is compared with teacher layer {teacher_layer}; the student has "
            f"{student_layers} decoder layers, and the signal keeps the teacher's layers {sorted(available)}. Change "
            "`student_layer` or `teacher_layer`, or add the layer to the signal's `layers`"
        )
    return ((student_layer, teacher_layer),)


def check_layers(context: Context) -> None:
    """Refuse layers that a student or the teacher lacks, or that no signal keeps; only configurations are read.

    Raises:
        AlignmentError: If a method compares a layer that does not exist or is not kept; with method and student.
        CapabilityError: If a signal keeps a layer that the teacher lacks.
    """
    for name, message in layer_problems(context):
        raise AlignmentError(f"methods.{name}, {message}")


def layer_problems(context: Context) -> Iterator[tuple[str, str]]:
    """Yield every method that compares a layer which does not exist or is not kept, and what is wrong.

    The layer map of a student that is cut by influence is not known yet: ``layer_map: shrink`` is then checked when
    the student is trained.

    Raises:
        CapabilityError: If a signal keeps a layer that the teacher lacks.
    """
    from tutelage.build import layer_numbers
    from tutelage.models.load import load_config
    from tutelage.models.taps import check_layers as require_layers

    methods = list(_state_methods(context))
    if not methods:
        return
    teacher_layers = load_config(taught_source(context)).get_text_config().num_hidden_layers
    layered = [signal for signal in context.recipe.signals if isinstance(signal, HiddenSignal | PooledSignal)]
    kept_by = {signal.kind: layer_numbers(signal, teacher_layers) for signal in layered}
    for layers in kept_by.values():
        require_layers(layers, num_layers=teacher_layers)
    for student in context.recipe.students:
        num_layers, kept = student_shape(context, student)
        for name, method in methods:
            if getattr(method, "layer_map", None) == "shrink" and kept is None:
                continue
            try:
                compared_layers(
                    method, student_layers=num_layers, teacher_layers=teacher_layers, available=kept_by[method.signal],
                    kept=kept,
                )  # fmt: skip
            except AlignmentError as error:
                yield name, f"student {student}: {error}"


def student_shape(context: Context, student: str) -> tuple[int, tuple[int, ...] | None]:
    """Return how many decoder layers a student has, and which of the original's they are where that is fixed."""
    from tutelage.models.load import load_config
    from tutelage.models.shrink import choose_layers

    section = context.recipe.students[student]
    num_layers = load_config(student_source(context, student)).get_text_config().num_hidden_layers
    if section.shrink is None:
        return num_layers, None
    if section.shrink.by == "influence":
        return section.shrink.layers, None
    return section.shrink.layers, choose_layers(num_layers, section.shrink.layers, by=section.shrink.by)


def _state_methods(context: Context) -> Iterator[tuple[str, Feature | Relation]]:
    for name, searched in context.recipe.methods.items():
        for point in grid_points(searched):
            method = with_point(searched, point)
            if isinstance(method, Feature | Relation):
                yield name, method
