"""What training would refuse, found before the teacher runs: devices, schedules, adapters, positions.

In: a ``Look``. Out: refusals at the settings to change, and a note where rows are longer than a model has seen.
"""

import copy
import math
from collections.abc import Iterator
from typing import Any

from tutelage.config import LoraAdapter, grid_points, with_point
from tutelage.errors import TutelageError
from tutelage.experiment.checks.findings import Finding, Key, Note, Refusal, guarded
from tutelage.experiment.checks.look import Look

NUM_STEPS_UNKNOWN = 100  # where the rows cannot be read; most arguments of a schedule can be checked without them


def devices_exist(look: Look) -> Iterator[Finding]:
    """Choose the devices and number formats of teacher and students."""
    from tutelage.build import student_compute, teacher_compute

    yield from guarded(("teacher", "device"), lambda: teacher_compute(look.recipe.teacher))
    for section in look.recipe.students.values():
        yield from guarded(("train", "device"), lambda section=section: student_compute(look.recipe, section))


def trackers_are_installed(look: Look) -> Iterator[Finding]:
    """Look for the packages of the trackers that get live curves."""
    from tutelage.train.trackers import check_trackers

    for name, train in [("", look.recipe.train), *((name, each.train) for name, each in look.recipe.methods.items())]:
        key: Key = ("methods", name, "train", "report_to") if name else ("train", "report_to")
        yield from guarded(key, lambda train=train: check_trackers(train.report_to))


def schedules_can_be_built(look: Look) -> Iterator[Finding]:
    """Build the learning-rate schedule of every method, at every grid point, for every student and task."""
    from tutelage.build import train_options
    from tutelage.train.schedule import rate_factor

    def check(train: Any, student: Any, task: str) -> None:
        options = train_options(look.recipe.train, train, student, seed=0, bf16=False)
        prepared = look.prepared(task)
        per_epoch = math.ceil(len(prepared.splits["train"]) / options.rows_per_step) if prepared is not None else 0
        rate_factor(options, options.num_steps(per_epoch) if per_epoch else options.max_steps or NUM_STEPS_UNKNOWN)

    seen = set()
    for name, method in look.recipe.methods.items():
        for point in grid_points(method):
            train = with_point(method, point).train
            own = any(field.startswith("lr_scheduler") for field in train.model_fields_set)
            key: Key = ("methods", name, "train") if own else ("train", "lr_scheduler_type")
            for student in look.recipe.students.values():
                for task in look.recipe.tasks:
                    case = (train.model_dump_json(), student.adapter.kind, task)
                    if case not in seen:
                        seen.add(case)
                        yield from guarded(key, lambda: check(train, student, task))  # noqa: B023 - called at once


def adapters_fit(look: Look) -> Iterator[Finding]:
    """Put every adapter into a copy of its model that has no weights."""
    adapt = look.recipe.teacher.adapt
    if adapt is not None:
        yield from _adapter_fits(adapt.adapter, look.teacher_skeleton(), ("teacher", "adapt", "adapter"))
    for name, section in look.recipe.students.items():
        if isinstance(section.adapter, LoraAdapter):
            key: Key = ("students", name, "adapter")
            yield from _adapter_fits(section.adapter, look.student_skeleton(name), key)
            last, layers = section.adapter.last_layers, section.shrink.layers if section.shrink is not None else None
            if last is not None and layers is not None and last > layers:
                yield Refusal((*key, "last_layers"), f"{last}, but `shrink` leaves the student {layers} layers")


def _adapter_fits(adapter: LoraAdapter, model: Any | None, key: Key) -> Iterator[Finding]:
    from tutelage.build import attach_adapter

    if model is not None:
        yield from guarded(key, lambda: attach_adapter(copy.deepcopy(model), adapter))


def rows_fit_positions(look: Look) -> Iterator[Finding]:
    """Compare the longest rows with the positions of the teacher and of every student."""
    models = [("the teacher", look.teacher_config(), look.teacher_skeleton())]
    for name, section in look.recipe.students.items():
        if section.model is not None:
            models.append((f"student {name}", look.student_config(name), look.student_skeleton(name)))
    for name, config, model in models:
        limit = getattr(config.get_text_config(), "max_position_embeddings", None) if config is not None else None
        if not isinstance(limit, int) or getattr(config, "alibi", False):
            continue
        for task, section in look.recipe.tasks.items():
            longest = _longest_row(look, task) if section.max_length > limit else 0
            if longest > limit:
                yield _beyond(("tasks", task, "max_length"), name, longest, limit, model)


def _beyond(key: Key, name: str, longest: int, limit: int, model: Any | None) -> Finding:
    from tutelage.models.skeleton import has_position_table

    found = f"rows have up to {longest:,} tokens, and {name} has {limit:,} positions (`max_position_embeddings`)"
    if model is not None and has_position_table(model):
        return Refusal(key, f"{found} in a table that ends there; set max_length to at most {limit}")
    return Note(
        key, f"{'.'.join(map(str, key))}: {found}: it was not made for longer rows; set max_length to {limit} or less"
    )


def _longest_row(look: Look, task: str) -> int:
    """Return the tokens of a task's longest row; 0 where rows cannot be made, which other checks say."""
    data = look.task_data(task)
    if data is None:
        return 0
    try:
        rows = [row for split in data.prepared.splits.values() if split for row in data.usable_rows(split).rows]
    except TutelageError:
        return 0
    return max((len(row.ids) for row in rows), default=0)
