"""The graph of a recipe: which stages it stands for, in which order.

In: a context. Out: ``RecipeGraph``, walked by ``run``, ``plan``, ``report``, ``preview`` and the cache's commands.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tutelage.config import LoadedRecipe
from tutelage.errors import TutelageError
from tutelage.experiment.adapt import adapt_node
from tutelage.experiment.arm_nodes import Before, StudentRuns, student_runs, teacher_node
from tutelage.experiment.checks import require_sound
from tutelage.experiment.graph import Graph, Node
from tutelage.experiment.identity import Folders
from tutelage.experiment.origin import Origin, model_identity
from tutelage.experiment.prepare import prepare_node
from tutelage.experiment.shrink import shrink_node
from tutelage.experiment.stage import Context
from tutelage.experiment.teach import teach_node


class RecipeGraph(Graph):
    """The graph of one recipe, and the searches that decide some of its runs."""

    def __init__(self, context: Context, nodes: list[Node], students: Mapping[str, StudentRuns]) -> None:
        super().__init__(context, nodes)
        self.students = dict(students)  # "task/student" -> its runs

    def chosen(self) -> dict[str, dict[str, Any]]:
        """Return what the finished searches chose, by task and student."""
        return {name: runs.chosen() for name, runs in self.students.items()}

    def finished_runs(self) -> list[Path]:
        """Return the folders of the recipe's own finished runs."""
        return [node.folder() for node in self.of("score", "trials", "train") if node.manifest() is not None]


def recipe_graph(context: Context) -> RecipeGraph:
    """Lay out every stage of a recipe."""
    recipe = context.recipe
    prepared = {task: prepare_node(context, task) for task in recipe.tasks}
    nodes = [*prepared.values()]
    if recipe.teacher.adapt is not None:
        adapted = adapt_node(context, prepared)
        nodes.append(adapted)
        teacher = Origin("teacher", adapted.digest, (adapted,))
    else:
        teacher = Origin("teacher", lambda: model_identity(context, recipe.teacher))
    taught = {task: teach_node(context, task, prepared[task], teacher) for task in recipe.tasks}
    nodes += taught.values()
    first_task = next(iter(recipe.tasks))
    origins = {student: _origin(context, student, teacher) for student in recipe.students}
    shrunk = {
        student: shrink_node(context, student, prepared[first_task], origins[student])
        for student, section in recipe.students.items()
        if section.shrink is not None
    }
    nodes += shrunk.values()
    students = {}
    for task in recipe.tasks:
        nodes.append(teacher_node(context, task, prepared[task], taught[task]))
        for student in recipe.students:
            before = Before(prepared[task], taught[task], origins[student], teacher, shrunk.get(student))
            runs = students[f"{task}/{student}"] = student_runs(context, task, student, before)
            nodes += runs.nodes
    return RecipeGraph(context, nodes, students)


def open_graph(
    loaded: LoadedRecipe, *, show: Callable[[str], None], command: str = "", control: bool = False
) -> RecipeGraph:
    """Return a recipe's graph with every finished stage found.

    Raises:
        RecipeError: If something cannot be read that a stage's key names: everything that the checks find.
    """
    recipe = loaded.recipe
    folders = Folders(Path(recipe.workspace), recipe.name)
    context = Context(loaded, folders, show, command, control=control or recipe.evaluate.permuted_teacher)
    try:
        graph = recipe_graph(context)
        for node in graph:
            node.manifest()
    except TutelageError:  # a model or a file that a key names cannot be read: say that with all else that is wrong
        require_sound(context)
        raise
    return graph


def _origin(context: Context, student: str, teacher: Origin) -> Origin:
    section = context.recipe.students[student]
    if section.model is None:
        return teacher
    return Origin("student", lambda: model_identity(context, section))
