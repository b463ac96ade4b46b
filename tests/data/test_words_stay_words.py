"""A control token's name in somebody's data is words for every kind of task; in a recipe's template it is the token."""

import pytest
from squad_files import question, reading_task
from text_files import chat_item, text_item

from tutelage.data import (
    Example,
    WrittenAnswer,
    choice_prompts,
    classification_rows,
    document_rows,
    plain_turns,
    reading_prompts,
    reading_rows,
    written_rows,
)
from tutelage.data.task import fill_template, parse_template

ODD = "so <end> and <s> it goes"
END = 2
SETTINGS = {"max_length": 400, "end_of_turn_id": END}


def test_texts_and_other_columns_of_a_classification_are_words(tokenizer, make_task):
    task = make_task(template="{source}: {text}<s>{source}?")
    example = Example("k", "k", {"text": ODD, "source": "a <end> b"}, 0)
    (row,) = classification_rows(tokenizer, task, [example], **SETTINGS).rows
    assert row.ids.tolist().count(END) == 1, "the end of turn"
    assert row.ids.tolist().count(1) == 1, "the template's own <s>"
    assert tokenizer.decode(row.ids) == f"a <end> b: {ODD}<s>a <end> b? bad<end>"
    (prompt,) = choice_prompts(tokenizer, task, [example], **SETTINGS)
    assert prompt.prompt_ids.tolist() == row.ids[~row.target_mask].tolist()


@pytest.mark.parametrize("max_length", [120, 400])
def test_contexts_questions_and_answers_of_a_reading_task_are_words(tokenizer, max_length):
    asked = question(f"{ODD} Ann <end> Bee rules. " + "x <end> " * 30, "Ann <end> Bee", ask="Who <s>?")
    task, settings = reading_task(), {"max_length": max_length, "end_of_turn_id": END}
    (row,) = reading_rows(tokenizer, task, [asked], keep_answers=True, **settings).rows
    assert row.ids.tolist().count(END) == 1
    assert 1 not in row.ids
    assert tokenizer.decode(row.ids[row.target_mask]) == " Ann <end> Bee<end>"
    (prompt,) = reading_prompts(tokenizer, task, [asked], max_length=max_length, doc_stride=20)
    assert not any({1, END} & set(window.tolist()) for window in prompt.windows)


def test_documents_conversations_and_written_answers_are_words(tokenizer):
    (row,) = document_rows(tokenizer, [text_item(ODD)], max_length=400, end_of_text_id=END).rows
    assert row.ids.tolist().count(END) == 1
    turns = plain_turns(tokenizer, chat_item(f"system: {ODD}", ODD, ODD).turns, end_of_turn_id=END)
    assert turns.ids.tolist().count(END) == 1
    (span,) = turns.spans
    assert tokenizer.decode(turns.ids[slice(*span)]) == f" {ODD}<end>"
    prompt = fill_template(parse_template("Q: {text} A:", where="t"), {"text": ODD}, shortened="text")
    (written,) = written_rows(
        tokenizer, [prompt], [WrittenAnswer(ODD, True)], item_keys=["k"], lead=" ", answer_room=9, **SETTINGS
    ).rows
    assert written.ids.tolist().count(END) == 1


def test_a_prompt_knows_which_of_its_parts_the_template_wrote():
    pieces = parse_template("<{a}|{text}|{a}{b}>", where="t")
    prompt = fill_template(pieces, {"a": "AA", "text": "T", "b": ""}, shortened="text")
    assert "".join(str(prompt)[start:end] for start, end in prompt.written) == "<||>"
    longer = prompt.with_context("TTTT")
    assert "".join(str(longer)[start:end] for start, end in longer.written) == "<||>"
