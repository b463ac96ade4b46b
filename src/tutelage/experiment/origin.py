"""Which weights a stage starts from: the recipe's, or those that an earlier stage made.

In: the context. Out: ``ModelSource``s and the identities that go into later keys.
"""

from pathlib import Path

from tutelage.experiment.stage import Context
from tutelage.models.source import ModelSource, resolve_model


def taught_source(context: Context) -> ModelSource:
    """Return the teacher as it teaches: adapted where the recipe says so."""
    if context.adapted is not None:
        return resolve_model(str(context.adapted), base_folder=Path())
    return resolve_model(
        context.recipe.teacher.model, base_folder=context.base_folder, revision=context.recipe.teacher.revision
    )


def student_source(context: Context, student_name: str) -> ModelSource:
    """Return what a student is made from: its own model, else the teacher as it teaches."""
    section = context.recipe.students[student_name]
    if section.model is None:
        return taught_source(context)
    return resolve_model(section.model, base_folder=context.base_folder, revision=section.revision)
