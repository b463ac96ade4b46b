import dataclasses

import pytest
from pydantic import ValidationError
from recipe_texts import FROZEN, OWN_FILE, load

from tutelage.config import (
    Classification,
    CrossEntropyLoss,
    ForwardKlLoss,
    Logit,
    RecipeError,
    Shrink,
    Train,
    check_capabilities,
    expand_losses,
    grid_points,
    make_recipe,
    num_trials,
    with_point,
)
from tutelage.config.training import FULL_LEARNING_RATE, LORA_LEARNING_RATE


def test_the_frozen_recipe_loads_unchanged():
    recipe = load(FROZEN).recipe

    assert recipe.name == "reviews"
    assert (recipe.seeds.selection, recipe.seeds.report) == (7, (42, 123, 456))
    adapt = recipe.teacher.adapt
    assert adapt is not None
    assert (adapt.task, adapt.rows, adapt.adapter.r, adapt.learning_rate) == ("sentiment", 2000, 16, 1e-3)
    shrink = recipe.students["S1"].shrink
    assert shrink is not None
    assert (shrink.layers, shrink.by) == (15, "influence")
    task = recipe.tasks["sentiment"]
    assert isinstance(task, Classification)
    assert list(task.verbalisers.items()) == [("negative", " negative"), ("positive", " positive")]
    assert task.template == "Review: {text}\nSentiment:"
    assert [signal.kind for signal in recipe.signals] == ["final_hidden", "topk"]
    assert {name: num_trials(method) for name, method in recipe.methods.items()} == {"B0": 6, "PSEUDO": 6, "KD1": 6}
    assert recipe.train.learning_rate == 1e-4


def test_a_recipe_for_an_own_file_takes_at_most_15_lines():
    recipe = load(OWN_FILE).recipe

    assert len(OWN_FILE.splitlines()) <= 15
    assert recipe.tasks["urgency"].data.labels == {"0": "low", "1": "high"}
    assert [signal.kind for signal in recipe.signals] == ["final_hidden"]
    assert recipe.students["S1"].model is None  # the teacher


def test_a_resolved_recipe_loads_again_as_the_same_recipe():
    loaded = load(FROZEN, "methods.B0.train={weight_decay: 0.1}", mode="fast")

    assert make_recipe(loaded.resolved()) == loaded.recipe


def test_defaults_are_those_of_the_specification():
    train = load().recipe.train

    assert (train.weight_decay, train.warmup_ratio, train.lr_scheduler_type) == (0.01, 0.1, "cosine")
    assert (train.early_stopping_patience, train.early_stopping_threshold) == (3, 0.001)
    assert load().recipe.seeds.report == (42, 123, 456)


@pytest.mark.parametrize(("mode", "epochs", "limit", "max_length"), [("fast", 1, 2000, 256), ("full", 3, None, 512)])
def test_defaults_follow_the_mode(mode: str, epochs: int, limit: int | None, max_length: int):
    recipe = load(OWN_FILE, mode=mode).recipe
    task = recipe.tasks["urgency"]

    assert recipe.train.num_train_epochs == epochs
    assert (task.data.limit, task.max_length) == (limit, max_length)


def test_a_given_value_wins_over_the_default_of_the_mode():
    recipe = load(OWN_FILE, "train.num_train_epochs=2", "tasks.urgency.data.limit=null", mode="fast").recipe

    assert recipe.train.num_train_epochs == 2
    assert recipe.tasks["urgency"].data.limit is None


def test_a_value_per_mode_is_allowed_at_any_leaf():
    text = (
        OWN_FILE.replace("layers: 20", "layers: {fast: 10, full: 20}")
        + "seeds: {report: [1, {fast: 2, full: 3}]}\nmode: {fast: fast, full: fast}\n"
    ).replace("mode: {fast: fast, full: fast}\n", "mode: fast\n")
    recipe = load(text).recipe

    assert recipe.students["S1"].shrink is not None
    assert recipe.students["S1"].shrink.layers == 10
    assert recipe.seeds.report == (1, 2)


def test_changes_of_a_method_hold_no_defaults():
    recipe = load(OWN_FILE, "methods.B0.train={max_steps: 5}", mode="fast").recipe

    assert recipe.methods["B0"].train.model_dump() == {"max_steps": 5}
    assert recipe.methods["KD1"].train.model_dump() == {}


def test_logit_stands_for_cross_entropy_at_alpha_and_forward_kl_at_the_rest():
    assert expand_losses(load().recipe.methods["KD1"]) == (
        CrossEntropyLoss(kind="cross_entropy", weight=0.3),
        ForwardKlLoss(kind="forward_kl", weight=0.7, temperature=2),
    )


def test_logit_with_alpha_0_has_no_cross_entropy():
    method = load(OWN_FILE, "methods.KD1.alpha=0").recipe.methods["KD1"]

    assert [loss.kind for loss in expand_losses(method)] == ["forward_kl"]


@pytest.mark.parametrize("kind", ["baseline", "pseudo"])
def test_methods_on_labels_stand_for_cross_entropy(kind: str):
    method = load(OWN_FILE, f"methods.B0.kind={kind}").recipe.methods["B0"]

    assert expand_losses(method) == (CrossEntropyLoss(kind="cross_entropy", weight=1),)


def test_losses_without_a_kind_make_a_custom_method():
    losses = "[{kind: cross_entropy, weight: 0.2}, {kind: forward_kl, temperature: 4}]"
    recipe = load(OWN_FILE, f"methods.KD1={{signal: final_hidden, losses: {losses}}}").recipe

    assert recipe.methods["KD1"].kind == "custom"
    assert [loss.weight for loss in expand_losses(recipe.methods["KD1"])] == [0.2, 1.0]


def test_a_grid_is_every_combination_with_the_last_key_fastest():
    method = load(FROZEN).recipe.methods["KD1"]
    points = grid_points(method)

    assert points[:3] == [
        {"temperature": 1, "alpha": 0.1},
        {"temperature": 1, "alpha": 0.3},
        {"temperature": 2, "alpha": 0.1},
    ]
    assert len(points) == 6


def test_a_point_replaces_settings_and_drops_the_grid():
    losses = "[{kind: cross_entropy}, {kind: forward_kl}]"
    grid = "{losses.1.temperature: [1, 8], train.learning_rate: [1e-3]}"
    recipe = load(
        OWN_FILE.replace("{kind: baseline}", "{kind: baseline, grid: {train.max_steps: [1, 2]}}"),
        f"methods.KD1={{signal: final_hidden, losses: {losses}, grid: {grid}}}",
    ).recipe
    method = with_point(recipe.methods["KD1"], grid_points(recipe.methods["KD1"])[1])

    assert expand_losses(method)[1] == ForwardKlLoss(kind="forward_kl", temperature=8)
    assert method.train.model_dump() == {"learning_rate": 1e-3}
    assert method.grid == {}


def test_a_method_without_a_grid_has_one_point():
    assert grid_points(load().recipe.methods["B0"]) == [{}]


def test_empty_sections_mean_all_defaults():
    text = OWN_FILE.replace("  S1: {shrink: {layers: 20}}", "  S1:") + "train:\nreport:\nbench:\nlaunch: {}\n"
    recipe = load(text).recipe

    assert recipe.students["S1"].adapter.kind == "none"
    assert recipe.train == Train()


def test_long_names_of_precisions_are_understood():
    recipe = load(OWN_FILE, "teacher.dtype=bfloat16", "students.S1.dtype=float32").recipe

    assert (recipe.teacher.dtype, recipe.students["S1"].dtype) == ("bf16", "fp32")


def test_a_recipe_is_frozen():
    recipe = load().recipe

    with pytest.raises(ValidationError, match="frozen"):
        recipe.name = "other"  # type: ignore[misc]


def test_plain_values_are_checked_as_a_file_is():
    values = load().raw | {"trian": {}}

    with pytest.raises(RecipeError, match="trian: unknown key; did you mean train"):
        make_recipe(values)


def test_paths_start_at_the_folder_of_the_recipe(tmp_path):
    assert load().folder == tmp_path.resolve()


def test_every_training_option_can_be_set_and_no_other():
    options = pytest.importorskip("tutelage.train.options")
    # decided elsewhere: seeds, a student's dtype and checkpointing, a method's groups; saved weights are not a choice
    elsewhere = {"seed", "bf16", "gradient_checkpointing", "group_rows", "save_weights"}
    names = {field.name for field in dataclasses.fields(options.TrainOptions)}

    assert set(Train.model_fields) - {"device"} == names - elsewhere
    schedulers = Train.model_json_schema()["properties"]["lr_scheduler_type"]["enum"]
    assert set(schedulers) == set(options.SCHEDULERS)


def test_every_combination_of_the_frozen_recipe_is_defined():
    check_capabilities(load(FROZEN).recipe)


def test_defaults_are_what_was_measured_as_best():
    assert Shrink(layers=3).by == "first"
    assert Logit(kind="logit").temperature == 1.0
    assert (FULL_LEARNING_RATE, LORA_LEARNING_RATE) == (1e-4, 1e-3)
