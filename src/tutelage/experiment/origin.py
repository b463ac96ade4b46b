"""Which weights a stage starts from: the recipe's, or those that an earlier stage made.

In: the context. Out: ``ModelSource``s and the identities that go into later keys.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tutelage.config.models import Student, Teacher
from tutelage.experiment.graph import Node
from tutelage.experiment.stage import Context
from tutelage.models.source import ModelSource, resolve_model
from tutelage.store import files_digest, value_digest


@dataclass(frozen=True)
class Origin:
    """The weights that a stage starts from: what they are called in its key, their digest, and the stage before."""

    what: str
    digest: Callable[[], str | None]
    needs: tuple[Node, ...] = ()


def model_identity(context: Context, section: Teacher | Student) -> str:
    """Identify a model's weights as a section names them, without loading anything.

    A sample is identified by its pinned hash, a folder or file by its bytes, a hub id by its revision; an adapter by
    its own files and by its base.
    """
    from tutelage.build import model_source

    assert section.model is not None, "the caller knows that the section names a model"
    named = _identity(section.model, section.revision, context.base_folder)
    if section.resize_embeddings:
        named = value_digest({"model": named, "resize_embeddings": True})
    source = model_source(section, context.base_folder)
    if source.adapter is None and section.adapter_weights is None and source.base is None:
        return named
    base = source.base or source
    base_path = str(Path(base.path) / base.gguf_file) if base.gguf_file is not None else base.path
    facts = {"model": named, "adapter_weights": section.adapter_weights}
    return value_digest(facts | {"base": _identity(base_path, base.revision, context.base_folder)})


def _identity(model: str, revision: str | None, base_folder: Path) -> str:
    from tutelage.samples import find_sample

    if model.startswith("sample:"):
        return find_sample(model.removeprefix("sample:"), kind="model").sha256
    path = base_folder / Path(model).expanduser()
    if path.exists():
        files = [path] if path.is_file() else [file for file in path.glob("*") if file.is_file()]
        return files_digest(files)
    return value_digest({"hub": model, "revision": revision})


def adapted_name(context: Context) -> str | None:
    """Return the subject of the stage that adapts the teacher; None where the recipe has none."""
    section = context.recipe.teacher.adapt
    return " + ".join(section.tasks) if section is not None else None


def taught_source(context: Context) -> ModelSource:
    """Return the teacher as it teaches: adapted where the recipe says so."""
    from tutelage.build import model_source  # late: it imports torch

    name = adapted_name(context)
    if name is not None and ("adapt", name) in context.found:
        return resolve_model(str(context.input("adapt", name)), base_folder=Path())
    return model_source(context.recipe.teacher, context.base_folder)


def student_source(context: Context, student_name: str) -> ModelSource:
    """Return what a student is made from: its own model, else the teacher as it teaches."""
    from tutelage.build import model_source

    section = context.recipe.students[student_name]
    if section.model is None:
        return taught_source(context)
    return model_source(section, context.base_folder)
