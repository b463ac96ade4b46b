"""What a recipe's messages tell a student to do."""

import pytest
from recipe_texts import FROZEN, OWN_FILE, problems

from tutelage.config import RecipeError, make_recipe
from tutelage.config.yaml_tree import read_tree


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a:\n  b: 1\n\tc: 2\n", 3, "a tab stands here, and YAML knows blanks only; replace it by blanks"),
        ("a:\n  b:\t1\n", 2, "a tab stands here"),
        ("a: %b\n", 1, "a value cannot begin with %; put it in quotes"),
        ("a: `b`\n", 1, "a value cannot begin with `; put it in quotes"),
        ("a:\n  b: [1, 2}\n", 2, "[ on line 2 is not closed: ] or a comma is missing before here"),
        ("a: {b: 1\nc: 2\n", 2, "{ on line 1 is not closed: } or a comma is missing before here"),
        ("a:b\nc: 1\n", 1, "a blank is missing after the colon: 'a:b'"),
        ("a: b: c\n", 1, "a second colon stands on this line; put the value in quotes"),
        ("a: 1\n   b: 2\n", 2, "indented by 3 blanks, but the line above it has a value already"),
        ("a:\n  b: 1\n c: 2\n", 3, "indented by 1 blanks, but the section that it would belong to begins on line 1"),
        ("a:\n- 1\n  - 2\n b: 1\n", 4, "indented by 1 blanks, but"),
        ('a: "b\nc: "d"\n', 1, "the quote on line 1 is not closed"),
        ("a: 1\nb\nc: 2\n", 2, "no colon after its key; write `key: value`"),
        ("a: *b\n", 1, "quote text that begins with *"),
    ],
)
def test_broken_yaml_is_explained_without_the_parsers_words(text: str, line: int, message: str):
    _, (problem,) = read_tree(text)

    assert message in problem.message
    assert problem.line == line
    for word in ("token", "block", "mapping values", "flow", "scalar"):
        assert word not in problem.message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lr=1e-4", "unknown key; here it is called learning_rate"),
        ("train.epochs=3", "unknown key; here it is called num_train_epochs"),
        ("train.batch_size=8", "unknown key; here it is called per_device_train_batch_size"),
        ("train.gradient_checkpointing=true", "unknown key here; it belongs under students.NAME"),
        ("train.max_length=64", "unknown key here; it belongs under tasks.NAME"),
        ("train.seed=1", "unknown key; seeds stand under `seeds`, at the top: {selection: 7, report: [42, 123]}"),
        ("evaluate.max_steps=1", "unknown key here; it belongs under teacher.adapt or methods.NAME.train or train"),
        ("train.learning_rat=1", "unknown key; did you mean learning_rate?"),
    ],
)
def test_an_unknown_key_is_shown_its_name_or_its_place(override: str, message: str):
    (found,) = problems(OWN_FILE, override).values()

    assert sorted(found.split(" or ")) == sorted(message.split(" or ")) or found == message


def test_a_list_in_place_of_a_value_is_shown_the_grid():
    found = problems(
        OWN_FILE, "methods.KD1.temperature=[1, 2]", "train.learning_rate=[1e-3, 3e-3]", "seeds.selection=[1]"
    )

    assert found["command line: methods.KD1.temperature"].endswith(
        "several values are tried by the method's `grid: {temperature: [1, 2]}`"
    )
    assert found["command line: train.learning_rate"].endswith(
        "several values are tried by a method's `grid: {train.learning_rate: [0.001, 0.003]}`"
    )
    assert "grid" not in found["command line: seeds.selection"]


def test_a_signal_that_is_not_kept_is_shown_how_to_keep_it():
    (found,) = problems(OWN_FILE, "signals=[{kind: hidden, layers: [1]}]").values()

    assert found == ("'final_hidden' is not in `signals`; expected one of hidden, or add `{kind: final_hidden}` there")


@pytest.mark.parametrize(
    "override", ["train.max_steps=" + "9" * 40, "seeds.selection=" + "9" * 20, "teacher.adapt.seed=4294967296"]
)
def test_a_number_that_no_machine_counts_to_is_refused(override: str):
    (found,) = problems(FROZEN, override).values()

    assert found.endswith("expected a number up to 4294967295")


@pytest.mark.parametrize("override", ['workspace="\\ud800"', 'methods.KD1.grid={"alph\\udfff": [1]}', "name=a\udc80"])
def test_half_a_character_is_refused_before_anything_tries_to_write_it(override: str):
    (found,) = problems(FROZEN, override).values()

    assert found.startswith("holds half of a character")


def test_half_a_character_is_refused_in_values_too():
    with pytest.raises(RecipeError, match="half of a character"):
        make_recipe({"name": "x", "report": {"question": "\ud800"}})
