"""What a chat template cannot write of a task is found by the plan, at the key to change, before any model runs."""

import json

import pytest
from text_experiment import TEMPLATE, write_text_experiment, write_tiny_model

from tutelage.config import load_recipe
from tutelage.errors import ModelError
from tutelage.experiment.checks import inspect_recipe
from tutelage.experiment.stored import recipe_context
from tutelage.models import template as template_module
from tutelage.models.load import load_tokenizer
from tutelage.models.source import resolve_model

TALK = [{"role": "user", "content": "Where does Anna live ?"}, {"role": "assistant", "content": "Anna lives in Rome ."}]
DATED = "{{ strftime_now('%d') }}" + TEMPLATE


def looked_at(folder, *overrides, template=TEMPLATE, rows=None, change=None):
    recipe = write_text_experiment(folder, template=template)
    path = folder / "chats.jsonl"
    talks = [json.loads(line) for line in path.read_text().splitlines()]
    for row in talks[:rows]:
        (change or (lambda each: None))(row)
    path.write_text("".join(json.dumps(row) + "\n" for row in talks))
    loaded = load_recipe(recipe, overrides, environment={})
    found = inspect_recipe(recipe_context(loaded, show=print))
    return (
        {".".join(map(str, each.key)): each.message for each in found.refusals},
        {".".join(map(str, each.key)): each.message for each in found.notes},
    )


def test_ordinary_conversations_pass_without_a_word(tmp_path):
    refusals, notes = looked_at(tmp_path)
    assert refusals == {}
    assert not [key for key in notes if key.startswith("tasks.chat.template")]


def test_a_template_that_refuses_many_rows_is_refused_with_their_number_and_the_way_to_allow_it(tmp_path):
    strict = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + TEMPLATE

    def without_system(row):
        del row["messages"][0]

    refusals, _ = looked_at(tmp_path, template=strict, rows=60, change=without_system)
    assert "refused_by_template" in refusals["tasks.chat.data.max_left_out"]
    (tmp_path / "b").mkdir()
    allowed, _ = looked_at(
        tmp_path / "b", "tasks.chat.data.max_left_out=0.6", template=strict, rows=60, change=without_system
    )
    assert allowed == {}


@pytest.mark.parametrize("options", [{}, {"template": None}])
def test_reasoning_and_tools_that_no_template_writes_are_refused(tmp_path, options):
    def think(row):
        row["messages"][2]["reasoning_content"] = "Rome"
        row["tools"] = [{"type": "function", "function": {"name": "f"}}]

    refusals, _ = looked_at(tmp_path, rows=1, change=think, **options)
    assert "`reasoning_content` and `tools`" in refusals["tasks.chat.template"]


def test_a_template_that_never_ends_is_one_refusal_per_model(tmp_path, monkeypatch):
    monkeypatch.setattr(template_module, "SECONDS", 0.5)
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}" + TEMPLATE
    refusals, _ = looked_at(tmp_path, template=endless)
    assert refusals["chat_template"].startswith("The chat template cannot be used")


def test_control_tokens_unknown_tokens_and_the_date_are_said(tmp_path):
    def odd(row):
        row["messages"][1]["content"] += " <end>"
        row["messages"][2]["content"] = "Nobody lives in Atlantis ."

    refusals, notes = looked_at(tmp_path, "tasks.chat.date=2026-01-31", template=DATED, rows=3, change=odd)
    assert refusals == {}
    assert notes["tasks.chat.data"].startswith("3 rows hold names of control tokens ('<end>')")
    found = looked_at(tmp_path, "tasks.chat.date=2026-01-31", rows=0)[1]
    assert "has no effect" in found["tasks.chat.date"]


def test_the_day_and_unknown_tokens_are_notes_of_the_template(tmp_path):
    def odd(row):
        row["messages"][2]["content"] = "Nobody lives in Atlantis ."

    recipe_notes = looked_at(tmp_path, rows=3, change=odd)[1]
    assert "3 of 64 rows teach the unknown token '<unk>'" in recipe_notes["tasks.chat.template"]
    (tmp_path / "b").mkdir()
    dated = looked_at(tmp_path / "b", "tasks.chat.date=2026-01-31", template=DATED)[1]
    assert dated["tasks.chat.template"] == "the chat template writes the date: 2026-01-31"


def test_an_end_token_that_only_the_configuration_names_is_taken_from_there(tmp_path):
    folder = write_tiny_model(tmp_path / "model")
    path = folder / "tokenizer_config.json"
    settings = {
        name: value for name, value in json.loads(path.read_text()).items() if not name.startswith(("pad", "eos"))
    }
    path.write_text(json.dumps(settings))
    tokenizer = load_tokenizer(resolve_model("model", base_folder=tmp_path))
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<end>", "<end>")
    config = json.loads((folder / "config.json").read_text()) | {"eos_token_id": None}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"config\.json names no `eos_token_id`"):
        load_tokenizer(resolve_model("model", base_folder=tmp_path))
