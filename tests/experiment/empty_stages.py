"""A recipe's graph whose stages run no model: each commits a few bytes made of exactly what its key holds."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tutelage.config import LoadedRecipe
from tutelage.experiment.graph import FINISHED, WAITS, Node
from tutelage.experiment.identity import Folders
from tutelage.experiment.nodes import RecipeGraph, recipe_graph
from tutelage.experiment.stage import Context, Target
from tutelage.store import new_artifact, read_manifest, value_digest

OWN_ANSWERS = ("generated_rows", "answers")  # settings of the teach stage that no column depends on


@dataclass
class Walk:
    """What a walk over the graph said before, and what it then made."""

    graph: RecipeGraph
    states: dict[int, tuple[str, str]]  # place in the graph -> state and reason
    made: list[int] = field(default_factory=list)

    def nodes_made(self) -> list[Node]:
        return [self.graph.nodes[index] for index in self.made]

    def surprises(self) -> list[str]:
        """What was made and not planned, or planned and not made; what waits may turn out to be finished."""
        found = []
        for index, (state, reason) in self.states.items():
            node, was_made = self.graph.nodes[index], index in self.made
            if was_made == (state == FINISHED) and not (state == WAITS and not was_made):
                found.append(f"{node.stage} {node.subject}: {state} ({reason}), made: {was_made}")
        return found


def graph_of(loaded: LoadedRecipe) -> RecipeGraph:
    """Lay out a recipe's graph without looking at what is finished."""
    folders = Folders(Path(loaded.recipe.workspace), loaded.recipe.name)
    control = loaded.recipe.evaluate.permuted_teacher
    return recipe_graph(Context(loaded, folders, lambda line: None, "test", control=control))


def walk(loaded: LoadedRecipe) -> Walk:
    """Plan, then make every node in order with the graph's own ``make``."""
    graph = graph_of(loaded)
    walked = Walk(graph, {index: node.state() for index, node in enumerate(graph.nodes)})
    for index, node in enumerate(graph.nodes):
        node.make = lambda target, node=node: commit(node, target)
        if graph.make(node):
            walked.made.append(index)
    return walked


def commit(node: Node, target: Target) -> None:
    """Write what later stages read of a stage: rows, columns by their digests, a run's score."""
    made_of = dict(target.made_of)
    content = value_digest(made_of)
    names = {"prepare": ("adapt.jsonl", "task.json"), "teach": ("answers", "teach.json")}
    fields: dict[str, Any] = {}
    if node.stage == "teach":
        fields = {"read": list(_columns(made_of)), "shards": []}
    held = {"key": target.key, "made_of": made_of, "inputs": dict(target.inputs), **fields}
    with new_artifact(target.folder, kind=target.stage, fields=held) as temporary:
        for name in names.get(node.stage, ("content",)):
            (temporary / name).write_text(content, encoding="utf-8")
        if node.stage in ("score", "trials", "train"):
            metrics = dict.fromkeys(("accuracy", "macro_f1", "f1", "exact_match", "token_accuracy"), 0.5)
            (temporary / "run.json").write_text(json.dumps({"metrics": {"validation": metrics}}), encoding="utf-8")


def _columns(made_of: dict[str, Any]) -> Any:
    """Yield what the teach stage records of each column; a column depends on its own signal, not on the others."""
    settings = {name: made_of["settings"][name] for name in made_of["settings"] if name not in OWN_ANSWERS}
    for signal in settings["signals"]:
        digest = value_digest({**made_of, "settings": {**settings, "signals": [signal]}})
        temperatures = signal["temperatures"] if signal["kind"] == "sampled" else [None]
        for temperature in temperatures:
            name = f"{signal['kind']}-{temperature}"
            yield {"kind": signal["kind"], "name": name, "temperature": temperature, "digest": digest}


def committed(workspace: Path) -> dict[Path, tuple[str, int]]:
    """Return every finished folder of a workspace with its digest and the moment of its manifest."""
    found = {}
    for path in workspace.rglob("MANIFEST.json"):
        manifest = read_manifest(path.parent)
        assert manifest is not None, path
        found[path.parent] = (manifest.content_digest, path.stat().st_mtime_ns)
    return found
