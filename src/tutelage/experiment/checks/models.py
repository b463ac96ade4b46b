"""Models can do what the recipe asks of them, as far as their configurations tell.

In: a ``Look``. Out: refusals of quantised weights, of cuts that cannot be made; notes on a model's traits.
"""

from collections.abc import Iterator

from tutelage.errors import TutelageError
from tutelage.experiment.checks.findings import Finding, Refusal, guarded
from tutelage.experiment.checks.look import Look


def quantised_models_can_be_read(look: Look) -> Iterator[Finding]:
    """Refuse quantised weights where they would be trained, or where their kernels do not run."""
    from tutelage.build import teacher_compute
    from tutelage.models.quantised import quantisation_of, refuse_training, require_kernels

    config, source = look.teacher_config(), look.teacher_source()
    if config is not None and source is not None and quantisation_of(config) is not None:
        try:
            device, dtype = teacher_compute(look.recipe.teacher)
        except TutelageError:
            return  # said where devices are checked
        yield from guarded(
            ("teacher", "model"), lambda: require_kernels(config, source.name, device=device, dtype=dtype)
        )
        if look.recipe.teacher.adapt is not None:
            yield from guarded(("teacher", "adapt"), lambda: refuse_training(config, source.name))
    for student in look.recipe.students:
        own, its_source = look.student_config(student), look.student_source(student)
        if own is not None and its_source is not None:
            key = ("students", student, *(["model"] if look.recipe.students[student].model is not None else []))
            yield from guarded(key, lambda own=own, name=its_source.name: refuse_training(own, name))


def layers_can_be_cut(look: Look) -> Iterator[Finding]:
    """Refuse a student of more layers than there are, or of layers that its family cannot leave out."""
    from tutelage.models.shrink import choose_layers, require_cuttable

    for student, section in look.recipe.students.items():
        config = look.student_config(student)
        if section.shrink is None or config is None:
            continue
        num_layers, keep, by = config.get_text_config().num_hidden_layers, section.shrink.layers, section.shrink.by
        source = look.student_source(student)
        try:
            # which layers influence keeps is not known yet, only that it may be any with both ends
            choices = [choose_layers(num_layers, keep, by=by, influence=[0.0] * num_layers)]
            if by == "influence":
                choices.append(choose_layers(num_layers, keep, by="even"))
            require_cuttable(config, source.name if source is not None else student, choices)
        except TutelageError as error:
            yield Refusal(("students", student, "shrink"), str(error))


def layers_can_be_read(look: Look) -> Iterator[Finding]:
    """Refuse methods that compare hidden states of models that keep several streams of them."""
    from tutelage.config import Feature, Relation
    from tutelage.models.taps import refuse_streams

    methods = [name for name, method in look.recipe.methods.items() if isinstance(method, Feature | Relation)]
    if not methods:
        return
    sides = [(look.teacher_config(), look.teacher_source())]
    sides += [(look.student_config(student), look.student_source(student)) for student in look.recipe.students]
    for config, source in sides:
        if config is None or source is None:
            continue
        for name in methods:
            yield from guarded(
                ("methods", name), lambda config=config, model=source.name: refuse_streams(config, model)
            )
