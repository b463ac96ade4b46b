"""A recipe key that nothing reads cannot exist: every field of every section is an attribute that the package reads."""

import ast
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

import tutelage
from tutelage.config import schema
from tutelage.config.base import Section
from tutelage.config.training import Evaluate, Train, TrainChanges
from tutelage.train.options import TrainOptions

SOURCE = Path(tutelage.__file__).parent
# Sections that reach another record as a whole, `**section.model_dump()`, and the record whose fields are then read.
PASSED_ON = {Train: TrainOptions, TrainChanges: TrainOptions}


def sections(base: type[Section] = Section) -> Iterator[type[Section]]:
    for section in base.__subclasses__():
        if section.__module__.startswith("tutelage."):
            yield section
        yield from sections(section)


def names_read() -> set[str]:
    """Every ``x.name`` that is loaded anywhere, and every ``getattr(x, "name")``."""
    found = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                found.add(node.attr)
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr" and len(node.args) > 1:
                found.add(str(getattr(node.args[1], "value", "")))
    return found


def unread(section: type[Section], read: set[str]) -> list[str]:
    return [f"{section.__name__}.{name}" for name in section.model_fields if name not in read]


def test_every_key_of_a_recipe_is_read_somewhere():
    assert schema.Recipe in set(sections())
    read = names_read()
    assert [name for section in dict.fromkeys(sections()) for name in unread(section, read)] == []


@pytest.mark.parametrize("section", PASSED_ON, ids=lambda section: section.__name__)
def test_what_is_passed_on_as_a_whole_arrives_whole(section):
    fields = {field.name for field in dataclasses.fields(PASSED_ON[section])}
    assert set(section.model_fields) - fields == {"device"}


def test_a_key_that_nothing_reads_is_found():
    class Data(Section):  # three settings of a real pipeline's YAML that no line of its code read
        pack_sequences: bool = True
        token_subset_ratios: float = 0.25
        source: str = ""

    assert unread(Data, names_read()) == ["Data.pack_sequences", "Data.token_subset_ratios"]


@pytest.mark.parametrize("metric", ["loss", "eval_loss"])
def test_a_loss_cannot_choose_between_methods(metric):
    # every method has another objective, so their losses are not on one scale
    with pytest.raises(ValueError, match="accuracy"):
        Evaluate(select_by=metric)  # type: ignore[arg-type]
