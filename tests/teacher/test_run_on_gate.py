"""The gate sees a next turn that begins inside of a line, and leaves clean prose alone."""

import ast
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from tutelage.cache.sequences import Answer
from tutelage.teacher.sequence_quality import leak_pattern, measure_quality, template_openers

RUN_ON = (
    "The height is 84 metres.Human: Context: A harbour town in the north",
    "According to the text, it was 1931.Human: Can you say more about the bridge?",
    "The answer is 12 percent.You are a helpful model. Read the text carefully",
    "blue whale\nHuman: next",
    "It lasted thirteen weeks. Question: and the other season?",
    "the share is 84%Human: Context: a",
    "it was 1931Question: and then?",
    'She said "no."User: why?',
    "blue whaleHuman: next",
    "巴黎。Human: 下一个",
    "Done! Assistant: sure",
)
CLEAN = (
    "Humans: a short history is the title.",
    "He asked the user: why not?",
    "The ratio is 3:1.",
    "Question time is at noon.",
    "It was signed in 1931.",
    "A SuperUser: one who may do all.",
    "I think. You are a good reader.",
    "See section 3. Questions: none.",
)


@pytest.mark.parametrize("text", RUN_ON)
def test_a_next_turn_inside_of_a_line_is_found(text):
    assert leak_pattern().search(text)


@pytest.mark.parametrize("text", CLEAN)
def test_words_that_only_look_like_a_turn_are_not(text):
    assert not leak_pattern().search(text)


def test_the_opening_of_the_prompts_own_template_is_found_where_it_recurs():
    template = "You are an AI assistant. Answer from the text.\nContext: {context}\nQuestion: {question}"
    openers = template_openers(template)
    assert openers == ("You are an AI assistant.",)
    for text in ("It is 84You are an AI assistant. Answer", "ok. You are an AI assistant. Answer"):
        quality = measure_quality([[Answer(np.array([1], dtype=np.int32), text, "stop")]], markers=openers)
        assert quality.num_leaked == 1
    assert not leak_pattern(("Context:",)).search("A subContext: nothing")


def test_of_clean_prose_at_most_one_in_a_thousand_is_held_for_a_run_on():
    """Docstrings of the standard library, about 10,000 when all of it is read: none."""
    folder, pattern = Path(sysconfig.get_path("stdlib")), leak_pattern()
    texts = []
    for path in [*folder.glob("[a-i]*.py"), *folder.glob("asyncio/*.py"), *folder.glob("email/*.py")]:
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                texts.append(ast.get_docstring(node) or "")
    prose = [text for text in texts if len(text.split()) >= 5]
    found = [text for text in prose if pattern.search(text)]
    assert len(prose) > 1000
    assert len(found) <= len(prose) / 1000, found
