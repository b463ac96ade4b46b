"""A recipe with conversations, and one with documents, from beginning to end on a tiny model."""

import datetime
import json
import math

import numpy as np
import pytest
import torch
from text_experiment import CITIES, MARKED, PEOPLE, RECIPE, TEMPLATE, VOCABULARY, write_chats, write_text_experiment
from tiny_experiment import Finished, run_tiny
from transformers import AutoModelForCausalLM

from tutelage.cli.preview import text_runs
from tutelage.config import RecipeError, load_recipe
from tutelage.data import TextItem, read_prepared
from tutelage.evaluate import read_text_items, text_metrics
from tutelage.experiment import list_runs, plan_recipe
from tutelage.experiment.stored import open_stored
from tutelage.report.collect import collect

B0, KD1 = "B0_chat_S1_seed1", "KD1_chat_S1_T2_a0.3_seed1"
SHORT = ("train.num_train_epochs=1", "methods={B0: {kind: baseline}}")


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Finished:
    return run_tiny(write_text_experiment(tmp_path_factory.mktemp("text")), report=True)


def items_of(finished: Finished, run_id: str):
    return read_text_items(finished.at(run_id) / "items.parquet")


def stored_task(finished: Finished):
    return open_stored(load_recipe(finished.recipe, environment={}), show=print)[0]


def test_baseline_and_distillation_run_and_are_scored_on_the_same_conversations(done):
    runs = {run.run_id: run.record for run in list_runs(done.root.parent)}
    assert set(runs) == {"teacher_chat", "untouched_chat_S1", B0, KD1}
    keys = {items_of(done, run_id).item_keys for run_id in runs}
    assert keys == {tuple(each.item_key for each in read_prepared(done.at("prepare/chat")).splits["test"])}
    assert {run["primary_metric"] for run in runs.values()} == {"token_accuracy"}


def test_the_metrics_of_a_run_are_those_of_its_items_and_training_lowers_the_loss(done):
    for run_id in ("teacher_chat", "untouched_chat_S1", B0, KD1):
        metrics, items = done.record(run_id)["metrics"]["test"], items_of(done, run_id)
        assert text_metrics(items).items() <= metrics.items()
    nll = {run_id: done.record(run_id)["metrics"]["test"]["nll"] for run_id in ("untouched_chat_S1", B0, KD1)}
    assert nll[B0] < nll["untouched_chat_S1"]
    assert nll[KD1] < nll["untouched_chat_S1"]


def test_every_model_writes_its_own_answers_to_test_conversations_and_they_are_scored(done):
    for run_id in ("teacher_chat", "untouched_chat_S1", B0, KD1):
        metrics, items = done.record(run_id)["metrics"]["test"], items_of(done, run_id)
        assert metrics["answers_n"] == len(items) == 16
        assert all(answer.gold.split()[1:3] == ["lives", "in"] for answer in items.answers)
        for name in ("answers_empty", "answers_ended", "answers_run_on", "answer_f1"):
            assert 0 <= metrics[name] <= 1
    assert "answers_n" not in done.record(B0)["metrics"]["validation"], "selection stays cheap"


def test_a_dated_template_keeps_its_day_after_midnight_for_every_stage(tmp_path, monkeypatch):
    class Day(datetime.date):
        now = datetime.date(2026, 1, 31)

        @classmethod
        def today(cls):
            return cls.now

    monkeypatch.setattr(datetime, "date", Day)
    dated = "<turn>{{ strftime_now('%d') }} " + TEMPLATE
    words = ("31", "01")
    plain = RECIPE.replace("  adapt:", "  # adapt:")
    recipe = write_text_experiment(tmp_path, recipe=plain, template=dated, words=words)
    first = run_tiny(recipe, *SHORT)
    assert json.loads((first.at("prepare/chat") / "info.json").read_text())["date"] == "2026-01-31"
    rows = [each.row.ids.tolist() for each in stored_task(first).rows]
    assert all(len(VOCABULARY) in row for row in rows), "the day is in every row"
    written = {path: path.read_bytes() for path in first.root.rglob("items.parquet")}
    Day.now = datetime.date(2026, 2, 1)
    again = run_tiny(recipe, "train.num_train_epochs=1")  # and a new arm reads the cache of the day before
    assert not any(line.startswith(("prepare chat:", "teach chat:")) for line in again.lines)
    assert {path: path.read_bytes() for path in written} == written
    assert [each.row.ids.tolist() for each in stored_task(again).rows] == rows
    other = run_tiny(recipe, *SHORT, "tasks.chat.date=2026-02-03", until="prepare")
    dates = {json.loads(path.read_text())["date"] for path in other.root.glob("prepare/chat*/info.json")}
    assert "2026-02-03" in dates


def test_rows_teach_both_answers_with_their_ends_and_nothing_else(done):
    task = stored_task(done)
    for found in task.rows[:10]:
        runs = [run["text"].split() for run in text_runs(task.tokenizer, found.row) if run["target"]]
        assert [len(words) for words in runs] == [6, 6]
        for person, *rest, city, stop, end in runs:
            assert (person in PEOPLE, rest, city in CITIES, stop, end) == (True, ["lives", "in"], True, ".", "<end>")


def test_the_teachers_own_items_are_what_its_weights_say(done):
    task, found = stored_task(done), items_of(done, "teacher_chat")
    (folder,) = (done.root.parent / "models").glob("adapted-*")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    rows = {each.row.item_key: each.row for each in task.rows if each.split == "test"}
    for key, logprob, right in zip(found.item_keys, found.logprob_B, found.num_right_B, strict=True):
        row = rows[key]
        with torch.no_grad():
            logprobs = model(torch.tensor(row.ids[None].astype(np.int64))).logits[0].double().log_softmax(dim=1)
        places = np.flatnonzero(row.target_mask)
        labels = torch.tensor(row.ids[places].astype(np.int64))
        assert logprobs[places - 1].gather(1, labels[:, None]).sum().item() == pytest.approx(logprob, rel=2e-3)
        assert (logprobs[places - 1].argmax(dim=1) == labels).sum() == right


def test_the_report_pairs_the_items_and_shows_the_figures_of_texts(done):
    table = (done.root / "report" / "tables" / "main.md").read_text()
    heading = table.splitlines()[2]
    shown = ("Token accuracy %", "Token probability %", "Nats per token", "Perplexity", "Bits per byte", "ECE")
    assert [name in heading for name in shown] == [True] * 5 + [False]
    runs = collect(done.root).runs
    assert {run.score_name for run in runs} == {"token_accuracy"}


def test_the_same_command_again_skips_everything(done):
    again = run_tiny(done.recipe, until="train")
    assert not any(line.startswith(("train", "teach", "adapt", "prepare")) for line in again.lines)
    assert {stage.state for stage in plan_recipe(load_recipe(done.recipe, environment={})).stages} == {"finished"}


def test_an_edited_source_is_prepared_anew(done, tmp_path):
    recipe = write_text_experiment(tmp_path)
    first = run_tiny(recipe, until="prepare")
    write_chats(tmp_path / "chats.jsonl", count=90, seed=1)
    second = run_tiny(recipe, until="prepare")
    assert [any(line.startswith("prepare chat: ") for line in each.lines) for each in (first, second)] == [True, True]


@pytest.mark.slow
def test_marks_of_the_template_and_proof_without_them_give_the_same_rows(done, tmp_path):
    marked = run_tiny(write_text_experiment(tmp_path, template=MARKED), *SHORT, until="teach")
    ours, theirs = stored_task(done).rows, stored_task(marked).rows
    assert [each.row.ids.tolist() for each in ours] == [each.row.ids.tolist() for each in theirs]
    assert [each.row.target_mask.tolist() for each in ours] == [each.row.target_mask.tolist() for each in theirs]


DOCUMENTS = RECIPE.replace("chats.jsonl", "texts.jsonl").replace("max_length: 64", "max_length: 6").replace(
    "  adapt: {task: chat, rows: 16, learning_rate: 1e-2, max_steps: 8, per_device_train_batch_size: 8}\n", ""
)  # fmt: skip


def write_documents(path, *, count):
    people = [f"{a} lives in {b} . {c} lives in Rome" for a in PEOPLE for b in CITIES for c in PEOPLE]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in people[:count]))


def test_documents_are_split_into_windows_and_scored_as_one_item_each_with_any_signal(tmp_path):
    write_documents(tmp_path / "texts.jsonl", count=80)
    recipe = write_text_experiment(tmp_path, recipe=DOCUMENTS)
    topk = ("signals=[{kind: topk, k: 24, temperatures: [1]}]", "evaluate.select_by=token_probability")
    finished = run_tiny(recipe, *SHORT, *topk, until="train")
    items = items_of(finished, "teacher_chat")
    assert set(items.num_targets_B) == {9}, "9 words and the end, the first word is not predicted"
    assert len(items) == 16
    assert any("24 texts were split into rows of 6 tokens" in line for line in finished.lines)
    record = finished.record("B0_chat_S1_seed1")
    assert record["metrics"]["test"]["token_probability"] == pytest.approx(
        items_of(finished, "B0_chat_S1_seed1").score_B.mean()
    )
    assert math.isfinite(record["metrics"]["validation"]["token_probability"])


@pytest.mark.slow
def test_a_streamed_mixture_of_documents_and_conversations_trains_with_exact_shares(tmp_path):
    write_documents(tmp_path / "texts.jsonl", count=80)
    mixture = (
        "tasks.chat.data={mixture: [{source: chats.jsonl, weight: 3}, {source: texts.jsonl}], rows: 24, "
        "streaming: true, shuffle_buffer: 8, validation_rows: 8, test_rows: 8}"
    )
    finished = run_tiny(
        write_text_experiment(tmp_path), mixture, *SHORT, "teacher={model: model, dtype: fp32}", until="train"
    )
    items: list[TextItem] = read_prepared(finished.at("prepare/chat")).splits["train"]
    assert sum(item.is_document for item in items) == 6
    assert len(items) == 24
    assert finished.record(B0)["metrics"]["test"]["n"] == 8
    assert finished.record(B0)["steps"] == 3


@pytest.mark.slow
def test_without_a_chat_template_conversations_are_written_plainly_and_chat_is_refused(tmp_path):
    recipe = write_text_experiment(tmp_path, template=None)
    finished = run_tiny(recipe, *SHORT, until="teach")
    assert any("User : Where does" in line and "⟦" in line for line in finished.lines)
    with pytest.raises(RecipeError, match=r"tasks\.chat\.template: is `chat`, but the tokenizer has no chat template"):
        run_tiny(recipe, "tasks.chat.template=chat", until="teach")


FORGETS = (
    "{% for message in messages %}<turn>{{ message['role'] }} {% if message['role'] != 'assistant' or loop.last %}"
    "{{ message['content'] }} {% endif %}<end> {% endfor %}{% if add_generation_prompt %}<turn>assistant {% endif %}"
)


def test_a_template_whose_turns_cannot_be_proven_stops_the_run(tmp_path):
    with pytest.raises(RecipeError, match=r"keep one\s+answer per conversation"):
        run_tiny(write_text_experiment(tmp_path, template=FORGETS), until="teach")


def test_rows_that_are_all_too_long_stop_the_run(tmp_path):
    with pytest.raises(RecipeError, match=r"None of 24 texts has a token to learn [^.]*24\s+turn_too_long"):
        run_tiny(write_text_experiment(tmp_path), "tasks.chat.max_length=10", until="teach")


@pytest.mark.slow
def test_a_shortened_conversation_is_counted_and_keeps_whole_turns(tmp_path):
    finished = run_tiny(write_text_experiment(tmp_path), *SHORT, "tasks.chat.max_length=30", until="teach")
    facts = json.loads((finished.at("teach/chat") / "teach.json").read_text())
    assert facts["shortened"]["train"] == 24
    assert all(int(each.row.target_mask.sum()) == 6 for each in stored_task_with(finished, 30).rows)


def stored_task_with(finished: Finished, max_length: int):
    loaded = load_recipe(finished.recipe, [*SHORT, f"tasks.chat.max_length={max_length}"], environment={})
    return open_stored(loaded, show=print)[0]
