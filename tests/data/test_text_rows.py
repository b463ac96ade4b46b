"""Every token of a document is learnt once; of a conversation only what the assistant says, whole turns at a time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from text_files import chat_item, text_item

from tutelage.data import TurnTokens, conversation_rows, document_rows, plain_turns, sample_rows_text
from tutelage.data.text_rows import item_key_of

END = 2
BOTH = pytest.mark.parametrize("name", ["tokenizer", "framing_tokenizer"])


def tokens_of(ids, *spans):
    return TurnTokens(np.arange(ids, dtype=np.int32), spans)


def learnt(rows):
    return [row.ids[row.target_mask].tolist() for row in rows]


@BOTH
def test_every_token_of_a_document_but_the_first_is_a_target_and_so_is_its_end(name, request):
    tokenizer = request.getfixturevalue(name)
    made = document_rows(tokenizer, [text_item("a film")], max_length=50, end_of_text_id=END)
    (row,) = made.rows
    opening = [tokenizer.bos_token_id] if name == "framing_tokenizer" else []
    whole = [*opening, *tokenizer("a film", add_special_tokens=False)["input_ids"]]
    assert row.ids.tolist() == [*whole, END]
    assert learnt(made.rows) == [[*whole[1:], END]]


@settings(max_examples=60, deadline=None)
@given(length=st.integers(1, 60), max_length=st.integers(2, 20))
def test_windows_of_a_long_text_learn_every_token_exactly_once(tokenizer, length, max_length):
    text = "".join(chr(ord("a") + number % 26) for number in range(length))
    made = document_rows(tokenizer, [text_item(text)], max_length=max_length, end_of_text_id=END)
    whole = [*tokenizer(text, add_special_tokens=False)["input_ids"], END]
    assert [token for targets in learnt(made.rows) for token in targets] == whole[1:]
    assert all(2 <= len(row.ids) <= max_length for row in made.rows)
    assert (made.num_split, made.num_shortened) == (int(len(whole) > max_length), 0)
    assert {item_key_of(row.item_key) for row in made.rows} == {"k"}
    assert len({row.item_key for row in made.rows}) == len(made.rows)


def test_a_document_without_tokens_is_left_out_and_counted(tokenizer):
    made = document_rows(tokenizer, [text_item(""), text_item("ab")], max_length=9, end_of_text_id=END)
    assert (len(made.rows), made.left_out) == (1, {"no_target": 1})


def test_only_the_assistants_spans_are_targets_and_nothing_follows_the_last():
    made = conversation_rows([chat_item("a", "b")], [tokens_of(20, (3, 6), (9, 12))], max_length=20)
    assert made.rows[0].ids.tolist() == list(range(12))
    assert learnt(made.rows) == [[3, 4, 5, 9, 10, 11]]
    assert (made.num_shortened, made.left_out) == (0, {})


def test_a_long_conversation_keeps_whole_turns_from_its_start_and_is_counted():
    made = conversation_rows([chat_item("a", "b")], [tokens_of(20, (3, 6), (9, 12))], max_length=11)
    assert learnt(made.rows) == [[3, 4, 5]]
    assert made.num_shortened == 1


def test_a_conversation_whose_first_answer_does_not_fit_or_is_absent_is_left_out_and_counted():
    items = [chat_item("a", "b", key=key) for key in "xyz"]
    found = [tokens_of(20, (3, 12)), tokens_of(5), tokens_of(4, (2, 4))]
    made = conversation_rows(items, found, max_length=8)
    assert [row.item_key for row in made.rows] == ["z"]
    assert made.left_out == {"turn_too_long": 1, "no_target": 1}


def test_the_first_token_of_a_row_is_never_a_target():
    assert learnt(conversation_rows([chat_item("a")], [tokens_of(4, (0, 4))], max_length=9).rows) == [[1, 2, 3]]


@BOTH
def test_without_a_chat_template_speakers_are_named_and_answers_end(name, request):
    tokenizer = request.getfixturevalue(name)
    item = chat_item("system: Be kind", "Hi", "good film", "And?", "bad")
    found = plain_turns(tokenizer, item.turns, end_of_turn_id=END)
    text = "Be kind\n\nUser: Hi\nAssistant: good film<end>\nUser: And?\nAssistant: bad<end>"
    assert tokenizer.decode(found.ids) == ("<s>" if name == "framing_tokenizer" else "") + text
    assert [tokenizer.decode(found.ids[start:end]) for start, end in found.spans] == [" good film<end>", " bad<end>"]


def test_a_preview_marks_every_place_with_targets(tokenizer):
    item = chat_item("Hi", "good", "And?", "bad")
    rows = conversation_rows([item], [plain_turns(tokenizer, item.turns, end_of_turn_id=END)], max_length=99).rows
    (shown,) = sample_rows_text(rows, tokenizer)
    assert shown == "User: Hi\nAssistant:⟦ good<end>⟧\nUser: And?\nAssistant:⟦ bad<end>⟧"
