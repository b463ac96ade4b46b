"""Cheap checks first: every check of ``CHECKS`` finds the problem that it is there for, and then nothing is made.

A check that is added needs a problem here.
"""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from empty_stages import graph_of
from recipe_variants import loaded, with_value
from ruamel.yaml import YAML
from text_experiment import RECIPE as TEXT_RECIPE
from text_experiment import write_text_experiment
from tiny_experiment import RECIPE, WORDS, tiny_tokenizer, write_experiment, write_tiny_model
from transformers import GPT2Config, GPT2LMHeadModel

from tutelage.config import LoadedRecipe, RecipeError
from tutelage.experiment import plan_recipe, run_recipe
from tutelage.experiment.checks import CHECKS, Look, Refusal

Values = dict[str, Any]
NOT_HERE = {
    "layers_can_be_read": "needs a model of another architecture: tests/experiment/test_model_checks.py",
    "trackers_are_installed": "depends on what is installed: tests/train/test_trackers.py",
}


@dataclass(frozen=True)
class Known:
    """A problem: how it comes about, and the key at which it is to be said."""

    check: str
    make: Callable[[Path, Values], None]
    key: str


def no_folder_for_results(folder: Path, values: Values) -> None:
    (folder / "taken").write_text("")
    values["workspace"] = str(folder / "taken")


def two_runs_of_one_name(folder: Path, values: Values) -> None:
    section = values["tasks"].pop("sentiment")
    values["teacher"].pop("adapt")
    values["tasks"] = {"t": section, "x_t": section}
    values["methods"] = {"KD": {"kind": "baseline"}, "KD_x": {"kind": "baseline"}}


def no_such_model(folder: Path, values: Values) -> None:
    values["students"]["S2"] = {"model": "./nowhere"}


def another_vocabulary(folder: Path, values: Values) -> None:
    write_tiny_model(folder / "other")
    path = folder / "other" / "tokenizer.json"
    content = json.loads(path.read_text())
    words = content["model"]["vocab"]
    words["fine"], words["dull"] = words["dull"], words["fine"]
    path.write_text(json.dumps(content))
    values["students"]["S2"] = {"model": "other"}


def no_rows(folder: Path, values: Values) -> None:
    (folder / "reviews.jsonl").unlink()


def no_room_for_a_text(folder: Path, values: Values) -> None:
    values["tasks"]["sentiment"]["max_length"] = 3


def thoughts_that_no_template_writes(folder: Path, values: Values) -> None:
    rows = [json.loads(line) for line in (folder / "chats.jsonl").read_text().splitlines()]
    for row in rows:
        row["messages"][2]["reasoning_content"] = "Rome"
    (folder / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def a_layer_that_no_model_has(folder: Path, values: Values) -> None:
    values["signals"].append({"kind": "hidden", "layers": [2]})
    values["methods"]["KD3"] = {"kind": "feature", "layer_map": "fixed", "layers": {"9": 2}}


def weights_that_cannot_be_trained(folder: Path, values: Values) -> None:
    path = folder / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": {"quant_method": "gptq"}}))


def more_layers_than_there_are(folder: Path, values: Values) -> None:
    values["students"]["S1"]["shrink"]["layers"] = 9


def words_that_are_one_token(folder: Path, values: Values) -> None:
    values["tasks"]["sentiment"]["verbalisers"] = {"negative": " no", "positive": " yes"}


def no_such_device(folder: Path, values: Values) -> None:
    values["train"]["device"] = "cuda:7"


def a_schedule_without_its_argument(folder: Path, values: Values) -> None:
    values["train"]["lr_scheduler_type"] = "warmup_stable_decay"


def no_such_module(folder: Path, values: Values) -> None:
    values["teacher"]["adapt"]["adapter"] = {"kind": "lora", "targets": ["query"]}


def rows_beyond_the_positions(folder: Path, values: Values) -> None:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(WORDS), n_positions=8, n_embd=8, n_layer=2, n_head=2, eos_token_id=1)
    GPT2LMHeadModel(config).save_pretrained(folder / "short")
    tiny_tokenizer().save_pretrained(folder / "short")
    values["students"]["S2"] = {"model": "short"}


KNOWN = (
    Known("workspace_is_usable", no_folder_for_results, "workspace"),
    Known("run_names_differ", two_runs_of_one_name, "methods.KD"),
    Known("models_are_readable", no_such_model, "students.S2.model"),
    Known("tokenizers_agree", another_vocabulary, "students.S2.model"),
    Known("rows_can_be_cut", no_rows, "tasks.sentiment.data"),
    Known("rows_can_be_learnt", no_room_for_a_text, "tasks.sentiment"),
    Known("texts_can_be_written", thoughts_that_no_template_writes, "tasks.chat"),
    Known("layers_exist", a_layer_that_no_model_has, "methods.KD3"),
    Known("quantised_models_can_be_read", weights_that_cannot_be_trained, "students.S1"),
    Known("layers_can_be_cut", more_layers_than_there_are, "students.S1.shrink"),
    Known("verbalisers_continue_prompts", words_that_are_one_token, "tasks.sentiment.verbalisers"),
    Known("devices_exist", no_such_device, "train.device"),
    Known("schedules_can_be_built", a_schedule_without_its_argument, "train.lr_scheduler_type"),
    Known("adapters_fit", no_such_module, "teacher.adapt.adapter"),
    Known("rows_fit_positions", rows_beyond_the_positions, "tasks.sentiment.max_length"),
)


def with_problem(known: Known, folder: Path) -> LoadedRecipe:
    is_text = known.check == "texts_can_be_written"
    (write_text_experiment if is_text else write_experiment)(folder)
    values: Values = YAML(typ="safe").load(TEXT_RECIPE if is_text else RECIPE)
    values = copy.deepcopy(values) | {"workspace": str(folder / "runs")}
    known.make(folder, values)
    return loaded(values, folder)


def is_said(keys: list[tuple[str | int, ...]], known: Known) -> bool:
    return any(".".join(map(str, key)).startswith(known.key) for key in keys)


def test_every_check_has_a_problem_that_it_is_there_for():
    assert {check.__name__ for check in CHECKS} == {known.check for known in KNOWN} | set(NOT_HERE)


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.check)
def test_a_check_finds_its_problem_at_the_key_to_change(known: Known, tmp_path: Path):
    look = Look(graph_of(with_problem(known, tmp_path)).context)
    check = next(check for check in CHECKS if check.__name__ == known.check)
    found = [each for each in check(look) if isinstance(each, Refusal)]
    keys = [each.key for each in (*found, *look.failures)]
    assert is_said(keys, known), keys


def test_a_model_that_is_not_there_is_said_with_all_else_that_is_wrong(tmp_path: Path):
    recipe = with_problem(Known("models_are_readable", no_such_model, ""), tmp_path)
    recipe = loaded(with_value(recipe.raw, ("train", "device"), "cuda:7"), tmp_path)
    for start in (lambda: plan_recipe(recipe), lambda: run_recipe(recipe, show=print)):
        with pytest.raises(RecipeError) as refused:
            start()
        assert {problem.path for problem in refused.value.problems} >= {
            ("students", "S2", "model"),
            ("train", "device"),
        }


@pytest.mark.slow
@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.check)
def test_plan_and_run_refuse_it_alike_and_make_nothing(known: Known, tmp_path: Path):
    recipe = with_problem(known, tmp_path)
    said = []
    for start in (lambda: plan_recipe(recipe), lambda: run_recipe(recipe, show=print)):
        with pytest.raises(RecipeError) as refused:
            start()
        said.append([(problem.path, problem.message) for problem in refused.value.problems])
        assert not list(tmp_path.rglob("MANIFEST.json"))
    assert said[0] == said[1]
    assert is_said([path for path, _ in said[0]], known)
