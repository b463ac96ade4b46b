"""The plan of a recipe on the terminal.

In: a loaded recipe. Out: settings, trials, stages and estimates.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from tutelage.cli.terminal import paragraph, say, table

MAX_STAGES = 40  # more are counted by kind; --json lists them all


def show_plan(loaded: Any, *, control: bool, as_json: bool) -> None:
    """Print what a run of this recipe would do."""
    from tutelage.experiment import plan_recipe

    plan = plan_recipe(loaded, control=control)
    if as_json:
        content = {
            **asdict(plan),
            "recipe": loaded.resolved(),
            "overrides": loaded.overrides_applied,
            "trials": trials(loaded.recipe),
        }
        say(json.dumps(content, default=str))
        return
    say(f"{plan.name} ({plan.mode}): {loaded.path} is valid")
    for override in loaded.overrides_applied:
        say(f"  {override['path']} = {json.dumps(override['value'])}  ({override['source']})")
    say()
    table(("method", "kind", "losses", "trials", "grid"), list(_method_rows(loaded.recipe)))
    say()
    for name, text in plan.facts.items():
        paragraph(f"{name}: {text}")
    for note in plan.notes:
        paragraph(f"note: {note}")
    say()
    _show_stages(plan)


def trials(recipe: Any) -> dict[str, int]:
    """Count every method's trials; a method without a grid has none."""
    from tutelage.config import num_trials

    return {name: num_trials(method) if method.grid else 0 for name, method in recipe.methods.items()}


def _method_rows(recipe: Any) -> Iterator[tuple[str, ...]]:
    counts = trials(recipe)
    for name, method in recipe.methods.items():
        grid = "; ".join(f"{path}: {', '.join(map(str, values))}" for path, values in method.grid.items())
        yield name, method.kind, _losses(method), str(counts[name]), grid or "-"


def _losses(method: Any) -> str:
    from tutelage.config import expand_losses, state_weights

    terms = []
    for loss in expand_losses(method):
        temperature = getattr(loss, "temperature", None)
        terms.append(f"{loss.weight:g} {loss.kind}" + (f" T={temperature:g}" if temperature is not None else ""))
    terms += [f"{weight:g} {kind}" for kind, weight in state_weights(method).items()]
    return " + ".join(terms)


def _show_stages(plan: Any) -> None:
    if len(plan.stages) <= MAX_STAGES:
        table(("stage", "subject", "state", "note"), [(s.stage, s.subject, s.state, s.note) for s in plan.stages])
    else:
        groups: dict[tuple[str, str, str], int] = {}
        for stage in plan.stages:
            group = (stage.stage, stage.note, stage.state)
            groups[group] = groups.get(group, 0) + 1
        table(("stage", "note", "state", "count"), [(*group, count) for group, count in groups.items()])
    say(f"{plan.num_finished} of {len(plan.stages)} finished")
