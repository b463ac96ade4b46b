"""`plan` shows every problem of every task's data at once, each at its key, and what each label means."""

import json
from pathlib import Path

import pytest
from text_experiment import RECIPE as TEXT_RECIPE
from text_experiment import TEMPLATE, write_text_experiment
from tiny_experiment import RECIPE, write_experiment
from typer.testing import CliRunner

from tutelage.cli.app import app
from tutelage.config import load_recipe
from tutelage.experiment.checks import inspect_recipe
from tutelage.experiment.identity import Folders
from tutelage.experiment.stage import Context

SECOND = """\
  second:
    kind: classification
    data: {source: SOURCE, validation_rows: 4}
    template: "Review: {text}\\nSentiment:"
    verbalisers: {negative: " negative", positive: " positive"}
signals:"""


def inspected(recipe: Path):
    loaded = load_recipe(recipe, environment={})
    return inspect_recipe(Context(loaded, Folders(recipe.parent / "runs", "tiny"), show=print, command=""))


def with_second_task(folder: Path, rows: list[dict], *, data: str = "") -> Path:
    (folder / "second.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    second = SECOND.replace("SOURCE", f"second.jsonl{data}")
    return write_experiment(folder, recipe=RECIPE.replace("signals:", second, 1))


def rows(count=40, **changes):
    return [{"text": f"film {number}", "label": number % 2} | changes for number in range(count)]


def test_every_problem_of_every_task_is_shown_at_its_key(tmp_path):
    recipe = with_second_task(tmp_path, [{"text": f"film {n}", "label": n % 2 + 1} for n in range(40)])
    (tmp_path / "reviews.jsonl").unlink()
    refusals = {refusal.key: refusal.message for refusal in inspected(recipe).refusals}
    assert "reviews.jsonl" in refusals["tasks", "sentiment", "data"]
    assert "the labels are the numbers 1, 2" in refusals["tasks", "second", "data", "labels"]


def test_too_many_rows_left_out_and_a_missing_class_are_two_problems(tmp_path):
    bad = [{"text": f"bad {number}", "label": "maybe"} for number in range(10)]
    recipe = with_second_task(tmp_path, [*rows(label=0), *bad], data=", on_bad_row: skip")
    keys = [refusal.key[3:] for refusal in inspected(recipe).refusals]
    assert keys == [("max_left_out",), ("allow_empty_classes",), ("allow_empty_classes",)]


def test_plan_prints_what_each_label_means_and_how_many_rows_each_class_has(tmp_path, monkeypatch):
    recipe = with_second_task(tmp_path, rows())
    monkeypatch.chdir(tmp_path)
    shown = " ".join(CliRunner().invoke(app, ["plan", recipe.name]).stdout.split())
    assert "second: label: 0 -> negative; 1 -> positive" in shown
    assert "second: classes, test: negative 4, positive 4" in shown
    assert "sentiment: classes, train: negative" in shown


@pytest.mark.parametrize("allowed", [False, True])
def test_a_chat_template_that_refuses_most_rows_stops_in_plan(tmp_path, allowed):
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + TEMPLATE
    more = ", max_left_out: 0.9" if allowed else ""
    recipe = write_text_experiment(
        tmp_path, recipe=TEXT_RECIPE.replace("limit: 24", f"limit: 24{more}"), template=refusing
    )
    lines = (tmp_path / "chats.jsonl").read_text().splitlines()
    plain = [json.dumps({"messages": json.loads(line)["messages"][1:]}) for line in lines[::3]]
    (tmp_path / "chats.jsonl").write_text("\n".join([*lines[1::3], *lines[2::3], *plain]) + "\n")
    refusals = {refusal.key: refusal.message for refusal in inspected(recipe).refusals}
    assert (("tasks", "chat", "data", "max_left_out") in refusals) is not allowed
    if not allowed:
        assert "refused_by_template" in refusals["tasks", "chat", "data", "max_left_out"]
