"""What the assistant says is found by the template's own marks or by proof, and otherwise not at all."""

import pytest
from tiny_families import tiny_tokenizer

from tutelage.errors import AlignmentError, DataError, ModelError
from tutelage.models.supervised_turns import marks_turns, supervised_turns

CHATML = (
    "{% for message in messages %}<turn>{{ message['role'] }} {{ message['content'] }} <eos>{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant {% endif %}"
)
MARKED = (
    "{% for message in messages %}<turn>{{ message['role'] }} {% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] }} <eos>{% endgeneration %}{% else %}{{ message['content'] }} <eos>"
    "{% endif %}{{ '\\n' }}{% endfor %}"
)
WORDS = MARKED.replace(" <eos>{% endgeneration %}", "{% endgeneration %} <eos>")  # the end is outside of the marks
UNMARKED_END = CHATML.replace(" <eos>", "")  # turns end where the next begins
# A history without the words of earlier answers, as templates that drop earlier reasoning have it.
FORGETS = (
    "{% for message in messages %}<turn>{{ message['role'] }} {% if message['role'] == 'user' or loop.last %}"
    "{{ message['content'] }} {% endif %}<eos> {% endfor %}{% if add_generation_prompt %}<turn>assistant {% endif %}"
)
NO_HEADER = CHATML.replace("<turn>assistant {% endif %}", "<turn>w9 {% endif %}")
EOS = 90


def turns(*pairs):
    return [{"role": role, "content": content} for role, content in pairs]


TALK = turns(("user", "w1 w2"), ("assistant", "w3 w4"), ("user", "w5"), ("assistant", "w6"))
ANSWERS = [[3, 4, EOS], [6, EOS]]


def spans_of(template, messages=TALK):
    ids, spans = supervised_turns(tiny_tokenizer(template=template), messages, end_of_turn_id=EOS)
    return [ids[start:end] for start, end in spans]


@pytest.mark.parametrize("template", [CHATML, MARKED, WORDS])
def test_every_answer_is_found_with_its_end_of_turn(template):
    assert spans_of(template) == ANSWERS


def test_marks_and_proof_agree_on_ids_and_places():
    derived = supervised_turns(tiny_tokenizer(template=CHATML), TALK, end_of_turn_id=EOS)
    assert derived == supervised_turns(tiny_tokenizer(template=MARKED), TALK, end_of_turn_id=EOS)
    assert not marks_turns(tiny_tokenizer(template=CHATML))
    assert marks_turns(tiny_tokenizer(template=MARKED))


def test_users_and_system_are_never_targets_and_questions_at_the_end_do_no_harm():
    messages = turns(("system", "w7"), ("user", "w1"), ("assistant", "w2"), ("user", "w3"))
    assert spans_of(CHATML, messages) == [[2, EOS]]


def test_an_answer_without_words_is_no_target():
    messages = turns(("user", "w1"), ("assistant", " "), ("user", "w2"), ("assistant", "w3"))
    assert spans_of(CHATML, messages) == [[3, EOS]]


def test_a_template_without_an_end_token_gets_one_behind_the_last_answer():
    ids, spans = supervised_turns(tiny_tokenizer(template=UNMARKED_END), TALK, end_of_turn_id=EOS)
    assert [ids[start:end] for start, end in spans] == [[3, 4], [6, EOS]]
    assert ids.count(EOS) == 1


@pytest.mark.parametrize("template", [FORGETS, NO_HEADER])
def test_a_beginning_that_is_written_otherwise_than_the_whole_is_an_error(template):
    with pytest.raises(AlignmentError, match=r"rendered up to turn \d, token \d+ is .* Give the template"):
        spans_of(template)


def test_a_template_that_forgets_earlier_answers_serves_conversations_of_one_answer():
    assert spans_of(FORGETS, TALK[:2]) == [[3, 4, EOS]]


def test_marks_that_cover_nothing_are_an_error():
    empty = CHATML.replace("{{ '\\n' }}", "{% if false %}{% generation %}w9{% endgeneration %}{% endif %}")
    with pytest.raises(ModelError, match="marks cover none"):
        spans_of(empty)


@pytest.mark.parametrize("words", ["w3 w4 ", "w3 w4 \n"])
def test_marks_that_end_in_white_space_end_with_the_turn(words):
    template = WORDS.replace(" <eos>{{ '\\n' }}", "<eos>")
    messages = turns(("user", "w1"), ("assistant", words), ("user", "w5"))
    assert spans_of(template, messages) == [[3, 4, EOS]]
    assert spans_of(template, [*messages, *turns(("assistant", "w6"))]) == [[3, 4, EOS], [6, EOS]]


def test_marks_around_some_answers_only_are_refused():
    once = MARKED.replace("message['role'] == 'assistant'", "message['role'] == 'assistant' and loop.last")
    with pytest.raises(AlignmentError, match="2 answers, but 1 marked"):
        spans_of(once)


def test_a_tokenizer_without_a_template_and_turns_that_it_refuses_are_errors():
    with pytest.raises(ModelError, match="`template: plain`"):
        spans_of(None)
    with pytest.raises(DataError, match=r"refuses turns of the roles \['user', 'assistant'\]: .*no"):
        spans_of("{{ raise_exception('no') }}", TALK[:2])
    with pytest.raises(DataError, match="speaks first"):
        spans_of(CHATML, TALK[1:])
