"""Answers are written once per prompt, survive kills, and become rows to learn from."""

import importlib
import os
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_sequences import END, GREEDY, SAMPLED, TEMPLATE, TOKENIZER, alone, plain, prompts, word_tokenizer
from tiny_teacher import FINGERPRINT, VOCAB_SIZE, tiny_llama
from transformers import LlamaForCausalLM

from tutelage.align import logit_indices
from tutelage.cache import cache_digest, verify_cache
from tutelage.cache.layout import PAYLOAD, column_folder, shard_folders
from tutelage.cache.sequences import Answer, SequencesColumn
from tutelage.errors import AlignmentError, CacheError, DataError, DiskError, ModelError, PreemptedError
from tutelage.models.chat import Stops
from tutelage.models.generate import Decoding
from tutelage.store import crash
from tutelage.teacher.sequences import (
    PROMPT_POSITION,
    SequenceReport,
    decoding_of,
    generate_sequences,
    prompt_row,
    read_sequences,
    row_of_prompt,
    sequence_rows,
    sequences_column,
    teacher_rows,
)
from tutelage.types import TeacherRow, row_key


def run(model: LlamaForCausalLM, rows: list[TeacherRow], root: Path, **options: object) -> SequenceReport:
    settings = {"column": GREEDY, "shard_rows": 7, "token_budget": 60, **options}
    return generate_sequences(model, TOKENIZER, rows, root=root, fingerprint=FINGERPRINT, **settings)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("column", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_what_is_stored_is_what_each_prompt_gets_alone(
    tmp_path: Path, teacher_model: LlamaForCausalLM, column: SequencesColumn
) -> None:
    rows = prompts(20)
    calls: list[tuple[int, int, float]] = []
    report = run(teacher_model, rows, tmp_path, column=column, progress=lambda *call: calls.append(call))
    found = read_sequences(tmp_path, FINGERPRINT, column, rows)
    assert plain(found) == plain([alone(teacher_model, row, column) for row in rows])
    assert (report.num_prompts, report.computed, report.reused) == (20, 20, 0)
    assert report.num_tokens == sum(len(each.ids) for samples in found for each in samples)
    assert report.tokens_per_second > 0
    assert report.bytes > 0
    assert calls[-1][:2] == (20, 20)
    assert [call[0] for call in calls] == sorted(call[0] for call in calls)
    assert verify_cache(tmp_path, FINGERPRINT) == []


def test_a_second_run_generates_nothing_and_changes_nothing(tmp_path: Path, teacher_model: LlamaForCausalLM) -> None:
    rows = prompts(20)
    first = run(teacher_model, rows, tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"}
    second = run(teacher_model, rows[::-1], tmp_path)
    assert (second.computed, second.reused, second.num_tokens, second.tokens_per_second) == (0, 20, 0, 0.0)
    assert second.digest == first.digest
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_only_new_prompts_are_answered_and_equal_ones_once(tmp_path: Path, teacher_model: LlamaForCausalLM) -> None:
    rows = prompts(20)
    run(teacher_model, rows[:12], tmp_path)
    report = run(teacher_model, [*rows, *rows[:3]], tmp_path)
    assert (report.num_prompts, report.computed, report.reused) == (20, 8, 12)
    assert run(teacher_model, rows, tmp_path, shard_rows=3).computed == 0


@pytest.mark.parametrize("column", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_the_digest_does_not_depend_on_order_folder_batches_and_shards(
    tmp_path: Path, teacher_model: LlamaForCausalLM, column: SequencesColumn
) -> None:
    rows = prompts(20)
    digests = {
        run(teacher_model, rows, tmp_path / "a", column=column).digest,
        run(teacher_model, rows[::-1], tmp_path / "b", column=column, token_budget=1000).digest,
        run(teacher_model, rows, tmp_path / "c", column=column, token_budget=1, shard_rows=3).digest,
    }
    assert len(digests) == 1
    assert run(tiny_llama(seed=1), rows, tmp_path / "d", column=column).digest not in digests


def test_other_settings_are_another_column(tmp_path: Path, teacher_model: LlamaForCausalLM) -> None:
    rows = prompts(5)
    run(teacher_model, rows, tmp_path)
    longer = SequencesColumn(VOCAB_SIZE, max_new_tokens=7, stop_ids=(END,))
    with pytest.raises(CacheError, match="holds 0 rows"):
        read_sequences(tmp_path, FINGERPRINT, longer, rows)
    assert run(teacher_model, rows, tmp_path, column=longer).computed == 5
    assert len(shard_folders(column_folder(tmp_path, FINGERPRINT, GREEDY))) == 1


def test_a_damaged_shard_alone_is_made_anew_with_the_same_digest(
    tmp_path: Path, teacher_model: LlamaForCausalLM
) -> None:
    rows = prompts(20)
    first = run(teacher_model, rows, tmp_path)
    shard = shard_folders(column_folder(tmp_path, FINGERPRINT, GREEDY))[1]
    content = bytearray((shard / PAYLOAD).read_bytes())
    content[len(content) // 2] ^= 16
    (shard / PAYLOAD).write_bytes(content)
    second = run(teacher_model, rows, tmp_path)
    assert second.repaired == (str(shard.relative_to(tmp_path)),)
    assert 0 < second.computed <= 7
    assert second.digest == first.digest


def test_a_stop_between_shards_keeps_what_was_committed(tmp_path: Path, teacher_model: LlamaForCausalLM) -> None:
    rows = prompts(20)
    answers = iter([False, True])
    with pytest.raises(PreemptedError, match="shard 2 of 3"):
        run(teacher_model, rows, tmp_path, should_stop=lambda: next(answers))
    assert run(teacher_model, rows, tmp_path).computed == 13


def test_two_processes_fill_one_cache_together(tmp_path: Path, teacher_model: LlamaForCausalLM) -> None:
    rows = prompts(40)
    expected = run(teacher_model, rows, tmp_path / "alone", shard_rows=4)
    started = tmp_path / "started"
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)
            run(
                teacher_model,
                rows,
                tmp_path / "shared",
                shard_rows=4,
                progress=lambda *_: (started.touch(), time.sleep(0.05)),
            )
        finally:
            os._exit(0)
    while not started.exists():
        time.sleep(0.01)
    report = run(teacher_model, rows, tmp_path / "shared", shard_rows=4)
    os.waitpid(child, 0)
    assert 0 < report.computed < 40
    assert report.digest == expected.digest
    digests = {cache_digest(tmp_path / name, FINGERPRINT, GREEDY) for name in ("alone", "shared")}
    assert len(digests) == 1


def test_a_disk_too_small_is_refused_before_any_work(
    tmp_path: Path, teacher_model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, needed_bytes: int) -> None:
        raise DiskError(f"needs {needed_bytes}")

    monkeypatch.setattr(importlib.import_module("tutelage.teacher.sequences"), "require_free_space", refuse)
    with pytest.raises(DiskError, match=r"needs [1-9]"):
        run(teacher_model, prompts(3), tmp_path)
    assert not list(tmp_path.rglob(PAYLOAD))


def test_a_prompt_without_ids_and_foreign_ids_are_refused(tmp_path: Path, teacher_model: LlamaForCausalLM) -> None:
    with pytest.raises(AlignmentError, match="logit positions"):
        run(teacher_model, [row_of_prompt(np.array([]))], tmp_path)
    with pytest.raises(AlignmentError, match="token id 97"):
        run(teacher_model, [row_of_prompt(np.array([97]))], tmp_path)


ROWS = prompts(12)


def run_and_die(model: LlamaForCausalLM, root: Path, passage: str) -> bool:
    """Run in a fork; say whether SIGKILL ended it."""
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)
            os.environ["TUTELAGE_CRASH_POINT"] = passage
            crash._passages.clear()
            run(model, ROWS, root, shard_rows=6)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def passages_of(model: LlamaForCausalLM, folder: Path) -> list[str]:
    """Every passage of a crash point in one undisturbed run, as ``NAME:COUNT``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUTELAGE_CRASH_TRACE", str(folder / "trace"))
        run(model, ROWS, folder, shard_rows=6)
    counts: Counter[str] = Counter()
    named = []
    for name in (folder / "trace").read_text().splitlines():
        counts[name] += 1
        named.append(f"{name}:{counts[name]}")
    return named


def test_killed_at_every_point_the_next_run_ends_with_the_same_digest(
    tmp_path: Path, teacher_model: LlamaForCausalLM
) -> None:
    (tmp_path / "whole").mkdir()
    passages = passages_of(teacher_model, tmp_path / "whole")
    assert sum("cache.shard.before_payload" in passage for passage in passages) == 2
    expected = cache_digest(tmp_path / "whole", FINGERPRINT, GREEDY)
    for number, passage in enumerate(passages):
        root = tmp_path / str(number)
        assert run_and_die(teacher_model, root, passage), passage
        report = run(teacher_model, ROWS, root, shard_rows=6)
        assert report.computed in (0, 6, 12), passage
        assert report.repaired == ()
        assert cache_digest(root, FINGERPRINT, GREEDY) == expected, passage
        assert verify_cache(root, FINGERPRINT) == [], passage
        assert not list(root.rglob("*.tmp.*")), passage


def test_a_column_carries_the_settings_of_its_decoding(teacher_model: LlamaForCausalLM) -> None:
    for decoding in (
        Decoding(Stops((END,), ("w3",)), max_new_tokens=9),
        Decoding(Stops(()), do_sample=True, temperature=0.5, top_p=0.9, num_samples=4, seed=8),
    ):
        column = sequences_column(teacher_model, decoding, tokenizer=word_tokenizer(template=TEMPLATE))
        assert decoding_of(column) == decoding
        assert column.vocab_size == VOCAB_SIZE
        assert column.template != "raw"
    raw = sequences_column(teacher_model, decoding, tokenizer=None)
    assert raw.template == "raw"
    assert raw.name != column.name


def test_words_are_wrapped_where_there_is_a_template_and_raw_switches_it_off() -> None:
    chat = word_tokenizer(template=TEMPLATE)
    wrapped, bare = [1, 7, 8, 96, 2], [7, 8]
    messages = [{"role": "user", "content": "w7 w8"}]
    assert prompt_row(chat, "w7 w8").ids.tolist() == wrapped
    assert prompt_row(chat, messages).ids.tolist() == wrapped
    assert prompt_row(chat, "w7 w8", template="raw").ids.tolist() == bare
    assert prompt_row(TOKENIZER, "w7 w8").ids.tolist() == bare
    assert prompt_row(TOKENIZER, "w7 w8").key == row_key(np.array(bare))
    for prompt, template in (("w7 w8", "chat"), (messages, "auto")):
        with pytest.raises(ModelError, match="no chat template"):
            prompt_row(TOKENIZER, prompt, template=template)


def answer(ids: list[int], finish: str = "stop") -> Answer:
    return Answer(np.array(ids, dtype=np.int32), "", finish)  # type: ignore[arg-type]


def test_an_answer_becomes_a_row_whose_targets_are_the_answer_and_its_end() -> None:
    prompt = row_of_prompt(np.array([5, 6]))
    cases = [
        (answer([7, 8, END]), [5, 6, 7, 8, END], 3),
        (answer([7, 8]), [5, 6, 7, 8, END], 3),  # a stop string ended it: the end token is what it lacks
        (answer([]), [5, 6, END], 1),
        (answer([7, 8, 9], "length"), [5, 6, 7, 8, 9], 3),  # it has not ended
    ]
    for case, ids, num_targets in cases:
        (row,) = sequence_rows([prompt], [[case]], column=GREEDY, item_keys=["a"], end_of_turn_id=END)
        assert row.ids.tolist() == ids
        assert row.ids.dtype == np.int32
        assert row.target_mask.tolist() == [False, False] + [True] * num_targets
        assert (row.item_key, row.teacher_key) == ("a", row_key(row.ids))
        (as_teacher,) = teacher_rows([row])
        assert as_teacher.key == row.teacher_key != prompt.key
        assert as_teacher.positions.tolist() == list(range(1, 1 + num_targets))
        assert as_teacher.positions.tolist() == logit_indices(row.target_mask).tolist()


def test_several_samples_become_several_rows_with_their_own_names() -> None:
    answers = [[answer([7, END]), answer([8, END])], [answer([9, END]), answer([9, END])]]
    rows = sequence_rows(prompts(2), answers, column=SAMPLED, item_keys=["a", "b"], end_of_turn_id=END)
    assert [row.item_key for row in rows] == ["a#0", "a#1", "b#0", "b#1"]
    assert [row.ids.tolist()[-2] for row in rows] == [7, 8, 9, 9]
    with pytest.raises(ValueError, match="zip"):
        sequence_rows(prompts(2), answers, column=SAMPLED, item_keys=["a"], end_of_turn_id=END)


def test_the_stored_position_is_the_first_of_the_prompt() -> None:
    row = TeacherRow(np.arange(4, dtype=np.int32), np.array([2, 3]))
    assert GREEDY.positions_of(row).tolist() == PROMPT_POSITION.tolist() == [0]


@pytest.mark.real_model
@pytest.mark.timeout(1200)  # the first run downloads and converts
def test_the_sample_teacher_ends_its_answers_and_without_its_end_token_is_refused(tmp_path: Path) -> None:
    from tutelage.data import load_records
    from tutelage.models.chat import find_stops, turn_markers
    from tutelage.models.device import choose_dtype
    from tutelage.models.load import load_model, load_tokenizer
    from tutelage.models.source import resolve_model
    from tutelage.teacher.sequence_quality import measure_quality, require_quality

    source = resolve_model("sample:smollm2-135m-instruct", base_folder=tmp_path)
    tokenizer, device = load_tokenizer(source), torch.device("cpu")
    model = load_model(source, dtype=choose_dtype("auto", device), device=device)
    records = load_records("sample:movie-reviews").splits["train"][:32]
    question = "Is this movie review positive or negative? Answer with one word.\n\n"
    rows = [prompt_row(tokenizer, question + record.values["text"]) for record in records]
    golds = [[record.values["label"]] for record in records]
    stops = find_stops(tokenizer, model, chat=True)
    assert tokenizer.convert_ids_to_tokens(list(stops.ids)) == ["<|im_end|>"]

    def quality_with(stops: Stops):
        column = sequences_column(model, Decoding(stops, max_new_tokens=32), tokenizer=tokenizer)
        report = generate_sequences(model, tokenizer, rows, column=column, root=tmp_path, fingerprint=FINGERPRINT)
        found = read_sequences(tmp_path, FINGERPRINT, column, rows)
        quality = measure_quality(found, markers=turn_markers(tokenizer), golds=golds, labels=["negative", "positive"])
        print(f"{quality.summary}; {report.tokens_per_second:.0f} tokens/s")
        return quality

    ended = quality_with(stops)
    assert ended.num_leaked == ended.num_empty == 0
    assert ended.num_truncated <= 8  # one word is asked for, but some answers are long sentences
    assert ended.accuracy is not None
    assert ended.accuracy > 0.7
    endless = quality_with(Stops(()))
    assert endless.num_truncated == 32
    assert endless.num_leaked >= 16
    with pytest.raises(DataError, match=r"run on into a next turn .*<\|im_start\|>.* are cut at the token limit"):
        require_quality(endless)
