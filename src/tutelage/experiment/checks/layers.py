"""Layers that methods compare exist and are kept.

In: a ``Look``. Out: a refusal at the methods whose layers a student, the teacher or the signals lack.
"""

from collections.abc import Iterator

from tutelage.errors import TutelageError
from tutelage.experiment.checks.findings import Finding, Refusal
from tutelage.experiment.checks.look import Look
from tutelage.experiment.layers import layer_problems


def layers_exist(look: Look) -> Iterator[Finding]:
    """Check the layers of feature and relation methods."""
    configs = [look.teacher_config(), *(look.student_config(student) for student in look.recipe.students)]
    if any(config is None for config in configs):
        return
    try:
        for name, message in layer_problems(look.context):
            yield Refusal(("methods", name), message)
    except TutelageError as error:
        yield Refusal(("signals",), str(error))
