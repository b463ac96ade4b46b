"""Verbalisers are proven with the tokenizer before anything runs."""

import json

import pytest
import torch
from tiny_experiment import RECIPE, run_tiny, write_experiment, write_reviews
from transformers import LlamaConfig, LlamaForCausalLM

from tiny_tokenizers import byte_level, llama2
from tutelage.config import RecipeError, load_recipe
from tutelage.experiment import plan_recipe
from tutelage.experiment.classification import mass_lines

WITHOUT_ADAPTATION = RECIPE.replace(RECIPE[RECIPE.index("  adapt:") : RECIPE.index("students:")], "")


def write_with(folder, tokenizer, recipe):
    """Write an experiment whose model has another tokenizer."""
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=4, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=128, pad_token_id=0, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    write_reviews(folder / "reviews.jsonl")
    path = folder / "tiny.yaml"
    path.write_text(recipe.replace("WORKSPACE", str(folder / "runs")), encoding="utf-8")
    return path


def problems_of(path):
    with pytest.raises(RecipeError) as found:
        plan_recipe(load_recipe(path, (), environment={}))
    return {".".join(map(str, problem.path)): problem.message for problem in found.value.problems}


def test_plan_refuses_a_verbaliser_without_its_blank_with_the_line_to_paste(tmp_path):
    recipe = RECIPE.replace('negative: " negative"', "negative: negative")
    found = problems_of(write_with(tmp_path, byte_level(), recipe))
    assert found["tasks.sentiment.verbalisers"].endswith(
        'Write: verbalisers: {negative: " negative", positive: " positive"} (Found with the tokenizer of the teacher.)'
    )


def test_plan_proposes_the_spelling_of_one_token_under_a_llama2_tokenizer(tmp_path):
    found = problems_of(write_with(tmp_path, llama2(), RECIPE))
    assert 'Write: verbalisers: {negative: "negative", positive: "positive"}' in found["tasks.sentiment.verbalisers"]


def test_plan_refuses_class_scores_for_a_label_of_several_tokens_by_its_name(tmp_path):
    recipe = RECIPE.replace("{kind: logit, ", "{kind: logit, signal: class_scores, ")
    recipe = recipe.replace('positive: " positive"', 'positive: " rather positive"')
    recipe = recipe.replace("data: {", "data: {labels: {negative: negative, positive: positive}, ")
    (key,) = found = problems_of(write_with(tmp_path, byte_level(), recipe))
    assert key == "tasks.sentiment.verbalisers.positive"
    assert "tokens ('Ġ" in found[key]
    assert "class_scores, which methods.KD1 reads" in found[key]


def test_the_teachers_mass_on_the_label_words_is_recorded_and_a_small_one_is_loud(tmp_path):
    done = run_tiny(write_experiment(tmp_path, recipe=WITHOUT_ADAPTATION), until="teach")
    facts = json.loads((done.at("teach/sentiment") / "teach.json").read_text(encoding="utf-8"))
    mass = facts["label_mass"]
    assert list(mass) == ["negative", "positive"]
    assert all(0 < share < 0.2 for share in mass.values())  # random weights, 35 words
    assert [line for line in done.lines if "label words" in line.lower()] == mass_lines(mass)
    assert len(mass_lines(mass)) == 2
    assert len(mass_lines({"a": 0.3, "b": 0.3})) == 1
