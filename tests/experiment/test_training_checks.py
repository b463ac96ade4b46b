"""What training would refuse is said by `plan`, each at its key."""

import json
from pathlib import Path

import pytest
import torch
from tiny_experiment import RECIPE, WORDS, tiny_tokenizer, write_experiment
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from tutelage.config import RecipeError, load_recipe
from tutelage.experiment import plan_recipe


def plan(recipe: Path, *overrides: str):
    return plan_recipe(load_recipe(recipe, overrides, environment={}))


def refusals(recipe: Path, *overrides: str) -> dict[str, str]:
    with pytest.raises(RecipeError) as refused:
        plan(recipe, *overrides)
    return {".".join(map(str, problem.path)): problem.message for problem in refused.value.problems}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    students = "  S1: {shrink: {layers: 2, by: influence}, dtype: fp32}\n"
    more = (
        students
        + "  S2: {model: nowhere, dtype: fp32}\n"
        + "  S3: {shrink: {layers: 2, by: first}, adapter: {kind: lora, targets: [query], last_layers: 3}}\n"
    )
    return write_experiment(tmp_path_factory.mktemp("checks"), recipe=RECIPE.replace(students, more))


def test_every_mistake_of_every_arm_is_found_at_once(recipe: Path):
    found = refusals(
        recipe,
        "train.device=cuda:7",
        "train.lr_scheduler_type=warmup_stable_decay",
        "methods.KD1.train.lr_scheduler_type=cosine_with_min_lr",
        "methods.KD1.train.lr_scheduler_kwargs.min_lr_rat=0.1",
        "teacher.adapt.adapter.targets=[query]",
    )
    assert "cuda:7" in found["train.device"]
    assert "`num_decay_steps` is missing" in found["train.lr_scheduler_type"]
    assert "'min_lr_rat' is not known; expected num_cycles, min_lr, min_lr_rate" in found["methods.KD1.train"]
    assert "nowhere" in found["students.S2.model"]
    assert "LoRA target 'query' is no linear layer of this LlamaForCausalLM" in found["students.S3.adapter"]
    assert "leaves the student 2 layers" in found["students.S3.adapter.last_layers"]
    assert "LoRA target 'query'" in found["teacher.adapt.adapter"]


def test_a_schedule_is_built_for_the_steps_that_there_will_be(tmp_path: Path):
    recipe = write_experiment(tmp_path)
    settings = ["train.lr_scheduler_type=warmup_stable_decay", "train.lr_scheduler_kwargs.num_decay_steps=50"]
    assert "num_decay_steps is 50, but" in refusals(recipe, *settings)["train.lr_scheduler_type"]
    plan(recipe, *settings, "train.max_steps=100")


def write_model(folder: Path, kind: str, positions: int) -> None:
    torch.manual_seed(0)
    if kind == "gpt2":
        config = GPT2Config(
            vocab_size=len(WORDS), n_positions=positions, n_embd=16, n_layer=2, n_head=2, eos_token_id=1, bos_token_id=1
        )
        model = GPT2LMHeadModel(config)
    else:
        config = LlamaConfig(
            vocab_size=len(WORDS), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=positions, eos_token_id=1, bos_token_id=None,
        )  # fmt: skip
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)


def test_rows_beyond_a_position_table_are_refused_and_beyond_what_a_model_has_seen_noted(tmp_path: Path):
    recipe = write_experiment(tmp_path)
    write_model(tmp_path / "gpt2", "gpt2", 10)
    write_model(tmp_path / "llama", "llama", 10)

    found = refusals(recipe, "students.S1.model=gpt2", "students.S1.shrink=null")
    expected = "and student S1 has 10 positions (`max_position_embeddings`) in a table that ends there"
    assert expected in found["tasks.sentiment.max_length"]
    assert "set max_length to at most 10" in found["tasks.sentiment.max_length"]

    notes = plan(recipe, "students.S1.model=llama", "students.S1.shrink=null").notes
    assert [note for note in notes if "student S1 has 10 positions" in str(note)]


def test_rows_that_fit_are_no_finding_whatever_max_length_allows(tmp_path: Path):
    recipe = write_experiment(tmp_path)
    write_model(tmp_path / "gpt2", "gpt2", 32)
    plan(recipe, "students.S1.model=gpt2", "students.S1.shrink=null", "tasks.sentiment.max_length=4096")


@pytest.mark.parametrize(("field", "value"), [("num_attention_heads", 0), ("hidden_size", -4), ("vocab_size", 10**30)])
def test_a_configuration_that_no_model_can_be_built_of_is_one_line(field: str, value: int, tmp_path: Path):
    recipe = write_experiment(tmp_path)
    write_model(tmp_path / "llama", "llama", 64)
    path = tmp_path / "llama" / "config.json"
    config = json.loads(path.read_text()) | {field: value}
    path.write_text(json.dumps(config))

    found = refusals(recipe, "students.S1.model=llama", "students.S1.shrink=null")
    assert "students.S1.model" in found
    assert "\n" not in found["students.S1.model"]
