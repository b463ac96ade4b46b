"""What methods that compare hidden states need of the other sections of a recipe.

In: a recipe whose sections are valid. Out: problems, each at its path; the same one may come several times.
"""

from collections.abc import Iterator
from typing import Any

from tutelage.config.grid import Path, grid_points, with_point
from tutelage.config.methods import Feature, Relation
from tutelage.config.signals import HiddenSignal, PooledSignal

Problems = Iterator[tuple[Path, str]]


def state_problems(recipe: Any) -> Problems:
    """Yield every disagreement of a feature or relation method with signals, students and batch size."""
    for name, searched in recipe.methods.items():
        for point in grid_points(searched):
            method = with_point(searched, point)
            for where, message in _problems(recipe, method):
                is_searched = where[0] in point
                yield ("methods", name, *(("grid", where[0]) if is_searched else where)), message


def _problems(recipe: Any, method: Any) -> Problems:
    if isinstance(method, Feature):
        yield from _fixed_layers_are_kept(recipe, method)
        yield from _students_were_cut(recipe, method)
    elif isinstance(method, Relation):
        yield from _vectors_are_kept(recipe, method)
        yield from _steps_hold_whole_groups(recipe, method)


def _fixed_layers_are_kept(recipe: Any, method: Feature) -> Problems:
    for student_layer, teacher_layer in (method.layers or {}).items():
        if (problem := _not_kept(recipe, method.signal, teacher_layer)) is not None:
            yield ("layers", student_layer), problem


def _vectors_are_kept(recipe: Any, method: Relation) -> Problems:
    if method.teacher_layer is not None and (problem := _not_kept(recipe, method.signal, method.teacher_layer)):
        yield ("teacher_layer",), problem


def _not_kept(recipe: Any, kind: str, layer: int) -> str | None:
    """Say that a signal does not keep a layer; the last one of a stride is the teacher's to say."""
    signal = next((signal for signal in recipe.signals if signal.kind == kind), None)
    if not isinstance(signal, HiddenSignal | PooledSignal):
        return None  # the signal itself is missing, which is said elsewhere
    if signal.layers is not None:
        is_kept, kept = layer in signal.layers, ", ".join(map(str, signal.layers))
    else:
        assert signal.stride is not None, "the schema asks for one of both"
        is_kept, kept = layer > 0 and layer % signal.stride == 0, f"the multiples of {signal.stride}"
    return None if is_kept else f"layer {layer} is not kept: the {kind} signal has {kept}; add it to its `layers`"


def _students_were_cut(recipe: Any, method: Feature) -> Problems:
    if method.layer_map != "shrink":
        return
    for name, student in recipe.students.items():
        if student.shrink is None or student.model is not None:
            yield (
                ("layer_map",),
                f"'shrink' is for students cut from the teacher, which {name!r} is not; use proportional or even",
            )


def _steps_hold_whole_groups(recipe: Any, method: Relation) -> Problems:
    train = {**recipe.train.model_dump(), **method.train.model_dump()}
    num_rows = train["per_device_train_batch_size"] * train["gradient_accumulation_steps"]
    if num_rows % method.group_rows:
        yield (
            ("group_rows",),
            f"{method.group_rows} does not divide the {num_rows} rows of an optimizer step "
            "(per_device_train_batch_size x gradient_accumulation_steps); change one of them",
        )
