"""``feature`` (KD3) through the whole pipeline: what it reads, what it trains, what it refuses."""

import json

import pytest
import torch
from safetensors.torch import load_file
from tiny_experiment import Finished, recipe_with, run_tiny, write_experiment

from tutelage.config import load_recipe
from tutelage.errors import AlignmentError
from tutelage.experiment import list_runs, plan_recipe

SIGNALS = "signals: [{kind: final_hidden}, {kind: hidden, layers: [1, 2, 4], token_subset_ratio: 0.5}]"
KD3 = """\
  KD3: {kind: feature, lambda: 0.5}
  KD3fixed: {kind: feature, loss: cosine, layer_map: fixed, layers: {1: 1, 2: 4}}
  KD3logit: {kind: feature, lambda: 2, loss: mse, layer_map: shrink, logit: {temperature: 2, alpha: 0.25}}
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Finished:
    torch.set_num_threads(1)
    recipe = write_experiment(tmp_path_factory.mktemp("feature"), recipe=recipe_with(KD3, SIGNALS))
    return run_tiny(recipe, "seeds.report=[1]", until="train")


def steps_of(done: Finished, run_id: str) -> list[dict]:
    return [json.loads(line) for line in (done.root / run_id / "metrics.jsonl").read_text().splitlines()]


RUNS = {
    "KD3_sentiment_S1_l0.5_seed1": ("hidden_normalised_mse", 0.5),
    "KD3fixed_sentiment_S1_l0.5_seed1": ("hidden_cosine", 0.5),
}


@pytest.mark.parametrize("run_id", RUNS)
def test_the_objective_is_cross_entropy_and_lambda_times_the_mean_over_tokens(done: Finished, run_id):
    name, weight = RUNS[run_id]
    for line in steps_of(done, run_id):
        assert line["parts"].keys() == {"cross_entropy", name}
        expected = line["parts"]["cross_entropy"] + weight * line["parts"][name]
        assert line["loss_nats"] == pytest.approx(expected, rel=1e-6)
        assert line["parts"][name] > 0


def test_the_logits_can_be_learnt_from_in_the_same_pass(done: Finished):
    for line in steps_of(done, "KD3logit_sentiment_S1_l2_T2_a0.25_seed1"):
        parts = line["parts"]
        expected = 0.25 * parts["cross_entropy"] + 0.75 * parts["forward_kl"] + 2 * parts["hidden_mse"]
        assert line["loss_nats"] == pytest.approx(expected, rel=1e-6)


def test_every_run_is_scored_and_says_what_it_read(done: Finished):
    runs = {run.run_id: run.record for run in list_runs(done.root.parent)}
    for run_id, record in runs.items():
        assert record["metrics"]["test"]["n"] == 32
        if run_id.startswith("KD3"):
            assert record["gold_labels"] == 80
            assert record["teacher_tokens"] > 0
            assert record["kind"] == "feature"


def test_projectors_stay_behind(done: Finished):
    names = load_file(done.root / "KD3_sentiment_S1_l0.5_seed1" / "checkpoint" / "model.safetensors").keys()
    assert names
    assert all(name.startswith("model.") for name in names), "the student's own weights; its head is tied"


def test_the_layers_are_shown(done: Finished):
    # proportional: of the kept 1, 2, 4 of four layers and a student of two, layer 1 is compared with the nearer one
    assert "  layers (student-teacher): 1-2, 2-4" in done.lines


def test_a_layer_that_is_not_kept_is_refused_before_the_teacher_runs(tmp_path):
    methods = "  KD3: {kind: feature, layer_map: even}\n"
    recipe = write_experiment(tmp_path, recipe=recipe_with(methods, SIGNALS.replace("1, 2, 4", "1, 4")))
    with pytest.raises(AlignmentError, match=r"methods\.KD3, student S1: .*'even'.* 2 cannot be had"):
        run_tiny(recipe, "seeds.report=[1]", until="train")
    assert not (tmp_path / "runs" / "tiny" / "teach" / "sentiment").exists()
    with pytest.raises(AlignmentError, match=r"methods\.KD3, student S1"):
        plan_recipe(load_recipe(recipe, environment={}))
