"""A loss is complete when it has an oracle, a capability, a closed form, a section in recipes and a page.

One over hidden states has no closed form; its capability is what its conformance tests are made of.
"""

import ast
import re
from pathlib import Path
from typing import get_args

import pytest
from loss_oracles import ORACLES
from state_cases import make_state_case
from state_oracles import STATE_ORACLES
from test_state_conformance import HELD

from tutelage.config.losses import LossSection
from tutelage.config.methods import Feature, Relation
from tutelage.losses import CAPABILITIES, LOSSES, STATE_CAPABILITIES, STATE_LOSSES
from tutelage.losses.forms import FORMS

REPOSITORY = Path(__file__).parents[2]
PAGES = REPOSITORY / "docs" / "methods"
PARTS = ("Formula", "Paper", "Gradient", "When it helps", "Cost", "Held by")


def pages_of(folder: Path) -> dict[str, str]:
    """Map every kind of loss to the text of its page, by the page's line ``Kinds: ..``."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.md"))]
    kinds = {
        text: re.findall(r"`(\w+)`", line.group()) for text in texts if (line := re.search("^Kinds: .*", text, re.M))
    }
    return {kind: text for text, named in kinds.items() for kind in named}


def sections() -> set[str]:
    """The kinds of loss that a recipe may hold."""
    return {get_args(section.model_fields["kind"].annotation)[0] for section in get_args(LossSection)}


def missing_parts(losses, *, capabilities, oracles, forms, sections, pages) -> list[str]:
    """Say what a loss lacks, and what there is without a loss."""
    missing = [f"capability of {name}" for name in losses if not any(key[2] == name for key in capabilities)]
    missing += [f"loss {key[2]}" for key in capabilities if key[2] not in losses]
    missing += [f"oracle of {key[2]} on {key[1]}" for key in capabilities if (key[2], key[1]) not in oracles]
    missing += [f"closed form of {name}" for name in losses if name != "cross_entropy" and name not in forms]
    missing += [f"section of {name}" for name in losses if name not in sections]
    missing += [f"page of {name}" for name in losses if name not in pages]
    for name, text in pages.items():
        missing += [f"'{part}' on the page of {name}" for part in PARTS if f"\n## {part}\n" not in text]
    return missing


def found_here(**changes) -> dict:
    here = {"losses": LOSSES, "capabilities": CAPABILITIES, "oracles": ORACLES, "forms": FORMS,
            "sections": sections(), "pages": pages_of(PAGES)}  # fmt: skip
    return {**here, **changes}


def test_every_loss_is_complete():
    assert missing_parts(**found_here()) == []


def test_a_loss_that_was_only_registered_is_named_with_all_that_it_lacks():
    assert missing_parts(**found_here(losses={**LOSSES, "hellinger": None})) == [
        "capability of hellinger",
        "closed form of hellinger",
        "section of hellinger",
        "page of hellinger",
    ]


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"capabilities": {**CAPABILITIES, ("live", "dense", "hellinger"): None}},
         ["loss hellinger", "oracle of hellinger on dense"]),
        ({"oracles": {key: oracle for key, oracle in ORACLES.items() if key != ("jsd", "topk")}},
         ["oracle of jsd on topk"] * 3),
        ({"forms": {name: form for name, form in FORMS.items() if name != "jsd"}}, ["closed form of jsd"]),
        ({"sections": {"cross_entropy"}}, [f"section of {name}" for name in LOSSES if name != "cross_entropy"]),
        ({"pages": {name: text.replace("## Cost", "## Price") for name, text in pages_of(PAGES).items()}},
         [f"'Cost' on the page of {name}" for name in pages_of(PAGES)]),
    ],
    ids=["a capability alone", "no oracle", "no closed form", "no section", "no cost on the page"],
)  # fmt: skip
def test_each_thing_that_is_missing_is_named(changes, missing):
    assert missing_parts(**found_here(**changes)) == missing


RELATION_WEIGHTS = {"relation_distance": "lambda_dist", "relation_angle": "lambda_angle"}


def state_sections() -> set[str]:
    """The losses over hidden states that a recipe's methods can ask for."""
    hidden = {f"hidden_{name}" for name in get_args(Feature.model_fields["loss"].annotation)}
    return hidden | {name for name, weight in RELATION_WEIGHTS.items() if weight in Relation.model_fields}


def missing_state_parts(losses, *, capabilities, oracles, tests, sections, pages) -> list[str]:
    """Say what a loss over hidden states lacks, and what there is without a loss."""
    missing = []
    for name, found in (
        ("capability", {key[2] for key in capabilities}),
        ("oracle", oracles),
        ("conformance tests", tests),
        ("section", sections),
        ("page", pages),
    ):
        missing += [f"{name} of {loss}" for loss in losses if loss not in found]
    known = {key[2] for key in capabilities} | set(oracles) | set(sections)
    return missing + [f"loss {name}" for name in sorted(known) if name not in losses]


def state_parts_here(**changes) -> dict:
    here = {"losses": STATE_LOSSES, "capabilities": STATE_CAPABILITIES, "oracles": STATE_ORACLES,
            "tests": {name for name, _, _ in HELD}, "sections": state_sections(), "pages": pages_of(PAGES)}  # fmt: skip
    return {**here, **changes}


def test_every_loss_over_hidden_states_is_complete():
    assert missing_state_parts(**state_parts_here()) == []
    for name in STATE_LOSSES:
        assert make_state_case(name).name == name


def test_a_state_loss_that_was_only_registered_is_named_with_all_that_it_lacks():
    assert missing_state_parts(**state_parts_here(losses={**STATE_LOSSES, "hidden_huber": None})) == [
        "capability of hidden_huber",
        "oracle of hidden_huber",
        "conformance tests of hidden_huber",
        "section of hidden_huber",
        "page of hidden_huber",
    ]


@pytest.mark.parametrize(
    ("part", "missing"),
    [
        ("capabilities", "capability of hidden_cosine"),
        ("oracles", "oracle of hidden_cosine"),
        ("tests", "conformance tests of hidden_cosine"),
        ("sections", "section of hidden_cosine"),
        ("pages", "page of hidden_cosine"),
        ("losses", "loss hidden_cosine"),
    ],
)
def test_each_thing_that_a_state_loss_lacks_is_named(part, missing):
    whole = state_parts_here()[part]
    without = {key for key in whole if "hidden_cosine" not in (key, key[2])}  # a name, or (source, signal, name)
    changed = {key: whole[key] for key in whole if key in without} if isinstance(whole, dict) else without
    assert missing_state_parts(**state_parts_here(**{part: changed})) == [missing]


@pytest.mark.parametrize("page", sorted(PAGES.glob("*.md")), ids=lambda path: path.stem)
def test_the_tests_that_a_page_names_exist(page):
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?", page.read_text(encoding="utf-8"))
    assert named
    for file, function in named:
        tree = ast.parse((REPOSITORY / file).read_text(encoding="utf-8"))
        functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert not function or function in functions, f"{file}::{function}"
