import json
from pathlib import Path

import pytest

from tutelage.config.reference import as_json_schema, as_lines, as_markdown, reference_tables
from tutelage.config.translate import members

DOCUMENT = Path(__file__).parents[2] / "docs" / "recipe.md"


def test_the_document_is_what_the_schema_says():
    assert DOCUMENT.read_text(encoding="utf-8") == as_markdown(), "run: tutelage schema --markdown > docs/recipe.md"


def test_every_setting_is_described():
    tables = list(reference_tables())

    assert [f"{table.path}.{row.name}" for table in tables for row in table.rows if not row.description] == []
    assert [table.path for table in tables if not table.summary] == []


def test_no_description_breaks_its_table():
    for line in as_markdown().splitlines():
        if line.startswith("|"):
            assert line.replace("\\|", "").count("|") == 5, line


def test_every_section_of_the_schema_has_a_table():
    sections = set(json.loads(as_json_schema())["$defs"]) - {"TrainChanges"}  # the keys of `train` once more

    assert {table.section.__name__ for table in reference_tables()} == sections | {"Recipe"}


def test_bounds_and_defaults_by_mode_are_shown():
    text = as_markdown()

    assert "| `num_train_epochs` | number above 0 | `3` (fast: `1`) | Passes over the rows. |" in text
    assert "| `max_steps` | whole number from 1 or null | `null` |" in text
    assert "| `alpha` | number from 0 below 1 | `0.3` |" in text


def test_lines_name_every_path_once():
    lines = as_lines().splitlines()

    assert "train.learning_rate: number above 0 or null = null" in lines
    assert "students.NAME.shrink.layers: whole number from 1 = required" in lines
    assert len(lines) == len(set(lines))


@pytest.mark.parametrize("annotation", [int, str | None])
def test_plain_types_hold_no_sections(annotation: object):
    assert list(members(annotation)) == []
