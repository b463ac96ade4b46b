"""Layers that methods compare exist and are kept.

In: a ``Look``. Out: a refusal at the methods whose layers a student, the teacher or the signals lack.
"""

from collections.abc import Iterator

from tutelage.experiment.checks.findings import Finding, guarded
from tutelage.experiment.checks.look import Look
from tutelage.experiment.layers import check_layers


def layers_exist(look: Look) -> Iterator[Finding]:
    """Check the layers of feature and relation methods."""
    configs = [look.teacher_config(), *(look.student_config(student) for student in look.recipe.students)]
    if all(config is not None for config in configs):
        yield from guarded(("methods",), lambda: check_layers(look.context))
