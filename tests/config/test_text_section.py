"""The section of a text task."""

import pytest
from recipe_texts import load, problems

from tutelage.config import Text, selection_metric

TEXT = """\
name: chats
teacher: {model: sample:smollm2-135m-instruct}
students:
  S1: {shrink: {layers: 20}}
tasks:
  chat:
    kind: text
    data: {source: chats.jsonl}
methods:
  B0: {kind: baseline}
  KD1: {kind: logit, temperature: 2, alpha: 0.3}
"""
MIXED = TEXT.replace(
    "{source: chats.jsonl}",
    "{mixture: [{source: a.jsonl, weight: 3, limit: 900}, {source: org/b, subset: c, revision: main}], rows: 100}",
)


def test_a_text_task_needs_nothing_but_its_source():
    task = load(TEXT).recipe.tasks["chat"]
    assert isinstance(task, Text)
    assert (task.template, task.max_length, task.data.streaming, task.data.repeat) == ("auto", 1024, False, False)
    assert [(part.source, part.weight) for part in task.data.parts] == [("chats.jsonl", 1.0)]
    assert load(TEXT, mode="fast").recipe.tasks["chat"].max_length == 512


def test_a_mixture_lists_its_sources_with_weights_and_caps():
    task = load(MIXED).recipe.tasks["chat"]
    assert isinstance(task, Text)
    first, second = task.data.parts
    assert (first.source, first.weight, first.limit) == ("a.jsonl", 3, 900)
    assert (second.source, second.weight, second.subset, second.revision) == ("org/b", 1, "c", "main")


@pytest.mark.parametrize(
    ("setting", "path", "message"),
    [
        ("tasks.chat.data={validation_rows: 3}", "data.source", "neither is given"),
        ("tasks.chat.data={source: a, mixture: [{source: b}]}", "data.source", "both are given"),
        ("tasks.chat.data={mixture: []}", "data.source", "neither is given"),
        ("tasks.chat.data={mixture: [{source: a, weight: 0}]}", "data.mixture.0.weight", "above 0"),
        ("tasks.chat.data={mixture: [{source: a, wieght: 2}]}", "data.mixture.0.wieght", "did you mean weight"),
        ("tasks.chat.data={mixture: [{source: a}], revision: main}", "data.revision", "belongs to one source"),
        ("tasks.chat.data={source: a, streaming: true}", "data.rows", "told where to end"),
        ("tasks.chat.data={source: a, repeat: true}", "data.repeat", "no effect without `rows`"),
        ("tasks.chat.data={source: a, shuffle_buffer: 9}", "data.shuffle_buffer", "no effect without `streaming"),
        ("tasks.chat.template=alpaca", "template", "expected"),
        ("tasks.chat.max_length=1", "max_length", "from 2"),
        ("tasks.chat.verbalisers={a: b}", "verbalisers", "unknown key"),
    ],
)
def test_a_setting_that_does_not_fit_is_named(setting, path, message):
    found = problems(TEXT, setting)
    assert len(found) == 1, found
    ((where, text),) = found.items()
    assert where.endswith(f"tasks.chat.{path}")
    assert message in text


@pytest.mark.parametrize(
    ("setting", "path"),
    [
        ("methods={B0: {kind: baseline}, P: {kind: pseudo}}", "methods.P.kind"),
        ("signals=[{kind: final_hidden}, {kind: sequences}]", "signals.1.kind"),
    ],
)
def test_methods_and_signals_that_need_answers_are_refused(setting, path):
    ((where, message),) = problems(TEXT, setting).items()
    assert where.endswith(path)
    assert "has no answers to replace" in message


def test_a_text_task_is_judged_by_its_tokens_and_larger_is_better():
    recipe = load(TEXT).recipe
    assert selection_metric(recipe.evaluate.select_by, recipe.tasks["chat"]) == "token_accuracy"
    named = load(TEXT, "evaluate.select_by=token_probability").recipe
    assert selection_metric(named.evaluate.select_by, named.tasks["chat"]) == "token_probability"
    ((where, message),) = problems(TEXT, "evaluate.select_by=accuracy").items()
    assert where.endswith("evaluate.select_by")
    assert "only token_accuracy, token_probability" in message
