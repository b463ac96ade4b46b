"""The answer and its end are the targets; a context that is too long loses words, nothing else does."""

import itertools

import numpy as np
import pytest
from squad_files import question, reading_task

from tutelage.data import reading_prompts, reading_rows
from tutelage.data import windows as windows_module
from tutelage.data.answers import exact_match, f1
from tutelage.data.prompts import plain_ids
from tutelage.data.windows import sliding_windows, window_with
from tutelage.errors import DataError
from tutelage.evaluate.answering import LINE_END

LONG = 10_000
TASK = reading_task()
WORDS = [f"word{number}" for number in range(200)]
TEXT = " ".join(WORDS)


def rows_of(tokenizer, questions, **settings):
    values = {"max_length": LONG, "end_of_turn_id": tokenizer.eos_token_id} | settings
    return reading_rows(tokenizer, TASK, questions, **values)


def targets(tokenizer, row):
    return tokenizer.decode(row.ids[row.target_mask])


def prompt_text(tokenizer, row):
    return tokenizer.decode(row.ids[~row.target_mask])


@pytest.mark.parametrize(
    "context",
    ["Ann rules.", "A: no. Answer: no. Ann rules. A:", "Question: x\nAnswer: Bee\nAnn rules.\nAnswer: Cy<end>"],
)
def test_the_targets_are_a_blank_the_answer_and_the_end_of_turn_whatever_the_context_holds(tokenizer, context):
    (row,) = rows_of(tokenizer, [question(context, "Ann")]).rows
    assert targets(tokenizer, row) == " Ann<end>"
    assert prompt_text(tokenizer, row) == f"Context: {context}\nQuestion: Who?\nAnswer:"
    assert row.target_mask.tolist() == sorted(row.target_mask.tolist())  # one run, at the end


def test_answer_is_not_doubled(tokenizer):
    (row,) = rows_of(tokenizer, [question("Ann rules.", "Ann")]).rows
    assert tokenizer.decode(row.ids).count("Answer:") == 1


def test_an_answer_of_several_lines_is_learnt_as_generation_can_write_it(tokenizer):
    asked = question("It is\nThe Hague,\r\n  in Holland.", "The Hague,\r\n  in Holland")
    (row,) = rows_of(tokenizer, [asked]).rows
    assert targets(tokenizer, row) == " The Hague, in Holland<end>"
    assert LINE_END not in targets(tokenizer, row)
    assert exact_match("The Hague, in Holland", asked.golds) == f1("The Hague, in Holland", asked.golds) == 1
    (kept,) = rows_of(tokenizer, [question("a  b\tc", "a  b\tc")]).rows
    assert targets(tokenizer, kept) == " a  b\tc<end>", "blanks on one line stay as they are"


def test_an_answer_longer_than_allowed_is_left_out_and_never_cut(tokenizer):
    asked = [question("abcde fghi", "abcd"), question("abcde fghi", "abcde")]
    made = rows_of(tokenizer, asked, max_answer_length=5)  # a byte is a token; the blank is one
    assert [targets(tokenizer, row) for row in made.rows] == [" abcd<end>"]
    assert made.left_out == {"answer_too_long": 1}


def test_a_long_context_loses_its_end_and_the_template_stays(tokenizer):
    made = rows_of(tokenizer, [question(TEXT, "word0")], max_length=120, max_answer_length=10)
    (row,) = made.rows
    assert made.num_shortened == 1
    assert len(row.ids) <= 120
    text = prompt_text(tokenizer, row)
    assert text.endswith("\nQuestion: Who?\nAnswer:")
    kept = text.removeprefix("Context: ").removesuffix("\nQuestion: Who?\nAnswer:").split(" ")
    assert kept == WORDS[: len(kept)]
    assert len(kept) > 5


def test_the_prompt_to_answer_is_the_prompt_that_was_learnt(tokenizer, framing_tokenizer):
    for each in (tokenizer, framing_tokenizer):
        asked = [question(TEXT, "word1"), question("Ann rules.", "Ann")]
        rows = rows_of(each, asked, max_length=120).rows
        prompts = reading_prompts(each, TASK, asked, max_length=120)
        assert [prompt.is_shortened for prompt in prompts] == [True, False]
        for row, prompt in zip(rows, prompts, strict=True):
            (window,) = prompt.windows
            np.testing.assert_array_equal(window, row.ids[~row.target_mask])


def test_at_evaluation_the_answer_is_not_looked_at(tokenizer):
    settings = {"max_length": 120, "max_answer_length": 10}
    asked = [question(TEXT, "word0"), question(TEXT, "word150"), question(TEXT, "word150", start=0)]
    for stride in (None, 20):
        prompts = reading_prompts(tokenizer, TASK, asked, doc_stride=stride, **settings)
        texts = [[window.tolist() for window in prompt.windows] for prompt in prompts]
        assert texts[0] == texts[1] == texts[2]
    rows = rows_of(tokenizer, asked, **settings).rows
    assert prompt_text(tokenizer, rows[0]) == prompt_text(tokenizer, rows[1])


@pytest.mark.parametrize("number", [0, 1, 9, 20, 57, 100, 150, 195, 199])
def test_for_training_the_part_with_the_answer_may_be_kept(tokenizer, number):
    asked = question(TEXT, f"word{number}", start=TEXT.index(WORDS[number] + " ") if number < 199 else TEXT.rindex("w"))
    made = rows_of(tokenizer, [asked], max_length=160, max_answer_length=10, keep_answers=True)
    (row,) = made.rows
    kept = prompt_text(tokenizer, row).removeprefix("Context: ").removesuffix("\nQuestion: Who?\nAnswer:").split()
    first = WORDS.index(kept[0])
    assert WORDS[number] in kept
    assert kept == WORDS[first : first + len(kept)]
    assert len(row.ids) <= 160
    assert len(kept) >= 10, "the room is used, whatever stands behind the answer"
    assert (first == 0) == (number <= 9)


def test_without_that_the_answer_is_lost_from_the_context(tokenizer):
    (row,) = rows_of(tokenizer, [question(TEXT, "word150")], max_length=160).rows
    assert "word150" not in prompt_text(tokenizer, row)


def test_an_answer_that_no_window_holds_is_left_out_with_its_reason(tokenizer):
    asked = question("x" * 40 + " " + "y" * 60, "x" * 20 + "x" * 20 + " " + "y" * 9)
    made = rows_of(tokenizer, [asked], max_length=100, max_answer_length=60, keep_answers=True)
    assert made.rows == []
    assert made.left_out == {"answer_outside_window": 1}


def test_template_and_question_that_leave_no_room_are_an_error(tokenizer):
    asked = question(TEXT, "word0", ask="Why " * 60)
    for call in (
        lambda: rows_of(tokenizer, [asked], max_length=200),
        lambda: reading_prompts(tokenizer, TASK, [asked], max_length=200),
        lambda: reading_prompts(tokenizer, TASK, [asked], max_length=200, doc_stride=8),
    ):
        with pytest.raises(DataError, match="leaves no room for the text"):
            call()


@pytest.mark.parametrize("stride", [9, 30, 50, 10_000])
def test_windows_hold_the_whole_context_in_whole_words(tokenizer, stride):
    (prompt,) = reading_prompts(tokenizer, TASK, [question(TEXT, "word0")], max_length=150, doc_stride=stride)
    texts = [tokenizer.decode(window) for window in prompt.windows]
    parts = [t.removeprefix("Context: ").removesuffix("\nQuestion: Who?\nAnswer:").split() for t in texts]
    assert not prompt.is_shortened
    assert all(len(window) <= 150 - 30 - 1 for window in prompt.windows)
    starts = [WORDS.index(part[0]) for part in parts]
    for start, part, following in zip(starts, parts, [*starts[1:], len(WORDS)], strict=True):
        assert part == WORDS[start : start + len(part)]
        assert start < following <= start + len(part), "no word lies between two windows"
    assert parts[-1][-1] == WORDS[-1]
    if stride == 30:
        assert all(b - a in (3, 4) for a, b in itertools.pairwise(starts))  # 30 bytes are 3 to 4 words


def test_a_text_without_blanks_is_read_in_windows_too(tokenizer):
    prompt = TASK.filled(question("x" * 300, "x"))
    parts = sliding_windows(tokenizer, prompt, room=100, stride=20, item_key="k")
    assert len(parts) > 3
    assert parts[-1].context == "x" * len(parts[-1].context)


def test_windows_that_forget_words_between_them_are_found(tokenizer, monkeypatch):
    real = windows_module._chars_in
    monkeypatch.setattr(windows_module, "_chars_in", lambda *arguments: real(*arguments) + 60)
    with pytest.raises((AssertionError, ValueError)):
        test_windows_hold_the_whole_context_in_whole_words(tokenizer, 50)


def test_a_window_fits_exactly_when_the_whole_prompt_does(tokenizer):
    asked = question("Ann rules all of it.", "Ann")
    prompt = TASK.filled(asked)
    exact = len(plain_ids(tokenizer, str(prompt)))
    assert window_with(tokenizer, prompt, (0, 3), room=exact, item_key="k") == prompt
    shorter = window_with(tokenizer, prompt, (0, 3), room=exact - 1, item_key="k")
    assert shorter is not None
    assert shorter.context == "Ann rules all of"
