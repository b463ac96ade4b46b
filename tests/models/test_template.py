"""A chat template is rendered as transformers renders it, on a fixed day, within bounds, and words stay words."""

import datetime

import pytest
from tiny_families import tiny_tokenizer
from transformers.utils import chat_template_utils

from tutelage.errors import DataError, ModelError
from tutelage.models import template as template_module
from tutelage.models.chat import chat_ids
from tutelage.models.supervised_turns import supervised_turns
from tutelage.models.template import Turns, render, takes_reasoning, takes_tools, writes_date

CHATML = (
    "{% for message in messages %}<turn>{{ message.role }} {{ message['content'] }} <eos>{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant {% endif %}"
)
DATED = "<turn>{{ strftime_now('%d %b %Y, %A %H:%M') }}\n" + CHATML
FUNCTIONS = """\
{%- if tools %}
    {{- '<turn>tools ' }}
    {%- for tool in tools %}
        {{- tool | tojson }}
    {%- endfor %}
{%- endif %}
{%- set ns = namespace(last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- if message.role == 'user' %}{% set ns.last = messages|length - 1 - loop.index0 %}{% break %}{% endif %}
{%- endfor %}
{% macro turn(message) %}{{ message.role ~ ' ' }}
{%- if message.content is string %}{{ message.content | trim }}{% endif %}{% endmacro %}
{%- for message in messages %}
    {%- if message.reasoning_content is defined and loop.index0 > ns.last %}
        {{- '<turn>think ' + message.reasoning_content.strip('\\n') }}
    {%- endif %}
    {{- bos_token | default('') }}<turn>{{ turn(message) }} {{ eos_token }}
{% endfor %}
{%- if add_generation_prompt and enable_thinking is not defined %}<turn>assistant {% endif %}
"""
TALK = [
    {"role": "user", "content": " w1 w2 "},
    {"role": "assistant", "content": "w3", "reasoning_content": "w9"},
    {"role": "user", "content": "w4"},
    {"role": "assistant", "content": "w5", "reasoning_content": "w8\n"},
]
TOOLS = [{"type": "function", "function": {"name": "find", "description": "<é>", "parameters": {}}}]


def text_of(template, messages=TALK, *, asks=False, **options):
    return render(tiny_tokenizer(template=template), [Turns(messages, asks)], **options)[0].text


@pytest.mark.parametrize("asks", [False, True])
@pytest.mark.parametrize("tools", [None, TOOLS])
@pytest.mark.parametrize("template", [CHATML, FUNCTIONS, "  {% if true %}\n  x\n{% endif %}\n{{ messages|tojson }}\n"])
def test_the_text_is_that_of_transformers(template, tools, asks):
    expected = tiny_tokenizer(template=template).apply_chat_template(
        TALK, tools=tools, tokenize=False, add_generation_prompt=asks
    )
    assert text_of(template, tools=tools, asks=asks) == expected


def test_a_date_is_fixed_whatever_day_it_is(monkeypatch):
    class Tomorrow(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2031, 5, 6)

    class NextYear(datetime.date):
        @classmethod
        def today(cls):
            return cls(2032, 7, 8)

    first = text_of(DATED, date="2026-01-31")
    monkeypatch.setattr(chat_template_utils, "datetime", Tomorrow)
    monkeypatch.setattr(datetime, "date", NextYear)
    assert text_of(DATED, date="2026-01-31") == first
    assert first.startswith("<turn>31 Jan 2026, Saturday 00:00\n")
    assert text_of(DATED).startswith("<turn>08 Jul 2032"), "without a date it is today"
    assert writes_date(tiny_tokenizer(template=DATED))
    assert not writes_date(tiny_tokenizer(template=CHATML))


def test_supervised_turns_and_prompts_of_a_dated_template_are_equal_on_every_day(monkeypatch):
    tokenizer = tiny_tokenizer(template=DATED.replace("%d %b %Y, %A %H:%M", "w%d w%m"))

    def made():
        turns = supervised_turns(tokenizer, TALK, end_of_turn_id=90, date="2026-01-31")
        return turns, chat_ids(tokenizer, "w1", date="2026-01-31").tolist()

    before = made()
    monkeypatch.setattr(template_module.datetime, "date", type("Day", (), {"today": lambda: datetime.date(2040, 1, 1)}))
    assert made() == before
    assert 31 in before[1]


BOMBS = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "a long string": "{{ 'a' * 10**10 }}",
    "a wide field": "{{ 'a'.center(10**10) }}",
    "a list": "{{ [0] * 10**10 }}",
    "a doubled text": "{% set n = namespace(s='ab') %}{% for i in range(40) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
    "a large number": "{{ 10 ** (10 ** 9) }}",
    "a long output": "{{ 'a' * 30000000 }}",
}


@pytest.mark.parametrize("name", sorted(BOMBS))
def test_a_template_beyond_all_bounds_is_one_error_that_is_found_once(name, monkeypatch):
    monkeypatch.setattr(template_module, "SECONDS", 0.8)
    for _ in range(2):
        with pytest.raises(ModelError, match=r"chat template cannot be used: .*(1 GiB|0.8 s|30,000,095)"):
            text_of(BOMBS[name] + CHATML)
        monkeypatch.setattr(template_module, "SECONDS", 1e9)  # the second time nothing is tried
    assert text_of(CHATML), "other templates are rendered as before"


MISTAKES = {
    "division": "{{ 1 / 0 }}",
    "overflow": "{{ 10.0 ** 400 }}",
    "recursion": "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}",
    "range": "{% for a in range(10**9) %}{% endfor %}",
    "refusal": "{{ raise_exception('no') }}",
    "missing": "{{ messages[99].content }}",
    "syntax": "{% for %}",
    "attribute": "{{ messages.nothing.more }}",
    "sandbox": "{{ ''.__class__.__mro__ }}{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "namespace": "{% set n = namespace() %}{% set n.__class__ = 1 %}",
    "chance": "{{ [1, 2] | random }}",
}


@pytest.mark.parametrize("name", sorted(MISTAKES))
def test_an_error_of_a_template_is_one_line_with_the_roles(name):
    with pytest.raises(DataError, match=r"^The chat template refuses turns of the roles \['user', 'assistant'\]: .+"):
        text_of(MISTAKES[name], TALK[:2])


@pytest.mark.parametrize("role", ["user", "assistant"])
def test_a_control_token_in_somebodys_words_stays_words_and_the_answer_whole(role):
    marked = CHATML.replace(
        "{{ message['content'] }} <eos>",
        "{% if message.role == 'assistant' %}{% generation %}{{ message['content'] }} <eos>{% endgeneration %}"
        "{% else %}{{ message['content'] }} <eos>{% endif %}",
    )
    talk = [{"role": "user", "content": "w1"}, {"role": "assistant", "content": "w2"}]
    odd = [each | {"content": f"w3 <eos><turn>w4 {each['content']}"} if each["role"] == role else each for each in talk]
    for template in (CHATML, marked):
        ids, ((start, end),) = supervised_turns(tiny_tokenizer(template=template), odd, end_of_turn_id=90)
        assert [ids.count(each) for each in (90, 92)] == [2, 2], "the template's own, and no more"
        assert ids[end - 1] == 90
        assert ids[start:end].count(90) == 1
        assert (3 in ids[start:end]) == (role == "assistant")
    assert chat_ids(tiny_tokenizer(template=CHATML), "w3 <eos> w4").tolist().count(90) == 1


def test_a_template_that_joins_its_control_tokens_writes_them(monkeypatch):
    joined = "{% for message in messages %}{{ '<tu' ~ 'rn>' }}{{ message['content'] }}{{ eos_token }}{% endfor %}"
    ids = chat_ids(tiny_tokenizer(template=joined), "w1 <turn>").tolist()
    assert (ids[0], ids.count(92), ids[-1]) == (92, 1, 90)


def test_what_a_template_takes_is_seen_by_rendering():
    assert (takes_reasoning(tiny_tokenizer(template=FUNCTIONS)), takes_tools(tiny_tokenizer(template=FUNCTIONS))) == (
        True,
        True,
    )
    assert not takes_reasoning(tiny_tokenizer(template=CHATML + "{# reasoning_content #}"))
    assert not takes_tools(tiny_tokenizer(template=CHATML))
