"""A text without blanks is cut between characters: a training window never begins with the answer that it teaches."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from squad_files import question, reading_task

from tutelage.data import reading_rows
from tutelage.data.prompts import shortened
from tutelage.data.windows import window_with

TASK = reading_task()
ANSWER = "\u5df4\u9ece"  # stands nowhere else
LETTERS = {
    "Chinese": "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏",
    "Japanese": "いろはにほへとちりぬるをワカヨタレソツネナラム。、",
    "Thai": "กขคงจฉชซญดตถทธนบปผฝพฟภมยรลวศษสหอฮะาิีุูเแโใไ",
    "code": "abcdefghijklmnop(){}[];=+-*/_.0123456789",
}


@st.composite
def contexts(draw):
    """A long text with the answer somewhere in it, with no blank or only a few in odd places."""
    letters = LETTERS[draw(st.sampled_from(sorted(LETTERS)))]
    size = draw(st.integers(200, 500))
    shift = draw(st.integers(0, len(letters) - 1))
    text = "".join(letters[(shift + 7 * place) % len(letters)] for place in range(size))
    place = draw(st.integers(1, size))
    text = text[:place] + ANSWER + text[place:]
    for blank in draw(st.lists(st.integers(1, size), max_size=3)):
        if not place < blank < place + len(ANSWER):
            text = f"{text[:blank]} {text[blank:]}"
            place += blank <= place
    return text


@settings(max_examples=60, deadline=None, derandomize=True)
@given(context=contexts(), room=st.integers(60, 260))
def test_a_training_window_holds_the_answer_and_never_begins_with_it(tokenizer, context, room):
    asked = question(context, ANSWER)
    window = window_with(tokenizer, TASK.filled(asked), (asked.answer_start, asked.answer_end), room=room, item_key="k")
    assert window is not None
    before, found, _ = window.context.partition(ANSWER)
    assert found
    assert before.strip(), "there is always something to read before the answer"
    assert before in context


@pytest.mark.parametrize("name", sorted(LETTERS))
@pytest.mark.parametrize("blank", ["", " "])
def test_a_long_text_uses_the_room_it_has_whatever_stands_before_the_answer(tokenizer, name, blank):
    context = LETTERS[name] * 20 + blank + ANSWER + LETTERS[name] * 20
    asked = question(context, ANSWER)
    settings_ = {"max_length": 300, "max_answer_length": 10, "end_of_turn_id": tokenizer.eos_token_id}
    (row,) = reading_rows(tokenizer, TASK, [asked], keep_answers=True, **settings_).rows
    read = tokenizer.decode(row.ids[~row.target_mask]).removeprefix("Context: ").partition("\nQuestion:")[0]
    assert len(read.partition(ANSWER)[0].encode()) > 80
    assert len(row.ids) > 250


def test_a_blank_near_the_beginning_does_not_cost_a_text_without_blanks_its_rest(tokenizer):
    prompt = TASK.filled(question("標題 " + LETTERS["Chinese"] * 20, "標題"))
    kept = shortened(tokenizer, prompt, 200, "k").context
    assert len(kept) > 40
