"""Methods of kind ``feature`` and ``relation``: their defaults, terms, grids, and what they need of other sections."""

import pytest
from recipe_texts import OWN_FILE, load, problems

from tutelage.build import layer_numbers, loss_terms, state_terms, train_options
from tutelage.config import (
    Feature,
    Relation,
    check_capabilities,
    distribution_signal,
    grid_points,
    signals_read,
    state_weights,
    teacher_temperatures,
    with_point,
)
from tutelage.errors import CapabilityError
from tutelage.types import LossTerm, StateTerm

SIGNALS = (
    "signals=[{kind: final_hidden}, {kind: hidden, layers: [6, 12, 30]}, {kind: pooled, stride: 10}, "
    "{kind: topk, temperatures: [1, 2]}]"
)
PAIRS = ((3, 6), (6, 12))


def one(method: str, *overrides: str):
    """Load a recipe with one more method, M, and return that."""
    recipe = load(OWN_FILE + f"  M: {method}\n", SIGNALS, *overrides).recipe
    check_capabilities(recipe)
    return recipe.methods["M"]


def found(method: str, *overrides: str) -> dict[str, str]:
    """Return what is wrong with M, by its path below the method."""
    return {
        path.partition("methods.M")[2].lstrip("."): message
        for path, message in problems(OWN_FILE + f"  M: {method}\n", SIGNALS, *overrides).items()
    }


def test_a_feature_method_is_cross_entropy_and_half_the_distance_of_directions():
    method = one("{kind: feature}")
    assert isinstance(method, Feature)
    assert (method.lambda_, method.layer_map, method.signal) == (0.5, "proportional", "hidden")
    assert loss_terms(method) == [LossTerm("cross_entropy", 1.0)]
    assert state_terms(method, PAIRS) == [StateTerm("hidden_normalised_mse", 0.5, PAIRS)]
    assert distribution_signal(method) is None


@pytest.mark.parametrize("loss", ["mse", "normalised_mse", "cosine"])
def test_a_feature_loss_is_one_of_the_registered_losses(loss):
    from tutelage.losses import STATE_LOSSES

    weights = state_weights(one(f"{{kind: feature, lambda: 2, loss: {loss}}}"))
    assert weights == {f"hidden_{loss}": 2.0}
    assert STATE_LOSSES[f"hidden_{loss}"].reads == "hidden"


def test_the_logits_take_the_place_of_cross_entropy_alone():
    method = one("{kind: feature, logit: {signal: topk, temperature: 2, alpha: 0.1, divergence: jsd, beta: 0.2}}")
    assert loss_terms(method) == [
        LossTerm("cross_entropy", 0.1),
        LossTerm("jsd", 0.9, temperature=2.0, beta=0.2),
    ]
    assert signals_read(method) == {("signal",): "hidden", ("logit", "signal"): "topk"}
    assert distribution_signal(method) == "topk"
    assert teacher_temperatures(method) == [2.0]


def test_a_relation_method_is_cross_entropy_and_both_relations():
    method = one("{kind: relation}")
    assert isinstance(method, Relation)
    assert loss_terms(method) == [LossTerm("cross_entropy", 1.0)]
    assert state_terms(method, ((20, 30),)) == [
        StateTerm("relation_distance", 1.0, ((20, 30),)),
        StateTerm("relation_angle", 0.5, ((20, 30),)),
    ]
    assert method.group_rows == 8


def test_every_setting_of_a_relation_method_reaches_its_terms():
    method = one("{kind: relation, lambda_dist: 0, lambda_angle: 2, angle: rkd, triplets_per_sample: 5}")
    assert state_terms(method, ((20, 30),)) == [StateTerm("relation_angle", 2.0, ((20, 30),), per_sample=5)]
    method = one("{kind: relation, lambda_angle: 3, angle: cosine, pairs_per_sample: 4}")
    assert state_terms(method, ((20, 30),)) == [
        StateTerm("relation_distance", 1.0, ((20, 30),), per_sample=4),
        StateTerm("relation_angle", 3.0, ((20, 30),), form="cosine"),
    ]


def test_groups_are_planned_for_relation_methods_only():
    recipe = load(OWN_FILE).recipe
    student = recipe.students["S1"]
    assert train_options(recipe.train, recipe.train, student, seed=1, bf16=False).group_rows is None
    assert train_options(recipe.train, recipe.train, student, seed=1, bf16=False, group_rows=4).group_rows == 4


def test_a_grid_goes_over_lambda_and_the_logit_settings_by_the_names_that_a_recipe_writes():
    text = OWN_FILE.replace("B0: {kind: baseline}", "B0: {kind: baseline, grid: {train.learning_rate: [1e-5, 2e-5]}}")
    text = text.replace("alpha: 0.3}", "grid: {alpha: [0.1, 0.3]}}")
    methods = (
        "  M: {kind: feature, grid: {lambda: [0.1, 1]}}\n"
        "  L: {kind: feature, logit: {alpha: 0.5}, grid: {logit.temperature: [1, 4]}}\n"
    )
    recipe = load(text + methods, SIGNALS).recipe
    assert [with_point(recipe.methods["M"], point).lambda_ for point in grid_points(recipe.methods["M"])] == [0.1, 1.0]
    points = [with_point(recipe.methods["L"], point) for point in grid_points(recipe.methods["L"])]
    assert [(point.logit.temperature, point.logit.alpha) for point in points] == [(1.0, 0.5), (4.0, 0.5)]


@pytest.mark.parametrize(
    ("method", "path", "message"),
    [
        ("{kind: feature, lamda: 1}", "lamda", "unknown key; did you mean lambda?"),
        ("{kind: feature, lambda: 0}", "lambda", "found 0, expected a number above 0"),
        ("{kind: feature, loss: mean}", "loss", "found 'mean'"),
        ("{kind: feature, signal: hiden}", "signal", "found 'hiden'; did you mean hidden?"),
        ("{kind: feature, layer_map: fixed}", "layers", "missing, but layer_map is fixed"),
        ("{kind: feature, layers: {3: 6}}", "layers", "has no effect with layer_map proportional"),
        (
            "{kind: feature, layer_map: fixed, layers: {3: 6, 4: 13}}", "layers.4",
            "layer 13 is not kept: the hidden signal has 6, 12, 30; add it to its `layers`",
        ),
        ("{kind: feature, logit: {signal: topkk}}", "logit.signal", "'topkk' is not in `signals`; did you mean topk?"),
        ("{kind: feature, logit: {signal: topk, temperature: 3}}", "logit.temperature", "temperature 3 has no log_z"),
        ("{kind: feature, logit: {signal: pooled}}", "logit.signal", "'pooled' holds hidden states, which forward_kl"),
        ("{kind: feature, logit: {beta: 0.1}}", "logit.beta", "has no effect with divergence forward_kl"),
        ("{kind: relation, lambda_dist: 0, lambda_angle: 0}", "lambda_dist", "nothing is compared"),
        (
            "{kind: relation, angle: cosine, triplets_per_sample: 3}", "triplets_per_sample",
            "has no effect with angle cosine",
        ),
        ("{kind: relation, group_rows: 2}", "group_rows", "found 2, expected a number from 3"),
        ("{kind: relation, group_rows: 12}", "group_rows", "12 does not divide the 32 rows of an optimizer step"),
        ("{kind: relation, teacher_layer: 25}", "teacher_layer", "the pooled signal has the multiples of 10"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_at_its_path(method, path, message):
    (only,) = found(method).items()
    assert only[0] == path
    assert message in only[1]


@pytest.mark.parametrize(("kind", "signal"), [("feature", "hidden"), ("relation", "pooled")])
def test_without_its_signal_a_method_is_refused(kind, signal):
    (only,) = problems(OWN_FILE + f"  M: {{kind: {kind}}}\n").items()
    assert only[0].endswith("methods.M.signal")
    assert only[1].startswith(f"{signal!r} is not in `signals`")


def test_the_batch_size_that_counts_is_the_method_s_own():
    assert one("{kind: relation, group_rows: 6, train: {per_device_train_batch_size: 18}}").group_rows == 6
    accumulated = "{kind: relation, group_rows: 24, train: {gradient_accumulation_steps: 3}}"
    assert one(accumulated).group_rows == 24


def test_a_layer_map_of_cut_layers_needs_a_student_that_was_cut():
    (only,) = found("{kind: feature, layer_map: shrink}", "students.S1={model: other/model}").items()
    assert only == (
        "layer_map",
        "'shrink' is for students cut from the teacher, which 'S1' is not; use proportional or even",
    )
    assert one("{kind: feature, layer_map: shrink}").layer_map == "shrink"


@pytest.mark.parametrize(("loss", "kind"), [("hidden_mse", "feature"), ("relation_angle", "relation")])
def test_a_weighted_sum_that_lists_a_loss_of_hidden_states_is_told_where_it_belongs(loss, kind):
    message = found(f"{{signal: final_hidden, losses: [{{kind: {loss}}}]}}")["losses.0"]
    assert message == f"kind {loss!r} is not known; use a method of kind {kind}"


def test_class_scores_inside_a_feature_method_need_classes():
    method = one("{kind: feature, logit: {signal: class_scores}}")
    assert distribution_signal(method) == "class_scores"


def test_a_stride_longer_than_the_teacher_is_refused():
    signal = load(OWN_FILE, SIGNALS).recipe.signals[2]
    assert layer_numbers(signal, 30) == (10, 20, 30)
    with pytest.raises(CapabilityError, match="stride 10, but the teacher has 6"):
        layer_numbers(signal, 6)
