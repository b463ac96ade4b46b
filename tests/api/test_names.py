"""The public names: what there is, where it comes from, and that a program pays only for what it uses."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import tutelage

INIT = Path(tutelage.__file__)
HEAVY = {
    "torch",
    "transformers",
    "accelerate",
    "peft",
    "datasets",
    "numpy",
    "pydantic",
    "pyarrow",
    "scipy",
    "matplotlib",
}


def modules_after(code: str, *arguments: str) -> set[str]:
    """The top-level modules that a fresh process has loaded after some code."""
    lines = f"import sys\n{code}\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", lines, *arguments], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_importing_the_package_loads_nothing_of_weight():
    assert modules_after("import tutelage; dir(tutelage); tutelage.__all__") & HEAVY == set()


def test_reading_results_does_not_load_torch(tmp_path):
    code = "import tutelage\nfound = tutelage.results(sys.argv[1])\nfound._repr_html_(); found.records()"
    assert modules_after(code, str(tmp_path)) & {"torch", "transformers"} == set()


def test_every_public_name_is_there_and_documented():
    page = (Path(__file__).parents[2] / "docs" / "python.md").read_text(encoding="utf-8")
    for name in tutelage.__all__:
        found = getattr(tutelage, name)
        assert name in dir(tutelage)
        assert name == "__version__" or (found.__doc__ or "").strip()
        assert name == "__version__" or name in page, f"docs/python.md does not name {name}"


def test_what_type_checkers_see_is_what_is_imported():
    tree = ast.parse(INIT.read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    seen = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert {*seen, "__version__"} == set(tutelage.__all__)
    for name, module in seen.items():
        assert getattr(tutelage, name) is getattr(importlib.import_module(str(module)), name)


def test_a_name_that_is_not_there_is_answered_with_those_that_are():
    with pytest.raises(AttributeError, match=r"no attribute 'distill'; it has .*kd_loss"):
        tutelage.distill  # noqa: B018
