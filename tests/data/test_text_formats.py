"""Texts and conversations are known by their columns, and anything else is refused."""

import pytest
from text_files import FORMS

from tutelage.data import Turn
from tutelage.data.text_formats import FORMATS, LeftOutError, find_format
from tutelage.errors import DataError

ASKED = (Turn("user", "Say it"), Turn("assistant", "a film"))


def turns_of(values):
    return find_format(values, where="f:1").read(values)


@pytest.mark.parametrize(
    ("form", "turns"),
    [
        ("text", (Turn("document", "a film"),)),
        ("alpaca", (Turn("user", "Say it\n\nsoftly"), Turn("assistant", "a film"))),
        ("prompt", (Turn("system", "Be kind"), *ASKED)),
        ("messages", ASKED),
        ("sharegpt", ASKED),
    ],
)
def test_each_form_is_known_by_its_columns(form, turns):
    assert find_format(FORMS[form], where="f:1").name == form
    assert turns_of(FORMS[form]) == turns
    assert {each.name for each in FORMATS} == set(FORMS)


def test_an_empty_input_of_alpaca_adds_nothing():
    for empty in ("", " ", None):
        assert turns_of({"instruction": "Say it", "input": empty, "output": "a film"}) == ASKED


def test_response_and_completion_are_both_answers_and_conversations_may_have_roles():
    assert turns_of({"prompt": "Say it", "response": "a film"}) == ASKED
    renamed = [{"role": turn.role, "content": turn.content} for turn in ASKED]
    assert turns_of({"conversations": renamed}) == ASKED


def test_unknown_columns_are_refused_with_what_was_found_and_what_is_expected():
    with pytest.raises(DataError, match=r"f:1 has the columns 'question', 'answer', .* Expected `messages`"):
        find_format({"question": "q", "answer": "a"}, where="f:1")
    with pytest.raises(DataError, match="no known form"):
        find_format({"instruction": "half of a pair"}, where="f:1")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"text": 3}, "'text' holds a int, expected text"),
        ({"text": "half \ud800"}, "half of a surrogate pair"),
        ({"prompt": ["a"], "response": "b"}, r"prompt\[0\] has a str, expected an object"),
        ({"instruction": "a", "input": 3, "output": "b"}, "'input' holds a int"),
        ({"messages": "a"}, "'messages' holds a str, expected a list"),
        ({"messages": [{"role": "user"}]}, r"messages\[0\] has 'role', expected an object with 'role' and 'content'"),
        ({"messages": ["a"]}, r"messages\[0\] has a str"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "said by 'tool', expected one of system, user, assistant"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "url": "u"}]}]},
            "a segment of type 'image', expected text only",
        ),
        ({"messages": [{"role": "user", "content": None}]}, "says a NoneType"),
        (
            {"messages": [{"role": "assistant", "content": "", "tool_calls": [{"name": "f"}]}]},
            "has 'tool_calls', which is not supported",
        ),
        ({"conversations": [{"from": "narrator", "value": "a"}]}, "said by 'narrator', expected one of human, gpt"),
    ],
)
def test_a_value_that_is_not_what_its_column_promises_is_refused(values, message):
    with pytest.raises(ValueError, match=message) as caught:
        turns_of(values)
    assert not isinstance(caught.value, LeftOutError)


@pytest.mark.parametrize(
    "values",
    [
        {"text": " \n"},
        {"text": None},
        {"instruction": "a", "output": ""},
        {"messages": []},
        {"messages": [{"role": "user", "content": "a"}]},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": " "}]},
    ],
)
def test_a_row_with_nothing_to_learn_is_told_from_a_wrong_one(values):
    with pytest.raises(LeftOutError):
        turns_of(values)
