"""``feature`` (KD3) through the whole pipeline: what it reads, what it trains, what it refuses."""

import json

import pytest
from safetensors.torch import load_file
from tiny_experiment import Finished, recipe_with, run_tiny, write_experiment

from tutelage.config import RecipeError, load_recipe
from tutelage.experiment import list_runs, plan_recipe

SIGNALS = "signals: [{kind: final_hidden}, {kind: hidden, layers: [1, 2, 4], token_subset_ratio: 0.5}]"


def steps_of(finished: Finished, run_id: str) -> list[dict]:
    return [json.loads(line) for line in (finished.at(run_id) / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("arm", ["KD3", "KD3-permuted"])
def test_the_objective_is_cross_entropy_and_lambda_times_the_mean_over_tokens(state_methods: Finished, arm):
    for line in steps_of(state_methods, f"{arm}_sentiment_S1_l0.5_seed1"):
        parts = line["parts"]
        assert parts.keys() == {"cross_entropy", "hidden_normalised_mse"}
        expected = parts["cross_entropy"] + 0.5 * parts["hidden_normalised_mse"]
        assert line["loss_nats"] == pytest.approx(expected, rel=1e-6)
        assert parts["hidden_normalised_mse"] > 0


def test_the_logits_can_be_learnt_from_in_the_same_pass(state_methods: Finished):
    for line in steps_of(state_methods, "KD3logit_sentiment_S1_l2_T2_a0.25_seed1"):
        parts = line["parts"]
        expected = 0.25 * parts["cross_entropy"] + 0.75 * parts["forward_kl"] + 2 * parts["hidden_mse"]
        assert line["loss_nats"] == pytest.approx(expected, rel=1e-6)


def test_every_run_is_scored_and_says_what_it_read(state_methods: Finished):
    runs = {run.run_id: run.record for run in list_runs(state_methods.root.parent)}
    for run_id, record in runs.items():
        assert record["metrics"]["test"]["n"] == 32
        if run_id.startswith("KD3"):
            assert record["gold_labels"] == 80
            assert record["teacher_tokens"] > 0
            assert record["kind"] == "feature"


def test_projectors_stay_behind(state_methods: Finished):
    names = load_file(state_methods.at("KD3_sentiment_S1_l0.5_seed1") / "checkpoint" / "model.safetensors").keys()
    assert names
    assert all(name.startswith("model.") for name in names), "the student's own weights; its head is tied"


def test_the_layers_are_shown(state_methods: Finished):
    # proportional: of the kept 1, 2, 4 of four layers and a student of two, layer 1 is compared with the nearer one
    assert "  layers (student-teacher): 1-2, 2-4" in state_methods.lines


def test_a_layer_that_is_not_kept_is_refused_before_the_teacher_runs(tmp_path):
    methods = "  KD3: {kind: feature, layer_map: even}\n"
    recipe = write_experiment(tmp_path, recipe=recipe_with(methods, SIGNALS.replace("1, 2, 4", "1, 4")))
    with pytest.raises(RecipeError, match=r"methods\.KD3: student S1: .*'even'.* 2 cannot be had"):
        run_tiny(recipe, "seeds.report=[1]", until="train")
    assert not (tmp_path / "runs" / "tiny" / "teach").exists()
    with pytest.raises(RecipeError, match=r"methods\.KD3: student S1"):
        plan_recipe(load_recipe(recipe, environment={}))
