"""The page of defects is true: every line names tests, every test named exists, every defect put back is named."""

import ast
import functools
import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "footguns.md"
NAMED_TEST = re.compile(r"`([\w/]+\.py)::(\w+)(?:\[(\w+)\])?`")
TABLES = ("data/test_row_defects.py", "cache/test_cache_defects.py", "teacher/test_teacher_defects.py")


def lines_of(page: str) -> list[str]:
    """Every line of every table but headings."""
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    return [line for line in lines if not line.startswith(("| **", "| what goes wrong |"))]


@functools.cache
def names_in(file: str) -> set[str]:
    """Every function of a module, and every string and name in it: tests, defects and the names of cases."""
    path = TESTS / file
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8")))) if path.exists() else []
    functions = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    return functions | {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def untrue(page: str) -> list[str]:
    """What is wrong with each line: names no test, or one that does not exist."""
    wrong = []
    for line in lines_of(page):
        cell = line.rstrip(" |").split(" | ")[-1]
        named = NAMED_TEST.findall(cell)
        if not named or len(named) != cell.count("`") // 2:
            wrong.append(f"no test, or something else: {line}")
        wrong += [
            f"{file}::{test}[{case}]"
            for file, test, case in named
            if test not in names_in(file) or (case and case not in names_in(file))
        ]
    return wrong


def test_every_line_names_tests_that_exist():
    page = PAGE.read_text(encoding="utf-8")
    assert len(lines_of(page)) >= 70
    assert untrue(page) == []


def test_a_line_without_a_test_or_with_a_missing_one_is_found():
    assert len(untrue("| a | b | c |\n| a | b | `test_footguns.py::test_that_is_not_there` |")) == 2
    assert untrue("| a | b | `test_footguns.py::test_every_line_names_tests_that_exist` |") == []


def test_every_defect_of_the_tables_is_on_the_page():
    page = PAGE.read_text(encoding="utf-8")
    for file in TABLES:
        tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
        (table,) = [
            node for node in tree.body if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "CAUGHT"
        ]
        assert isinstance(table.value, ast.List)
        defects = [ast.unparse(row.elts[0]) for row in table.value.elts if isinstance(row, ast.Tuple)]
        assert [defect for defect in defects if f"[{defect}]" not in page] == []
