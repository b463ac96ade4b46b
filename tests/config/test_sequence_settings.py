"""A method of kind ``sequence``: its share, the signal it needs, its grid."""

import pytest
from recipe_texts import OWN_FILE, load, problems

from tutelage.config import CrossEntropyLoss, Sequence, check_capabilities, expand_losses, grid_points, with_point

KD2 = OWN_FILE + "  KD2: {kind: sequence}\n"
SIGNALS = "signals=[{kind: final_hidden}, {kind: sequences}]"


def test_half_of_the_items_learn_the_teachers_answers_by_default():
    recipe = load(KD2, SIGNALS).recipe
    method = recipe.methods["KD2"]
    assert isinstance(method, Sequence)
    assert (method.lambda_, method.signal) == (0.5, "sequences")
    assert expand_losses(method) == (CrossEntropyLoss(kind="cross_entropy"),)
    check_capabilities(recipe)


def test_a_grid_goes_over_lambda_by_the_name_that_a_recipe_writes():
    text = OWN_FILE.replace("B0: {kind: baseline}", "B0: {kind: baseline, grid: {train.learning_rate: [1e-5, 2e-5]}}")
    text = text.replace("alpha: 0.3}", "grid: {alpha: [0.1, 0.3]}}")
    method = load(text + "  KD2: {kind: sequence, grid: {lambda: [0.1, 1]}}\n", SIGNALS).recipe.methods["KD2"]
    shares = [with_point(method, point).lambda_ for point in grid_points(method)]  # type: ignore[attr-defined]
    assert shares == [0.1, 1.0]


@pytest.mark.parametrize("share", ["0", "-0.1", "1.01"])
def test_a_share_outside_of_0_to_1_is_refused(share):
    assert list(problems(KD2, SIGNALS, f"methods.KD2.lambda={share}")) == ["command line: methods.KD2.lambda"]


def test_without_the_signal_the_line_and_the_remedy_are_named():
    line = KD2.splitlines().index("  KD2: {kind: sequence}") + 1
    assert problems(KD2) == {
        f"line {line}: methods.KD2.signal": "'sequences' is not in `signals`; add `{kind: sequences}` there"
    }


def test_misspelt_names_are_answered_with_the_nearest():
    assert problems(KD2, SIGNALS, "methods.KD2.signal=sequence") == {
        "command line: methods.KD2.signal": "found 'sequence'; did you mean sequences?"
    }
    assert problems(KD2, SIGNALS, "methods.KD2.lamda=0.5") == {
        "command line: methods.KD2.lamda": "unknown key; did you mean lambda?"
    }
    assert problems(KD2, "signals=[{kind: sequence}]") == {
        "command line: signals.0": "kind 'sequence' is not known; did you mean sequences?"
    }
