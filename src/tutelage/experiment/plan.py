"""What a run of a recipe would do: the graph in order, what is finished, why the rest is not, what it costs.

In: a loaded recipe and the workspace. Out: ``Plan``, without loading a model's weights.
"""

from dataclasses import dataclass, field
from pathlib import Path

from tutelage.config import LoadedRecipe, num_trials
from tutelage.experiment.checks import require_sound
from tutelage.experiment.forecast import forecast
from tutelage.experiment.graph import FINISHED, TO_DO
from tutelage.experiment.nodes import RecipeGraph, open_graph
from tutelage.store import read_manifest


@dataclass(frozen=True)
class PlannedStage:
    """One node of the graph."""

    stage: str
    subject: str
    state: str  # finished | to do | waits (its inputs are not known yet) | damaged (is made again)
    note: str = ""


@dataclass(frozen=True)
class Plan:
    """The graph in order, and the figures that decide whether to start."""

    name: str
    mode: str
    stages: list[PlannedStage]
    warnings: tuple[str, ...] = ()
    facts: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def num_finished(self) -> int:
        """How many stages a run would skip."""
        return sum(stage.state == FINISHED for stage in self.stages)


def plan_recipe(loaded: LoadedRecipe, *, control: bool = False) -> Plan:
    """Walk the graph as a run would, without making anything.

    Raises:
        RecipeError: Everything that files, configurations and tokenizers show to be wrong.
    """
    graph = open_graph(loaded, show=print, control=control)
    notes = require_sound(graph.context)
    stages = [PlannedStage(node.stage, node.subject, *node.state()) for node in graph]
    stages.append(_report_stage(graph))
    waiting = sum(stage.stage in ("trials", "train") and stage.state != FINISHED for stage in stages)
    facts = {**_facts(loaded, control=graph.context.control), **forecast(graph, waiting)}
    recipe = loaded.recipe
    return Plan(recipe.name, recipe.mode, stages, loaded.warnings, facts, tuple(note.message for note in notes))


def _report_stage(graph: RecipeGraph) -> PlannedStage:
    """Say whether the report shows exactly the recipe's runs, all of them finished, and answers its question."""
    context, nodes = graph.context, graph.of("score", "train")
    manifest = read_manifest(context.folders.root / "report")
    shown = manifest.fields if manifest is not None else {}
    digests = [node.digest() for node in nodes]
    shows_runs = None not in digests and shown.get("runs") == sorted(map(str, digests))
    asked, answered = context.recipe.report.model_dump(), shown.get("asked", {})
    others = [f"report.{name}" for name, value in asked.items() if answered.get(name) != value]
    state = FINISHED if shows_runs and not others else TO_DO
    note = f"another {', '.join(others)}" if others and "asked" in shown else ""
    return PlannedStage("report", context.recipe.name, state, note)


def _facts(loaded: LoadedRecipe, *, control: bool) -> dict[str, str]:
    recipe = loaded.recipe
    trials = {name: num_trials(method) for name, method in recipe.methods.items() if method.grid}
    num_arms = len(recipe.methods) + sum(
        control for method in recipe.methods.values() if getattr(method, "signal", None)
    )
    return {
        "teacher": recipe.teacher.model,
        "students": ", ".join(recipe.students),
        "signals": ", ".join(signal.kind for signal in recipe.signals),
        "trials": ", ".join(f"{name} {count}" for name, count in trials.items()) or "none",
        "reported runs": " x ".join(
            (
                f"{num_arms} arms",
                *(
                    f"{len(x)} {what}"
                    for x, what in (
                        (recipe.seeds.report, "seeds"),
                        (recipe.students, "students"),
                        (recipe.tasks, "tasks"),
                    )
                ),
            )
        ),
        **({"plugins": ", ".join(recipe.plugins)} if recipe.plugins else {}),
        "workspace": str(Path(recipe.workspace) / recipe.name),
    }
