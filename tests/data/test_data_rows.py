from typing import Any

import numpy as np
import pytest

from tutelage.data import (
    Example,
    check_verbalisers,
    choice_prompts,
    classification_rows,
    sample_rows_text,
    student_row,
)
from tutelage.data.prompts import opening_ids
from tutelage.data.task import Prompt
from tutelage.errors import DataError
from tutelage.types import row_key

LONG = 10_000


def items(*texts, gold=1):
    return [Example(f"item-{index}", f"c{index}", {"text": text}, gold) for index, text in enumerate(texts)]


def decode(tokenizer, ids):
    return tokenizer.decode(ids)


def test_targets_are_the_answer_and_the_end_of_turn(tokenizer, task):
    end = tokenizer.eos_token_id
    (row,) = classification_rows(tokenizer, task, items("a film"), max_length=LONG, end_of_turn_id=end).rows
    assert decode(tokenizer, row.ids) == "Review: a film\nSentiment: good<end>"
    assert row.ids[row.target_mask].tolist() == [*tokenizer(" good")["input_ids"], end]
    assert not row.target_mask[0]
    assert (row.ids.dtype, row.target_mask.dtype) == (np.int32, np.bool_)
    assert row.teacher_key == row_key(row.ids)


def test_answers_replace_the_gold_ones(tokenizer, task):
    rows = classification_rows(tokenizer, task, items("x", "y"), answers=[0, 1], max_length=LONG, end_of_turn_id=2).rows
    assert [decode(tokenizer, row.ids[row.target_mask]) for row in rows] == [" bad<end>", " good<end>"]


def test_answers_of_another_number_are_refused(tokenizer, task):
    with pytest.raises(ValueError, match="zip"):
        classification_rows(tokenizer, task, items("x", "y"), answers=[0], max_length=LONG, end_of_turn_id=2)


def test_multi_token_answers_are_supervised_whole(tokenizer, make_task):
    task = make_task(verbalisers=(" rather bad", " quite good"))
    (row,) = classification_rows(tokenizer, task, items("x"), max_length=LONG, end_of_turn_id=2).rows
    assert decode(tokenizer, row.ids[row.target_mask]) == " quite good<end>"
    assert row.target_mask.sum() == len(tokenizer(" quite good")["input_ids"]) + 1 > 2


def test_braces_in_a_text_reach_the_tokens(tokenizer, task):
    (row,) = classification_rows(tokenizer, task, items("{text} {0}"), max_length=LONG, end_of_turn_id=2).rows
    assert "Review: {text} {0}\n" in decode(tokenizer, row.ids)


def test_what_a_tokenizer_puts_before_stays_and_what_it_puts_behind_goes(framing_tokenizer, task):
    assert opening_ids(framing_tokenizer).tolist() == [framing_tokenizer.bos_token_id]
    (row,) = classification_rows(framing_tokenizer, task, items("x"), max_length=LONG, end_of_turn_id=2).rows
    assert decode(framing_tokenizer, row.ids) == "<s>Review: x\nSentiment: good<end>"
    (prompt,) = choice_prompts(framing_tokenizer, task, items("x"), max_length=LONG, end_of_turn_id=2)
    assert decode(framing_tokenizer, prompt.prompt_ids) == "<s>Review: x\nSentiment:"


@pytest.mark.parametrize("max_length", [28, 35, 50, 64])
def test_shortening_keeps_the_template_and_fits(tokenizer, task, max_length):
    text = "a very good film " * 20
    rows = classification_rows(tokenizer, task, items(text, "x"), max_length=max_length, end_of_turn_id=2)
    assert rows.num_shortened == 1
    long, short = (decode(tokenizer, row.ids) for row in rows.rows)
    assert long.startswith("Review: a")
    assert long.endswith("\nSentiment: good<end>")
    assert short == "Review: x\nSentiment: good<end>"
    kept = long.removeprefix("Review: ").removesuffix("\nSentiment: good<end>")
    assert text.startswith(kept)
    assert text[len(kept)] == " "  # cut between words
    assert max_length - 8 <= len(rows.rows[0].ids) <= max_length


def test_a_text_without_blanks_is_cut_within_the_word(tokenizer, task):
    (row,) = classification_rows(tokenizer, task, items("w" * 500), max_length=40, end_of_turn_id=2).rows
    assert len(row.ids) == 40
    assert decode(tokenizer, row.ids).endswith("w\nSentiment: good<end>")


def test_a_row_that_just_fits_is_not_shortened(tokenizer, task):
    (whole,) = classification_rows(tokenizer, task, items("a film"), max_length=LONG, end_of_turn_id=2).rows
    same = classification_rows(tokenizer, task, items("a film"), max_length=len(whole.ids), end_of_turn_id=2)
    assert same.num_shortened == 0
    assert same.rows[0].ids.tolist() == whole.ids.tolist()
    less = classification_rows(tokenizer, task, items("a film"), max_length=len(whole.ids) - 1, end_of_turn_id=2)
    assert less.num_shortened == 1


def test_the_gold_answer_never_decides_what_is_read(tokenizer, make_task):
    task = make_task(verbalisers=(" bad", " a really very long way to say good"))
    text = "a very good film " * 20
    arguments: dict[str, Any] = {"max_length": 90, "end_of_turn_id": 2}
    prompts = [choice_prompts(tokenizer, task, items(text, gold=gold), **arguments)[0] for gold in (0, 1)]
    assert prompts[0].prompt_ids.tolist() == prompts[1].prompt_ids.tolist()
    for gold in (0, 1):
        (row,) = classification_rows(tokenizer, task, items(text, gold=gold), **arguments).rows
        assert row.ids[~row.target_mask].tolist() == prompts[0].prompt_ids.tolist()
        assert len(row.ids) <= 90


def test_a_template_that_leaves_no_room_is_refused_by_name(tokenizer, task):
    with pytest.raises(DataError, match=r"item-0.*max_length"):
        classification_rows(tokenizer, task, items("a film"), max_length=21, end_of_turn_id=2)


def test_an_answer_without_tokens_is_refused_by_name(tokenizer):
    with pytest.raises(DataError, match=r"row-7 has no supervised target"):
        student_row(tokenizer, "x", "", item_key="row-7", max_length=LONG, end_of_turn_id=2)


def test_an_empty_prompt_is_refused_by_name(tokenizer):
    with pytest.raises(DataError, match=r"row-7 has an empty prompt"):
        student_row(tokenizer, "", " good", item_key="row-7", max_length=LONG, end_of_turn_id=2)


def test_a_plain_prompt_is_never_shortened(tokenizer):
    arguments: dict[str, Any] = {"item_key": "row-7", "end_of_turn_id": 2}
    row, shortened = student_row(tokenizer, "x" * 10, " good", max_length=12, **arguments)
    assert (len(row.ids), shortened) == (12, False)
    with pytest.raises(DataError, match="row-7"):
        student_row(tokenizer, "x" * 10, " good", max_length=11, **arguments)


def test_a_prompt_with_context_is_shortened_in_its_context(tokenizer):
    prompt = Prompt("Q ", "one two three", " A:")
    row, shortened = student_row(tokenizer, prompt, " good", item_key="r", max_length=15, end_of_turn_id=2)
    assert shortened
    assert decode(tokenizer, row.ids) == "Q one two A: good<end>"


def test_choices_carry_the_ids_of_every_label_in_order(tokenizer, make_task):
    task = make_task(verbalisers=(" bad", " not bad"))
    (prompt,) = choice_prompts(tokenizer, task, items("x", gold=0), max_length=LONG, end_of_turn_id=2)
    assert [decode(tokenizer, ids) for ids in prompt.choice_ids] == [" bad", " not bad"]
    assert [ids.dtype for ids in prompt.choice_ids] == [np.int32, np.int32]
    assert (prompt.item_key, prompt.cluster_key, prompt.gold) == ("item-0", "c0", 0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((" good", " goodness"), "begin those of positive"),
        ((" good film", " good"), "begin those of negative"),
        (("", " good"), "negative '' has no tokens"),
    ],
)
def test_verbalisers_that_cannot_be_told_apart_are_refused(tokenizer, make_task, words, message):
    with pytest.raises(DataError, match=message):
        check_verbalisers(tokenizer, make_task(verbalisers=words))


def test_verbalisers_with_equal_ids_are_refused(make_task):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"<unk>": 0, "good": 1, "bad": 2}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    check_verbalisers(words, make_task())
    with pytest.raises(DataError, match="same token ids"):
        check_verbalisers(words, make_task(verbalisers=(" good", "good")))
    with pytest.raises(DataError, match="unknown to this tokenizer"):
        check_verbalisers(words, make_task(verbalisers=(" good", " terrible")))


def test_an_end_of_turn_inside_a_verbaliser_is_refused(tokenizer, make_task):
    task = make_task(verbalisers=(" bad", " good<end>"))
    with pytest.raises(DataError, match=r"positive holds the end-of-turn"):
        choice_prompts(tokenizer, task, items("x"), max_length=LONG, end_of_turn_id=tokenizer.eos_token_id)


def test_the_preview_marks_what_is_supervised(tokenizer, task):
    rows = classification_rows(
        tokenizer, task, items("one", "two", "three", "four"), max_length=LONG, end_of_turn_id=tokenizer.eos_token_id
    ).rows
    texts = sample_rows_text(rows, tokenizer, n=3, seed=1)
    assert len(texts) == len(set(texts)) == 3
    assert all(text.startswith("Review: ") and text.endswith("\nSentiment:⟦ good<end>⟧") for text in texts)
    assert texts == sample_rows_text(rows, tokenizer, n=3, seed=1)
    assert len(sample_rows_text(rows, tokenizer, n=9)) == 4
