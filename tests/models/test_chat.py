"""What a chat template writes is found by rendering it, never by knowing its name."""

import pytest
from tiny_families import tiny_model, tiny_tokenizer
from transformers import GenerationConfig

from tutelage.errors import DataError, ModelError
from tutelage.models.chat import ChatTurns, Stops, chat_ids, find_stops, template_digest, turn_markers, turn_texts

CHATML = (
    "{% for message in messages %}<turn>{{ message['role'] }} {{ message['content'] }} <eos>{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant {% endif %}"
)
PLAIN = (
    "{% for message in messages %}{{ 'Human: ' if message['role'] == 'user' else '\\n\\nAssistant: ' }}"
    "{{ message['content'] }}{{ '\\n\\n' if message['role'] == 'assistant' }}{% endfor %}"
    "{{ '\\n\\nAssistant:' if add_generation_prompt }}"
)
ALTERNATING = (
    "{% if messages|length > 1 %}{{ raise_exception('one turn only') }}{% endif %}{{ messages[0]['content'] }}"
)


def model_with(*, generation_eos=None, config_eos=None):
    model = tiny_model(eos_token_id=config_eos)
    model.generation_config = GenerationConfig(eos_token_id=generation_eos)
    return model


def test_words_become_one_user_turn_and_the_assistant_begins():
    tokenizer = tiny_tokenizer(template=CHATML)
    expected = tokenizer("<turn>user w1 w2 <eos>\n<turn>assistant ", add_special_tokens=False)["input_ids"]
    assert chat_ids(tokenizer, "w1 w2").tolist() == expected
    assert chat_ids(tokenizer, [{"role": "user", "content": "w1 w2"}]).tolist() == expected


def test_messages_keep_their_roles_and_order():
    tokenizer = tiny_tokenizer(template=CHATML)
    turns = [("user", "w1"), ("assistant", "w2"), ("user", "w3")]
    found = chat_ids(tokenizer, [{"role": role, "content": words} for role, words in turns])
    text = "".join(f"<turn>{role} {words} <eos>\n" for role, words in turns) + "<turn>assistant "
    assert found.tolist() == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_what_a_template_refuses_and_a_missing_template_are_errors():
    with pytest.raises(ModelError, match="no chat template"):
        chat_ids(tiny_tokenizer(), "w1")
    two = [{"role": "user", "content": "w1"}, {"role": "user", "content": "w2"}]
    with pytest.raises(DataError, match=r"refuses turns of the roles \['user', 'user'\]: .*one turn only"):
        chat_ids(tiny_tokenizer(template=ALTERNATING), two)
    with pytest.raises(DataError, match="empty prompt"):
        chat_ids(tiny_tokenizer(template=ALTERNATING), "")


def test_a_stand_in_tokenizer_shortens_text_inside_of_its_turn():
    from tutelage.data.prompts import fit_prompts
    from tutelage.data.task import Prompt

    tokenizer = tiny_tokenizer(template=CHATML)
    words = " ".join(f"w{number}" for number in range(30))
    prompts = [Prompt("w70 ", words, " w71"), Prompt("w70 ", "w1", " w71")]
    fitted = fit_prompts(ChatTurns(tokenizer), prompts, room=20, item_keys=["a", "b"])
    assert fitted.num_shortened == 1
    short = fitted.ids[0].tolist()
    whole = chat_ids(tokenizer, f"w70 {words} w71").tolist()
    behind = whole[whole.index(71) :]
    assert len(short) <= 20
    assert short[-len(behind) :] == behind
    assert fitted.ids[1].tolist() == chat_ids(tokenizer, "w70 w1 w71").tolist()


def test_end_tokens_come_from_generation_config_config_tokenizer_and_template():
    tokenizer = tiny_tokenizer(eos="<unk>", template=CHATML)  # its end token is 91, the template writes 90
    model = model_with(generation_eos=[7, 8], config_eos=9)
    assert find_stops(tokenizer, model, chat=True) == Stops((7, 8, 9, 90, 91))
    assert find_stops(tokenizer, model, chat=False) == Stops((7, 8, 9, 91))


def test_a_template_that_ends_turns_with_words_gives_a_stop_string():
    tokenizer = tiny_tokenizer(template=PLAIN)
    stops = find_stops(tokenizer, model_with(), chat=True)
    assert stops == Stops((90,), ("\n\nHuman:",))


def test_a_model_without_any_end_is_refused():
    with pytest.raises(ModelError, match="Nothing ends an answer"):
        find_stops(tiny_tokenizer(eos=None), model_with(), chat=False)


def test_turn_markers_are_what_opens_a_turn():
    assert turn_markers(tiny_tokenizer(template=CHATML)) == ("<turn>assistant", "<turn>user")
    assert turn_markers(tiny_tokenizer(template=PLAIN)) == ("Assistant:", "Human:")
    assert turn_markers(tiny_tokenizer()) == ()


@pytest.mark.parametrize("template", [ALTERNATING, "no words at all", "{{ messages[1]['content'] }}"])
def test_a_template_that_cannot_be_read_has_no_markers_and_leaves_the_end_token(template):
    tokenizer = tiny_tokenizer(template=template)
    assert turn_texts(tokenizer) == (None, None)
    assert turn_markers(tokenizer) == ()
    assert find_stops(tokenizer, model_with(), chat=True) == Stops((90,))


def test_a_turn_opener_that_is_itself_a_special_token_is_kept():
    template = "{% for message in messages %}<turn>{{ message['content'] }}{% endfor %}"
    tokenizer = tiny_tokenizer(template=template)
    assert turn_markers(tokenizer) == ("<turn>",)
    assert 92 in find_stops(tokenizer, model_with(), chat=True).ids


def test_a_template_is_named_by_its_words():
    names = {template_digest(tiny_tokenizer(template=template)) for template in (CHATML, PLAIN, None)}
    assert len(names) == 3
    assert template_digest(tiny_tokenizer()) == template_digest(None) == "raw"
