"""Teacher and student with differently padded vocabularies of one family give what they give without padding."""

import json

import pytest
import torch
from tiny_experiment import WORDS, recipe_with, run_tiny, write_experiment, write_tiny_model
from transformers import AutoModelForCausalLM

from tutelage.config import RecipeError

METHODS = """\
  B0: {kind: baseline}
  PSEUDO: {kind: pseudo}
  KD1: {kind: logit, signal: final_hidden}
  TOPK: {kind: logit, signal: topk}
  DRAWN: {kind: logit, signal: sampled, temperature: 1}
  REVERSE: {losses: [{kind: cross_entropy, weight: 0.5}, {kind: reverse_kl, weight: 0.5}], signal: final_hidden}
  CLASS: {kind: logit, signal: class_scores}
  KD3: {kind: feature, lambda: 0.5, layer_map: even}
  REL: {kind: relation, lambda_dist: 2, lambda_angle: 0.25, group_rows: 4}
"""
SIGNALS = (
    "signals: [{kind: final_hidden}, {kind: topk, k: 24, temperatures: [1, 2]}, {kind: sampled, draws: 16}, "
    "{kind: hidden, layers: [1, 2, 4]}, {kind: pooled, layers: [4]}]"
)


def recipe():
    made = recipe_with(METHODS, SIGNALS)
    start, end = made.index("  adapt:"), made.index("students:")
    made = made[:start] + made[end:]
    return made.replace(
        "S1: {shrink: {layers: 2, by: influence}, dtype: fp32}", "S1: {model: other, dtype: fp32}"
    ).replace("report: [1, 2]", "report: [1]")


def pad(folder, num_rows):
    """Give a model rows for no token, of large numbers: in a softmax they would be seen."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(num_rows, mean_resizing=False)
    with torch.no_grad():
        model.get_input_embeddings().weight[len(WORDS) :] = 3.0
    model.save_pretrained(folder)


def finish(folder, *, teacher=None, student=None):
    path = write_experiment(folder, recipe=recipe())
    write_tiny_model(folder / "other", layers=2, seed=1)
    for name, num_rows in (("model", teacher), ("other", student)):
        if num_rows is not None:
            pad(folder / name, num_rows)
    return run_tiny(path, until="train")


def metrics_of(done):
    found = {}
    for folder in done.root.glob("*_sentiment_*.????????"):
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        found[record["run_id"]] = record["metrics"]
    return found


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return finish(tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize(("teacher", "student"), [(64, 40), (40, None), (None, 64), (64, 64)])
def test_every_signal_gives_what_it_gives_without_padding(plain, tmp_path, teacher, student):
    done = finish(tmp_path, teacher=teacher, student=student)
    expected = metrics_of(plain)
    assert len(expected) >= 10
    assert metrics_of(done) == expected
    checkpoint = next(iter(done.root.glob("DRAWN_sentiment_S1*"))) / "checkpoint"
    saved = AutoModelForCausalLM.from_pretrained(checkpoint)
    assert saved.config.vocab_size == (student or len(WORDS)) == saved.get_input_embeddings().num_embeddings
    assert (saved.get_input_embeddings().weight[len(WORDS) :] == 3.0).all()


def test_draws_of_a_student_without_a_logit_for_every_token_are_refused_in_plan(tmp_path):
    path = write_experiment(tmp_path, recipe=recipe())
    write_tiny_model(tmp_path / "other", layers=2, seed=1)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "other")
    model.resize_token_embeddings(len(WORDS) - 1, mean_resizing=False)
    model.save_pretrained(tmp_path / "other")
    with pytest.raises(RecipeError, match="reads `sampled`, which needs one number of tokens"):
        run_tiny(path, until="teach")
