import math
import time
from pathlib import Path

import pytest
from recipe_texts import OWN_FILE, load, problems

from tutelage.config import RecipeError, load_recipe
from tutelage.config.yaml_tree import read_tree
from tutelage.errors import ConfigError


def test_scalars_are_those_of_yaml_1_2():
    tree, found = read_tree(
        "a: 1e-5\nb: no\nc: 0o17\nd: 0x1F\ne: -.inf\nf: 2020-01-01\ng: 1_000\nh: ~\ni:\nj: -12\nk: '5'\nl: !!str 5\n"
        "m: .5\nn: on\no: True\np: |\n  text\n"
    )

    assert found == []
    assert tree.values == {
        "a": 1e-5, "b": "no", "c": 15, "d": 31, "e": -math.inf, "f": "2020-01-01", "g": "1_000", "h": None, "i": None,
        "j": -12, "k": "5", "l": "5", "m": 0.5, "n": "on", "o": True, "p": "text\n",
    }  # fmt: skip


def test_keys_stay_as_they_are_written():
    assert read_tree("0: a\ntrue: b\n1.0: c\nnull: d\n")[0].values == {"0": "a", "true": "b", "1.0": "c", "null": "d"}


def test_lines_are_those_of_the_keys():
    tree, _ = read_tree("# note\na:\n  b: 1\n  c:\n    - 2\n    - 3\n")

    assert [tree.place(path).line for path in (("a",), ("a", "b"), ("a", "c", 1), ("a", "c", 1, "zz"))] == [2, 3, 6, 6]  # type: ignore[union-attr]


def test_a_few_aliases_are_written_out():
    assert read_tree("a: &x {k: [1, 2]}\nb: *x\nc: *x\n")[0].values["c"] == {"k": [1, 2]}


def test_changing_a_value_that_was_written_by_alias_changes_no_other():
    text = OWN_FILE.replace("B0: {kind: baseline}", "B0: &b {kind: baseline}\n  B1: *b")
    recipe = load(text, "methods.B1.train={max_steps: 3}").recipe

    assert recipe.methods["B0"].train.max_steps is None
    assert recipe.methods["B1"].train.max_steps == 3


BOMB = "a: &a [x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
WIDE_BOMB = f"a: &a [{', '.join(['x'] * 2000)}]\nb: &b [*a, *a, *a, *a]\nc: [*b, *b, *b, *b]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "more than 16 aliases"),
        (WIDE_BOMB, "more than 5,000 values once its aliases are written out"),
        ("a: &a [*a]\n", "alias *a refers to itself"),
        ("a: *b\n", "alias *b refers to itself or to nothing above it"),
        ("[" * 100_000, "nested more than 32 levels"),
        ("{" * 100_000, "nested more than 32 levels"),
        ("a: [" + "1," * 20_000 + "]", "more than 10,000 keys and values"),
        ("a: !!python/object/apply:os.system ['touch hacked']\n", "python/object/apply:os.system is not allowed"),
        ("a: !!python/name:os.system\n", "is not allowed"),
        ("!!python/module:os a: 1\n", "is not allowed"),
        ("? !!python/name:os.system a\n: 1\n", "is not allowed"),
        ("a: !!timestamp 2020-01-01\n", "is not allowed"),
        ("a: !include /etc/passwd\n", "tag !include is not allowed"),
        ("%YAML 1.1\n---\na: no\n", "another YAML version"),
        ("a: 1\n---\nb: 1\n", "second document"),
        ("? [a, b]\n: 1\n", "a key is not a plain word"),
        ("a: 'open\n", "not valid YAML: the quote that is opened on line 1 is not closed"),
        ("a: b: c\n", "not valid YAML: a second colon stands on this line; put the value in quotes"),
        ("a:\n\t- b\n", "not valid YAML"),
        ('a: "\\UFFFFFFFF"\n', "not valid YAML"),
        ("a: \x07\n", "not valid YAML"),
        ("a: \ud800\n", "not valid YAML"),
        ("a: " + "x" * 2**20, "larger than 1 MiB"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else None,
)
def test_harmful_or_broken_yaml_is_refused_quickly(text: str, message: str, tmp_path: Path):
    began = time.monotonic()
    _, found = read_tree(text)

    assert message in " ".join(problem.message for problem in found)
    assert time.monotonic() - began < 60  # written out, the bombs would take hours
    assert list(tmp_path.iterdir()) == []


def test_a_number_of_5000_digits_is_text():
    assert read_tree(f"a: {'9' * 5000}")[0].values["a"] == "9" * 5000


def test_a_tag_does_not_hide_other_problems():
    found = problems(OWN_FILE.replace("layers: 20", "layers: !!python/name:os.system 20") + "trian: {}\n")

    assert [key for key in found if "layers" in key or "trian" in key] == list(found)
    assert found["line 14: trian"] == "unknown key; did you mean train?"


def test_a_merge_key_is_an_unknown_key():
    text = OWN_FILE + "train: {<<: {max_steps: 3}}\n"

    assert list(problems(text)) == ["line 14: train.<<"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; `tutelage new NAME` writes one"),
        (b"# nothing\n", "is empty"),
        (b"- a\n- b\n", "line 1: is not a mapping"),
        (b"text", "line 1: is not a mapping"),
        (b"a: 1\nb: \xff\xfe\n", "line 2: is not UTF-8 text"),
        (b"a: " + b"x" * 2**20, "larger than 1 MiB"),
        (b"a: [1\n", "line 2: not valid YAML"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused_in_one_line(content: bytes, message: str, tmp_path: Path):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)

    with pytest.raises(ConfigError) as caught:
        load_recipe(path, environment={})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path):
    for path in (tmp_path / "nothing.yaml", tmp_path):
        with pytest.raises(ConfigError, match="is not a file"):
            load_recipe(path, environment={})


def test_a_byte_order_mark_is_no_part_of_the_first_key():
    path = Path("recipe.yaml")
    path.write_bytes(b"\xef\xbb\xbf" + OWN_FILE.encode())

    assert load_recipe(path, environment={}).recipe.name == "tickets"


@pytest.mark.parametrize("name", ["../out", "a/b", "", ".", "..", "a b", "x" * 81, "a\u0000b", "ünlaut", "r.tmp.1.ab"])
@pytest.mark.parametrize("section", ["name", "students", "tasks", "methods"])
def test_names_that_cannot_be_file_names_are_refused(name: str, section: str):
    values = {"students": "{}", "tasks": "null", "methods": "{kind: baseline}"}
    written = '"' + name.replace("\u0000", "\\0") + '"'
    override = f"name={written}" if section == "name" else f"{section}={{{written}: {values[section]}}}"
    if section == "tasks":
        override = override.replace(
            ": null", ": {kind: classification, data: {source: s}, template: '{text}', verbalisers: {a: x, b: y}}"
        )

    with pytest.raises(RecipeError, match="cannot be a file name"):
        load(OWN_FILE, override)
