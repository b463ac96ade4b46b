import pytest

from tutelage.data import ClassificationTask, Example
from tutelage.errors import DataError


def example(text, **others):
    return Example("k", "c", {"text": text, **others}, 0)


@pytest.mark.parametrize("text", ["{label}", "{}", "{0.__class__}", "a } b { c", "{{text}}", "%s {text}"])
def test_braces_in_a_text_are_plain_characters(task, text):
    assert task.prompt(example(text)) == f"Review: {text}\nSentiment:"


def test_double_braces_in_a_template_are_literal(make_task):
    assert make_task(template='{{"a": "{text}"}}').prompt(example("x")) == '{"a": "x"}'


def test_the_text_column_may_be_named_in_the_template(make_task):
    assert make_task(template="{sentence} ->", text_column="sentence").prompt(example("x")) == "x ->"


def test_other_columns_are_read_and_kept_whole(make_task):
    task = make_task(template="{title}: {text} ({title}, {year})?")
    prompt = task.filled(example("x", title="T", year="1999"))
    assert (prompt.before, prompt.context, prompt.after) == ("T: ", "x", " (T, 1999)?")
    assert task.other_fields == ("title", "year")


@pytest.mark.parametrize("template", ["{text", "text}", "{text}}", "{"])
def test_unmatched_braces_are_refused(make_task, template):
    with pytest.raises(DataError, match=r"tasks\.sentiment\.template.*braces"):
        make_task(template=template)


@pytest.mark.parametrize("field", ["0", "", "text.__class__", "text[0]", "text!r", "text:>9"])
def test_fields_that_are_no_plain_names_are_refused(make_task, field):
    with pytest.raises(DataError, match="plain name of a column"):
        make_task(template=f"{{{field}}}")


@pytest.mark.parametrize("template", ["no text", "{title}", "{text} {text}"])
def test_the_text_must_be_named_exactly_once(make_task, template):
    with pytest.raises(DataError, match="exactly once"):
        make_task(template=template)


@pytest.mark.parametrize(
    ("labels", "words", "message"),
    [
        (("a", "b"), (" x", " x"), "equal words: ' x'"),
        (("a", "a"), (" x", " y"), "equal labels: 'a'"),
        (("a",), (" x",), "at least two"),
        (("a", "b"), (" x",), "each with one word"),
    ],
)
def test_labels_and_words_must_be_distinct_and_paired(labels, words, message):
    with pytest.raises(DataError, match=message):
        ClassificationTask("t", "{text}", labels, words)
