"""Parts of a conversation beside its words are honoured, refused or listed; none is dropped without a word."""

import json

import pytest
from text_files import write_rows

from tutelage.data import Turn, plain_turns
from tutelage.data.counts import left_out_problems
from tutelage.data.records import Record
from tutelage.data.text_formats import LeftOutError, find_format
from tutelage.data.text_pools import TextCuts, TextPart
from tutelage.data.text_prepare import prepare_texts
from tutelage.data.text_reading import read_texts
from tutelage.data.texts import TextTask
from tutelage.errors import DataError

TALK = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
ASKED = (Turn("user", "q"), Turn("assistant", "a"))
TOOL = {"type": "function", "function": {"name": "f"}}


def turns_of(values):
    return find_format(values, where="f:1").read(values)


def read(*rows):
    return read_texts((Record(row, f"f:{at}") for at, row in enumerate(rows)), wanted=None, seen=set())


def said(**more):
    return {"messages": [TALK[0], {**TALK[1], **more}, TALK[0] | {"content": "again"}, TALK[1] | {"content": "b"}]}


@pytest.mark.parametrize(
    "flag", [{"weight": 0}, {"weight": 0.0}, {"train": False}, {"training": False}, {"loss": 0}, {"trainable": False}]
)
def test_an_answer_with_weight_zero_is_read_and_never_learnt(tokenizer, flag):
    turns = turns_of(said(**flag))
    assert [turn.is_learnt for turn in turns] == [True, False, True, True]
    made = plain_turns(tokenizer, turns, end_of_turn_id=2)
    assert [tokenizer.decode(made.ids[slice(*span)]) for span in made.spans] == [" b<end>"]
    assert "Assistant: a<end>" in tokenizer.decode(made.ids)


@pytest.mark.parametrize("flag", [{"weight": 1}, {"train": True}, {"weight": None}, {"weight": 1, "train": True}])
def test_an_answer_with_weight_one_is_learnt(flag):
    assert all(turn.is_learnt for turn in turns_of(said(**flag)))


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ({"weight": 0.5}, r"messages\[1\] has weight 0.5; expected 1 .* or 0"),
        ({"train": "no"}, "has train 'no'"),
        ({"weight": 1, "train": False}, "contradict each other"),
        ({"masked": True}, "'masked', which may mean"),
    ],
)
def test_another_weight_is_an_error_that_names_the_message(flag, message):
    with pytest.raises(ValueError, match=message) as caught:
        turns_of(said(**flag))
    assert not isinstance(caught.value, LeftOutError)


def test_conversations_and_answers_that_are_not_to_be_learnt_are_left_out_and_counted():
    silent = {"messages": [TALK[0], TALK[1] | {"weight": 0}]}
    found = read({"messages": TALK}, silent)
    assert (len(found.items), found.left_out) == (1, {"marked_not_to_learn": 1})
    for bad in (False, "False", "false"):
        judged = read({"prompt": "q", "completion": "BAD", "label": bad}, {"prompt": "q", "completion": "a"})
        assert [item.turns for item in judged.items] == [ASKED]
        assert judged.left_out == {"marked_not_to_learn": 1}
    assert turns_of({"prompt": "q", "completion": "a", "label": True}) == ASKED
    with pytest.raises(DataError, match="'label' is 0: write true or false"):
        read({"prompt": "q", "completion": "a", "label": 0})
    assert not list(left_out_problems({"marked_not_to_learn": 50}, 100, allowed=0.05)), "the data ask for it"


@pytest.mark.parametrize("column", ["system", "system_prompt"])
def test_a_system_column_opens_the_conversation_once(column):
    system = (Turn("system", "Be kind"), *ASKED)
    shared = {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}
    for row in ({"messages": TALK}, shared, {"prompt": "q", "response": "a"}, {"instruction": "q", "output": "a"}):
        assert turns_of({**row, column: "Be kind"}) == system
        assert turns_of({**row, column: ""}) == ASKED
    inside = [{"role": "system", "content": "Be kind"}, *TALK]
    assert turns_of({"messages": inside, column: "Be kind "}) == system
    with pytest.raises(ValueError, match="two different words for the system"):
        turns_of({"messages": inside, column: "Be rude"})


def test_tools_and_reasoning_are_kept_and_make_another_item():
    thought = {"messages": [TALK[0], TALK[1] | {"reasoning_content": "hm"}]}
    found = read({"messages": TALK}, thought, {"messages": TALK, "tools": [TOOL]}, {"messages": TALK, "tools": "[]"})
    assert [item.turns[1].reasoning for item in found.items] == [None, "hm", None]
    assert [item.tools for item in found.items] == [None, None, json.dumps([TOOL])]
    assert found.left_out == {"duplicate": 1}
    assert read({"messages": TALK, "tools": json.dumps([TOOL])}).items[0].tools == json.dumps([TOOL])
    for bad in ("{", {"a": 1}, ["f"]):
        with pytest.raises(DataError, match="column 'tools'"):
            read({"messages": TALK, "tools": bad})


def test_history_comes_before_the_question():
    row = {"instruction": "q", "input": "", "output": "a", "history": [["old q", "old a"]]}
    assert turns_of(row) == (Turn("user", "old q"), Turn("assistant", "old a"), *ASKED)
    assert turns_of({**row, "history": None}) == turns_of({**row, "history": []}) == ASKED
    with pytest.raises(ValueError, match=r"history\[0\] is \['a'\], expected \[question, answer\]"):
        turns_of({**row, "history": [["a"]]})


def test_an_alpaca_row_with_words_in_its_input_alone_is_asked_so():
    assert turns_of({"instruction": "", "input": "q", "output": "a"}) == ASKED
    with pytest.raises(LeftOutError):
        turns_of({"instruction": " ", "input": None, "output": "a"})


def test_prompt_and_completion_may_be_lists_of_messages_and_only_the_completion_is_learnt():
    earlier = [*TALK, {"role": "user", "content": "more"}]
    row = {"prompt": earlier, "completion": [{"role": "assistant", "content": "b"}]}
    asked = [Turn("user", "q"), Turn("assistant", "a", is_learnt=False), Turn("user", "more")]
    assert turns_of(row) == (*asked, Turn("assistant", "b"))
    assert turns_of({"prompt": "q", "completion": TALK[1:]}) == turns_of({"prompt": TALK[:1], "completion": "a"})
    with pytest.raises(LeftOutError):
        turns_of({"prompt": TALK, "completion": []})


def test_columns_and_keys_that_are_not_read_are_listed(tmp_path):
    rows = [
        {"messages": [TALK[0] | {"name": "Al"}, TALK[1] | {"content": f"a{at}", "weight": 1}], "lang": "en", "x": None}
        for at in range(20)
    ]
    path = write_rows(tmp_path / "chats.jsonl", rows)
    made = prepare_texts(TextTask("t"), [TextPart(str(path))], TextCuts(validation_rows=2, test_rows=2))
    assert made.info["columns_not_read"] == ["lang", "messages[].name"]


def test_what_is_beside_the_words_does_not_change_the_key_of_an_ordinary_conversation():
    (plain,) = read({"messages": TALK}).items
    (weighted,) = read({"messages": [TALK[0], TALK[1] | {"weight": 1}], "system": "", "tools": None}).items
    assert plain.item_key == weighted.item_key
