"""A teacher that speaks by a chat template, and students of its family with other templates, ends and tokens."""

import json
from pathlib import Path

import pytest
import torch
from text_experiment import RECIPE, TEMPLATE, VOCABULARY, tiny_tokenizer, write_chats
from tiny_experiment import run_tiny
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from tutelage.config import RecipeError, load_recipe
from tutelage.data import Turn
from tutelage.data.records import Record
from tutelage.errors import AlignmentError
from tutelage.experiment import plan_recipe
from tutelage.experiment.chat import open_teacher
from tutelage.experiment.checks import inspect_recipe
from tutelage.experiment.identity import Folders
from tutelage.experiment.predict import predict, prompt_ids
from tutelage.experiment.stage import Context
from tutelage.experiment.stored import open_stored
from tutelage.experiment.students import find_student, open_student

END = VOCABULARY.index("<end>")
OTHER = (
    "{% for message in messages %}{{ message['role'] }} : {{ message['content'] }} <stop> {% endfor %}"
    "{% if add_generation_prompt %}assistant : {% endif %}"
)
HEAD, REST = RECIPE.split("students:")[0], RECIPE[RECIPE.index("tasks:") :]
WITHOUT_ADAPTATION = HEAD[: HEAD.index("  adapt:")]
STUDENTS = """\
students:
  S1: {model: base, dtype: fp32}
  S2: {shrink: {layers: 2}, dtype: fp32}
"""
BASE = WITHOUT_ADAPTATION + STUDENTS + REST
ALONE = BASE.replace("  S1: {model: base, dtype: fp32}\n", "")


def write_model(folder, tokenizer, *, num_ids=None, eos=3, seed=0, **changes):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=num_ids or len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128, pad_token_id=0, eos_token_id=eos,
        bos_token_id=None, **{"tie_word_embeddings": True, **changes},
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def chat_tokenizer(template=TEMPLATE, *, end="<end>", added=()):
    tokenizer = tiny_tokenizer(template, ["<stop>"])
    tokenizer.add_tokens(["<stop>"], special_tokens=True)
    tokenizer.add_special_tokens({"eos_token": end})
    tokenizer.add_tokens(list(added))
    return tokenizer


def write_family(folder, *, recipe=BASE, teacher=None, base=None, num_ids=None):
    """Write an instruct teacher, a base model of its family, conversations and a recipe."""
    write_model(folder / "model", teacher or chat_tokenizer(), num_ids=num_ids)
    base = base or chat_tokenizer(None, end="<stop>")
    write_model(folder / "base", base, num_ids=num_ids, eos=base.eos_token_id, seed=1)
    write_chats(folder / "chats.jsonl")
    path = folder / "tiny.yaml"
    path.write_text(recipe.replace("WORKSPACE", str(folder / "runs")), encoding="utf-8")
    return path


def looked_at(path):
    loaded = load_recipe(path, environment={})
    found = inspect_recipe(Context(loaded, Folders(path.parent / "runs", "tiny"), show=print, command=""))
    return (
        {".".join(map(str, each.key)): each.message for each in found.refusals},
        {".".join(map(str, each.key)): each.message for each in found.notes},
    )


def change_rows(path, change, count=1):
    file = path.parent / "chats.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    for row in rows[:count]:
        change(row)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def use_new_token(row):
    row["messages"][-1]["content"] += " [new]"


@pytest.mark.parametrize("template", [None, OTHER])
def test_an_instruct_teacher_and_a_base_student_learn_from_the_same_rows(tmp_path, monkeypatch, template):
    monkeypatch.chdir(tmp_path)  # where `chat --teacher` looks for the recipe's models
    path = write_family(tmp_path, base=chat_tokenizer(template, end="<stop>"))
    refusals, notes = looked_at(path)
    kind = "no chat template" if template is None else "another chat template"
    assert refusals == {}
    assert notes["students.S1.model"] == (
        f"student S1 has {kind} and the end of turn '<stop>' in place of '<end>': every row is written with the "
        "template and end of turn of the teacher (`chat_template: teacher`), and the saved student carries both"
    )
    done = run_tiny(path)
    for student in ("S1", "S2"):
        folder = done.at(f"KD1_chat_{student}_T2_a0.3_seed1")
        assert AutoTokenizer.from_pretrained(folder / "checkpoint").chat_template == TEMPLATE
        assert ends_of(folder / "checkpoint")[0] == END
        opened = open_student(find_student(tmp_path / "runs", str(folder)))
        assert opened.data.end_of_turn_id == END
        (answer,) = predict(opened, [question("Where does Anna live ?")], max_new_tokens=4)
        assert set(answer) >= {"answer", "finish"}
        prompt = prompt_ids(open_teacher(folder, opened), [Turn("user", "Where ?")], template="auto")
        assert prompt.tolist() == prompt_ids(opened, [Turn("user", "Where ?")], template="auto").tolist()
    again = run_tiny(path)
    assert not any(line.startswith(("teach", "train")) for line in again.lines)


def test_the_students_own_template_may_write_the_rows_of_all(tmp_path):
    base = chat_tokenizer(OTHER, end="<stop>")
    path = write_family(tmp_path, base=base)
    done = run_tiny(path, "chat_template=S1", "methods.KD1.alpha=0", until="train")
    for student in ("S1", "S2"):
        folder = done.at(f"KD1_chat_{student}_T2_a0_seed1") / "checkpoint"
        assert AutoTokenizer.from_pretrained(folder).chat_template == OTHER
        assert ends_of(folder)[0] == base.convert_tokens_to_ids("<stop>")
    loaded = load_recipe(path, ("chat_template=S1",), environment={})
    assert "<stop>" in open_stored(loaded, show=print)[0].tokenizer.decode(
        open_stored(loaded, show=print)[0].rows[0].row.ids
    )


def test_a_file_may_hold_the_template(tmp_path):
    path = write_family(tmp_path)
    (tmp_path / "own.jinja").write_text(OTHER, encoding="utf-8")
    done = run_tiny(path, "chat_template=own.jinja", "methods={B0: {kind: baseline}}", until="train")
    checkpoint = done.at("B0_chat_S1_seed1") / "checkpoint"
    assert AutoTokenizer.from_pretrained(checkpoint).chat_template == OTHER
    assert ends_of(checkpoint)[0] == chat_tokenizer().convert_tokens_to_ids("<stop>")
    before = len(list(done.root.glob("teach/chat.*")))
    (tmp_path / "own.jinja").write_text(OTHER.replace(" : ", " . "), encoding="utf-8")
    run_tiny(path, "chat_template=own.jinja", "methods={B0: {kind: baseline}}", until="teach")
    assert len(list(done.root.glob("teach/chat.*"))) == before + 1


@pytest.mark.parametrize(("choice", "found"), [("S2", "without a `model`"), ("gone.jinja", "is no file")])
def test_a_template_that_is_not_there_is_refused_in_plan(tmp_path, choice, found):
    refusals, _ = looked_at(write_family(tmp_path, recipe=f"chat_template: {choice}\n" + BASE))
    assert found in refusals["chat_template"]


def test_the_stages_with_one_writer_are_those_that_its_key_names(tmp_path):
    path = write_family(tmp_path)
    run_tiny(path, "methods={B0: {kind: baseline}}", until="teach")
    lines = run_tiny(path, "methods={B0: {kind: baseline}}", "chat_template=S1", until="teach").lines
    assert any("rows computed" in line for line in lines)


def test_added_tokens_that_no_row_uses_are_counted_and_pass(tmp_path):
    path = write_family(tmp_path, teacher=chat_tokenizer(added=["[new]", "[tool]"]), num_ids=64)
    assert looked_at(path)[0] == {}
    shared = len(chat_tokenizer())
    inspected = [note for note in all_notes(path) if "tokenizers of" in note]
    assert inspected == [
        f"tokenizers of student S1 and the teacher: {shared} tokens are shared, 2 only the teacher has ('[new]', "
        "'[tool]')"
    ]
    assert run_tiny(path, "methods={B0: {kind: baseline}}", until="train").outcome is not None


def test_rows_with_a_token_that_the_student_lacks_are_named_before_the_teachers_pass(tmp_path):
    path = write_family(tmp_path, teacher=chat_tokenizer(added=["[new]"]), num_ids=64)
    change_rows(path, use_new_token, count=80)
    with pytest.raises(RecipeError) as found:
        plan_recipe(load_recipe(path, (), environment={}))
    (problem,) = found.value.problems
    assert problem.path == ("tasks", "chat", "data")
    number = chat_tokenizer(added=["[new]"]).convert_tokens_to_ids("[new]")
    assert f"with tokens that student S1 does not have: '[new]' (id {number}, 48 rows)" in problem.message
    assert "`students.S1.resize_embeddings: true`, so that it learns them" in problem.message


def test_the_teach_stage_looks_at_every_row(tmp_path, monkeypatch):
    path = write_family(tmp_path, teacher=chat_tokenizer(added=["[new]"]), num_ids=64)
    change_rows(path, use_new_token, count=80)
    monkeypatch.setattr("tutelage.experiment.pipeline.require_sound", lambda context: ())
    with pytest.raises(AlignmentError, match=r"48 rows .*student S1 does not have: '\[new\]'"):
        run_tiny(path)


@pytest.mark.parametrize("num_ids", [None, 64])
def test_a_student_may_learn_the_tokens_that_it_lacks(tmp_path, num_ids):
    """With an embedding to spare and without one."""
    path = write_family(tmp_path, teacher=chat_tokenizer(added=["[new]"]), num_ids=num_ids)
    change_rows(path, use_new_token, count=80)
    done = run_tiny(path, "students.S1.resize_embeddings=true", "methods.KD1.alpha=0", until="train")
    checkpoint = done.at("KD1_chat_S1_T2_a0_seed1") / "checkpoint"
    tokenizer, model = AutoTokenizer.from_pretrained(checkpoint), AutoModelForCausalLM.from_pretrained(checkpoint)
    assert tokenizer.convert_tokens_to_ids("[new]") < model.config.vocab_size == (num_ids or len(tokenizer))


def test_tokens_that_were_added_and_never_resized(tmp_path):
    tokenizer = chat_tokenizer(added=["[new]"])
    tokenizer.add_special_tokens({"pad_token": "[pad]"})
    path = write_family(tmp_path, recipe=ALONE, teacher=tokenizer, num_ids=len(tokenizer) - 2)
    refusals, notes = looked_at(path)
    assert refusals == {}
    assert notes["teacher.model"].startswith(f"the teacher: 2 of {len(tokenizer)} tokens have no embedding (")
    run_tiny(path, until="train")  # the padding token has none either
    change_rows(path, use_new_token, count=80)
    refusals, _ = looked_at(path)
    assert "the teacher does not have: '[new]'" in refusals["tasks.chat.data"]
    assert "`teacher.resize_embeddings: true`" in refusals["tasks.chat.data"]
    done = run_tiny(path, "teacher.resize_embeddings=true", until="train")
    checkpoint = done.at("KD1_chat_S2_T2_a0.3_seed1") / "checkpoint"
    assert AutoModelForCausalLM.from_pretrained(checkpoint).config.vocab_size == len(tokenizer)


def test_typed_tokens_that_a_student_has_no_embedding_for_are_refused(tmp_path):
    tokenizer = chat_tokenizer(added=["[new]"])
    path = write_family(tmp_path, recipe=ALONE, teacher=tokenizer, num_ids=len(tokenizer) - 1)
    done = run_tiny(path, "methods={B0: {kind: baseline}}", until="train")
    opened = open_student(find_student(tmp_path / "runs", str(done.at("B0_chat_S2_seed1"))))
    with pytest.raises(AlignmentError, match=r"prompt 2.*'\[new\]'.*Write the text without"):
        predict(opened, [question("Where ?"), question("Where [new] ?")])


def test_another_family_is_refused_in_plan_with_true_counts(tmp_path):
    other = tiny_tokenizer(TEMPLATE, ["<stop>"])
    words = [*reversed(VOCABULARY[8:])]
    swapped = chat_tokenizer()
    content = json.loads(swapped.backend_tokenizer.to_str())
    vocab = content["model"]["vocab"]
    vocab |= {word: vocab[old] for word, old in zip(words, VOCABULARY[8:], strict=True)}
    other = type(swapped)(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)), pad_token="<pad>", eos_token="<end>"
    )
    refusals, _ = looked_at(write_family(tmp_path, base=other))
    num = len(VOCABULARY[8:])
    assert (
        f"of {len(other)} ids that both have, {num - num % 2} stand for another token" in refusals["students.S1.model"]
    )


def all_notes(path):
    loaded = load_recipe(path, environment={})
    return [
        note.message for note in inspect_recipe(Context(loaded, Folders(path.parent / "runs", "tiny"), print, "")).notes
    ]


def question(words):
    return Record({"messages": [{"role": "user", "content": words}]}, "row")


def ends_of(checkpoint: Path) -> list[int]:
    ends = AutoModelForCausalLM.from_pretrained(checkpoint).generation_config.eos_token_id
    return ends if isinstance(ends, list) else [ends]
