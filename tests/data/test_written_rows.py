"""Rows with a teacher's answers: the gold rows' prompts, the words as written, an end only where there was one."""

import numpy as np
import pytest

from tutelage.data import Example, WrittenAnswer, classification_rows, written_rows
from tutelage.data.prompts import answer_room

LONG = 10_000
END = 2


def items(*texts):
    return [Example(f"item-{index}", f"c{index}", {"text": text}, 1) for index, text in enumerate(texts)]


def ended(*texts):
    return [WrittenAnswer(text, has_ended=True) for text in texts]


def made(tokenizer, task, examples, answers, **changes):
    values = {"lead": " ", "max_length": LONG, "answer_room": answer_room(tokenizer, task), "end_of_turn_id": END}
    return written_rows(
        tokenizer,
        [task.filled(example) for example in examples],
        answers,
        item_keys=[example.item_key for example in examples],
        **(values | changes),
    )


def targets(tokenizer, rows):
    return [tokenizer.decode(row.ids[row.target_mask]) for row in rows.rows]


def test_an_answer_in_the_words_of_a_label_makes_the_gold_row(tokenizer, task):
    examples = items("a film", "very good " * 9)
    gold = classification_rows(tokenizer, task, examples, max_length=32, end_of_turn_id=END)
    rows = made(tokenizer, task, examples, ended("good", "\n good "), max_length=32)
    for row, expected in zip(rows.rows, gold.rows, strict=True):
        assert row.item_key == expected.item_key
        assert np.array_equal(row.ids, expected.ids)
        assert np.array_equal(row.target_mask, expected.target_mask)
        assert row.teacher_key == expected.teacher_key
    assert rows.num_shortened == gold.num_shortened == 1


def test_an_answer_that_was_cut_gets_no_end_to_learn(tokenizer, task):
    answers = [WrittenAnswer("very good", has_ended=True), WrittenAnswer("very good and", has_ended=False)]
    rows = made(tokenizer, task, items("x", "y"), answers)
    assert targets(tokenizer, rows) == [" very good<end>", " very good and"]
    assert END not in rows.rows[1].ids


def test_half_a_character_at_a_cut_is_not_learnt(tokenizer, task):
    cut, whole = WrittenAnswer("caf\ufffd", has_ended=False), WrittenAnswer("caf\ufffd", has_ended=True)
    assert targets(tokenizer, made(tokenizer, task, items("x"), [cut])) == [" caf"]
    assert targets(tokenizer, made(tokenizer, task, items("x"), [whole])) == [" caf\ufffd<end>"]


def test_empty_and_long_answers_are_left_out_and_counted_and_the_order_stays(tokenizer, task):
    answers = ended("good", " \n", "bad bad bad bad", "bad")
    rows = made(tokenizer, task, items("w", "x", "y", "z"), answers, max_answer_length=3)
    assert [row.item_key for row in rows.rows] == ["item-0", "item-3"]
    assert rows.left_out == {"teacher_answer_empty": 1, "teacher_answer_too_long": 1}


@pytest.mark.parametrize("answer", ["good", "very good and very bad"])
def test_a_long_answer_takes_its_room_from_the_text_never_from_the_template(tokenizer, task, answer):
    rows = made(tokenizer, task, items("very bad film " * 9), ended(answer), max_length=50)
    assert rows.num_shortened == 1
    (row,) = rows.rows
    assert len(row.ids) <= 50
    text = tokenizer.decode(row.ids)
    assert text.startswith("Review: very bad")
    assert text.endswith(f"\nSentiment: {answer}<end>")
