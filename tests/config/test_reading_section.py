"""The section of a reading task, and the metric that judges tasks of several kinds."""

import pytest
from recipe_texts import FROZEN, load, problems

from tutelage.config import Reading, selection_metric

READING = """\
name: facts
teacher: {model: sample:smollm2-135m-instruct}
students:
  S1: {shrink: {layers: 20}}
tasks:
  facts:
    kind: reading
    data: {source: sample:country-facts}
methods:
  B0: {kind: baseline}
  KD1: {kind: logit, temperature: 2, alpha: 0.3}
"""
BOTH = READING.replace(
    "methods:\n",
    """\
  sentiment:
    kind: classification
    data: {source: sample:movie-reviews}
    template: "{text} is"
    verbalisers: {bad: " bad", good: " good"}
methods:
""",
)


def test_a_reading_task_needs_nothing_but_its_source():
    task = load(READING).recipe.tasks["facts"]
    assert isinstance(task, Reading)
    assert task.template == "Context: {context}\nQuestion: {question}\nAnswer:"
    assert (task.max_length, task.doc_stride, task.max_answer_length) == (1024, None, 30)
    assert load(READING, mode="fast").recipe.tasks["facts"].max_length == 512


@pytest.mark.parametrize(
    ("setting", "path", "message"),
    [
        ("tasks.facts.template='{context} {question} '", "template", "ends in white space"),
        ("tasks.facts.template='{context} Answer:'", "template", "names the question 0 times"),
        ("tasks.facts.template='{question} {question} {context}'", "template", "names the question 2 times"),
        ("tasks.facts.template='{context!r} {question}'", "template", "is not the plain name of a column"),
        ("tasks.facts.max_answer_length=1024", "max_answer_length", "leaves no token of max_length 1024"),
        ("tasks.facts.doc_stride=994", "doc_stride", "994 is longer than a window, which has 993 tokens"),
        ("tasks.facts.doc_stride=0", "doc_stride", "expected a number from 1"),
        ("tasks.facts.verbalisers={a: b}", "verbalisers", "unknown key"),
        ("tasks.facts.data.label=x", "data.label", "unknown key"),
    ],
)
def test_a_setting_that_does_not_fit_is_named(setting, path, message):
    found = problems(READING, setting)
    assert len(found) == 1, found
    ((where, text),) = found.items()
    assert where.endswith(f"tasks.facts.{path}")
    assert message in text


def test_the_metric_of_each_task_is_its_main_one_unless_the_recipe_names_one():
    recipe = load(BOTH).recipe
    assert recipe.evaluate.select_by == "auto"
    found = {name: selection_metric(recipe.evaluate.select_by, task) for name, task in recipe.tasks.items()}
    assert found == {"facts": "f1", "sentiment": "accuracy"}
    named = load(READING, "evaluate.select_by=exact_match").recipe
    assert selection_metric(named.evaluate.select_by, named.tasks["facts"]) == "exact_match"


@pytest.mark.parametrize(("text", "metric"), [(READING, "accuracy"), (BOTH, "f1"), (FROZEN, "exact_match")])
def test_a_metric_that_a_task_does_not_have_is_refused(text, metric):
    ((where, message),) = problems(text, f"evaluate.select_by={metric}").items()
    assert where.endswith("evaluate.select_by")
    assert f"has no {metric}, only" in message
    assert "write auto" in message
