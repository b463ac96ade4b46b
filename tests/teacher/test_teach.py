"""The teach stage computes what is missing, once, and says what it cost."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_teacher import FINGERPRINT, VOCAB_SIZE, batch_of, dense_logprobs, teacher_rows, tiny_llama
from transformers import LlamaForCausalLM

from tutelage.cache import (
    CacheReader,
    ClassScoresColumn,
    FinalHiddenColumn,
    HiddenColumn,
    PooledColumn,
    SampledColumn,
    TopKColumn,
    verify_cache,
)
from tutelage.cache.column import Column
from tutelage.cache.layout import PAYLOAD, column_folder, shard_folders
from tutelage.errors import AlignmentError, DiskError, NumericsError, PreemptedError
from tutelage.store import MANIFEST, folder_lock, read_manifest
from tutelage.teacher import CachedTeacher, TeachReport, teach
from tutelage.types import TeacherRow

HIDDEN = FinalHiddenColumn(32, "fp32")
TOPK = TopKColumn(8, (1, 2), VOCAB_SIZE)


def run(model: torch.nn.Module, rows: list[TeacherRow], root: Path, **options: object) -> TeachReport:
    settings = {"columns": [HIDDEN, TOPK], "shard_rows": 7, "token_budget": 60, **options}
    return teach(model, rows, root=root, fingerprint=FINGERPRINT, **settings)  # pyright: ignore[reportArgumentType]


def test_the_report_counts_rows_positions_tokens_and_bytes(tmp_path: Path, teacher_model: LlamaForCausalLM) -> None:
    rows = teacher_rows(20)
    calls: list[tuple[int, int, float]] = []
    report = run(teacher_model, rows, tmp_path, progress=lambda *call: calls.append(call))
    assert (report.num_rows, report.computed, report.reused) == (20, 20, 0)
    assert report.num_positions == sum(len(row.positions) for row in rows)
    assert report.tokens_per_second > 0
    assert calls[-1][:2] == (20, 20)
    assert [call[0] for call in calls] == sorted(call[0] for call in calls)
    parts = report.bytes_per_position
    assert parts[HIDDEN.name]["values"] == 128
    assert report.bytes == round(sum(sum(part.values()) for part in parts.values()) * report.num_positions)
    assert set(report.covered_mass) == {TOPK.name}
    assert 0 < report.covered_mass[TOPK.name][2.0] < report.covered_mass[TOPK.name][1.0] <= 1
    assert set(report.digests) == {HIDDEN.name, TOPK.name}
    assert verify_cache(tmp_path, FINGERPRINT) == []


def test_a_second_run_computes_nothing_and_changes_nothing(tmp_path: Path, teacher_model: LlamaForCausalLM) -> None:
    rows = teacher_rows(20)
    first = run(teacher_model, rows, tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"}
    second = run(teacher_model, rows[::-1], tmp_path)
    assert (second.computed, second.reused, second.tokens_per_second) == (0, 20, 0.0)
    assert second.digests == first.digests
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_the_digest_is_the_same_in_another_folder_and_order(tmp_path: Path, teacher_model: LlamaForCausalLM) -> None:
    rows = teacher_rows(20)
    first = run(teacher_model, rows, tmp_path / "a", provenance={"host": "a"})
    second = run(teacher_model, rows[::-1], tmp_path / "b", provenance={"host": "b"})
    assert first.digests == second.digests


def test_the_digest_ignores_rows_of_other_runs_and_the_cut_into_shards(
    tmp_path: Path, teacher_model: LlamaForCausalLM
) -> None:
    rows, others = teacher_rows(14), teacher_rows(9, seed=1)
    # one row per forward pass: batch shapes would move the bits
    alone = run(teacher_model, rows, tmp_path / "alone", token_budget=1).digests
    run(teacher_model, others, tmp_path / "shared", token_budget=1)
    assert run(teacher_model, rows, tmp_path / "shared", token_budget=1).digests == alone
    assert run(teacher_model, rows, tmp_path / "cut", token_budget=1, shard_rows=3).digests == alone
    assert run(teacher_model, rows[:-1], tmp_path / "alone", token_budget=1).digests != alone
    assert run(tiny_llama(seed=1), rows, tmp_path / "other", token_budget=1).digests != alone


def test_only_new_rows_go_through_the_teacher(tmp_path: Path, teacher_model: LlamaForCausalLM) -> None:
    rows = teacher_rows(20)
    run(teacher_model, rows[:12], tmp_path)
    report = run(teacher_model, rows, tmp_path)
    assert (report.computed, report.reused) == (8, 12)
    batch = batch_of(rows)
    signal = CachedTeacher(tmp_path, FINGERPRINT, HIDDEN).signal(batch)
    found_NV = signal.head.logits(signal.hidden_NE).double().log_softmax(dim=1)
    assert torch.allclose(found_NV, dense_logprobs(teacher_model, rows), rtol=0, atol=3e-5)
    assert run(teacher_model, rows, tmp_path).computed == 0
    assert run(teacher_model, rows, tmp_path, shard_rows=3).computed == 0


def test_covered_positions_are_reused_and_new_ones_computed(tmp_path: Path, teacher_model: LlamaForCausalLM) -> None:
    rows = [TeacherRow(row.ids, np.array([0, 2])) for row in teacher_rows(6)]
    run(teacher_model, rows, tmp_path)
    assert run(teacher_model, [TeacherRow(row.ids, np.array([2])) for row in rows], tmp_path).computed == 0
    more = [TeacherRow(row.ids, np.array([1, 2])) for row in rows[:2]]
    assert run(teacher_model, more, tmp_path).computed == 2
    CachedTeacher(tmp_path, FINGERPRINT, HIDDEN).signal(batch_of(more))
    CachedTeacher(tmp_path, FINGERPRINT, HIDDEN).signal(batch_of(rows))


def test_a_new_column_is_computed_beside_the_old_ones(tmp_path: Path, teacher_model: LlamaForCausalLM) -> None:
    rows = teacher_rows(10)
    before = run(teacher_model, rows, tmp_path, columns=[HIDDEN]).digests
    report = run(teacher_model, rows, tmp_path, columns=[HIDDEN, TOPK])
    assert report.computed == 10
    assert report.digests[HIDDEN.name] == before[HIDDEN.name]
    together = run(teacher_model, rows, tmp_path / "together", columns=[HIDDEN, TOPK])
    assert together.digests == report.digests


def test_a_smaller_k_is_not_computed_when_a_larger_one_is_stored(
    tmp_path: Path, teacher_model: LlamaForCausalLM
) -> None:
    rows = teacher_rows(10)
    run(teacher_model, rows[:6], tmp_path, columns=[TOPK])
    small = TopKColumn(3, (2,), VOCAB_SIZE)
    assert run(teacher_model, rows[:6], tmp_path, columns=[small]).computed == 0
    assert run(teacher_model, rows, tmp_path, columns=[small]).computed == 4
    keys, positions = [row.key for row in rows], [row.positions for row in rows]
    found = CacheReader(tmp_path, FINGERPRINT, small).read(keys, positions)
    expected_NV = dense_logprobs(teacher_model, rows)
    assert found["ids_NK"].equal(expected_NV.topk(3, dim=1).indices)


def test_of_two_wanted_columns_the_one_that_the_other_serves_is_not_stored(
    tmp_path: Path, teacher_model: LlamaForCausalLM
) -> None:
    rows = teacher_rows(4)
    small, twin = TopKColumn(6, (1,), VOCAB_SIZE), TopKColumn(8, (2,), VOCAB_SIZE)
    for columns in ([small, TOPK, twin], [TOPK, small]):
        assert set(run(teacher_model, rows, tmp_path, columns=columns).digests) == {TOPK.name}
    assert CachedTeacher(tmp_path, FINGERPRINT, small).signal(batch_of(rows)).ids_NK.shape[1] == 6


def test_class_token_ids_add_class_scores_at_the_first_position(
    tmp_path: Path, teacher_model: LlamaForCausalLM
) -> None:
    rows = teacher_rows(10)
    report = run(teacher_model, rows, tmp_path, columns=[HIDDEN], class_token_ids=[4, 5])
    column = ClassScoresColumn((4, 5))
    assert set(report.digests) == {HIDDEN.name, column.name}
    reader = CacheReader(tmp_path, FINGERPRINT, column)
    found = reader.read([row.key for row in rows], [row.positions[:1] for row in rows])
    first = [TeacherRow(row.ids, row.positions[:1]) for row in rows]
    expected_NV = dense_logprobs(teacher_model, first)
    assert torch.allclose(found["scores_NC"].double(), expected_NV[:, [4, 5]], rtol=0, atol=3e-5)


def test_equal_rows_are_computed_once_with_their_positions_united(
    tmp_path: Path, teacher_model: LlamaForCausalLM
) -> None:
    ids = np.arange(9, dtype=np.int32)
    twins = [TeacherRow(ids, np.array([1, 4])), TeacherRow(ids, np.array([4, 6])), TeacherRow(ids, np.array([4, 6]))]
    report = run(teacher_model, twins, tmp_path, columns=[HIDDEN], class_token_ids=[1, 2])
    assert (report.num_rows, report.computed, report.num_positions) == (1, 1, 3)
    for column in (HIDDEN, ClassScoresColumn((1, 2))):
        for row in twins:
            CachedTeacher(tmp_path, FINGERPRINT, column).signal(batch_of([row]))


def test_rows_without_positions_and_no_rows_at_all_are_fine(tmp_path: Path, teacher_model: LlamaForCausalLM) -> None:
    empty = TeacherRow(np.arange(5, dtype=np.int32), np.array([], dtype=np.int64))
    assert run(teacher_model, [*teacher_rows(3), empty], tmp_path).num_rows == 3
    assert run(teacher_model, [], tmp_path / "none").num_rows == 0


def test_a_row_longer_than_the_budget_and_the_last_position_are_read(
    tmp_path: Path, teacher_model: LlamaForCausalLM
) -> None:
    rows = [TeacherRow(np.arange(40, dtype=np.int32), np.array([0, 39])), *teacher_rows(2)]
    run(teacher_model, rows, tmp_path, token_budget=16)
    found = CacheReader(tmp_path, FINGERPRINT, TOPK).read([row.key for row in rows], [row.positions for row in rows])
    assert found["ids_NK"].equal(dense_logprobs(teacher_model, rows).topk(8, dim=1).indices)


@pytest.mark.parametrize("name", [PAYLOAD, "index.npy", MANIFEST])
def test_a_damaged_shard_alone_is_made_anew_with_the_same_digest(
    tmp_path: Path, teacher_model: LlamaForCausalLM, name: str
) -> None:
    rows = teacher_rows(20)
    first = run(teacher_model, rows, tmp_path)
    shards = shard_folders(column_folder(tmp_path, FINGERPRINT, HIDDEN))
    content = bytearray((shards[1] / name).read_bytes())
    content[len(content) // 2] ^= 16
    (shards[1] / name).write_bytes(content)
    assert verify_cache(tmp_path, FINGERPRINT) == [shards[1]]
    second = run(teacher_model, rows, tmp_path)
    assert second.repaired == (str(shards[1].relative_to(tmp_path)),)
    assert 0 < second.computed <= 7
    assert second.digests == first.digests
    assert verify_cache(tmp_path, FINGERPRINT) == []


def test_a_damaged_head_is_made_anew(tmp_path: Path, teacher_model: LlamaForCausalLM) -> None:
    rows = teacher_rows(3)
    run(teacher_model, rows, tmp_path)
    (tmp_path / FINGERPRINT / "head" / "head.json").write_text("{}")
    run(teacher_model, rows, tmp_path)
    CachedTeacher(tmp_path, FINGERPRINT, HIDDEN)


def test_a_stop_between_shards_keeps_what_was_committed(tmp_path: Path, teacher_model: LlamaForCausalLM) -> None:
    rows = teacher_rows(20)
    whole = run(teacher_model, rows, tmp_path / "whole")
    answers = iter([False, True])
    with pytest.raises(PreemptedError, match="shard 2 of 3") as caught:
        run(teacher_model, rows, tmp_path, should_stop=lambda: next(answers))
    assert caught.value.exit_code == 75
    assert len(shard_folders(column_folder(tmp_path, FINGERPRINT, TOPK))) == 1
    report = run(teacher_model, rows, tmp_path, should_stop=lambda: False)
    assert report.computed == 13
    assert report.digests == whole.digests


def test_provenance_and_fingerprint_are_in_every_manifest(tmp_path: Path, teacher_model: LlamaForCausalLM) -> None:
    run(teacher_model, teacher_rows(9), tmp_path, provenance={"teacher": "tiny", "licences": ["MIT"]})
    manifests = [read_manifest(path.parent) for path in tmp_path.rglob(MANIFEST)]
    assert len(manifests) == 5  # two shards in each of two columns, and the head
    expected = {"teacher": "tiny", "licences": ["MIT"], "fingerprint": FINGERPRINT}
    assert all(manifest is not None and manifest.fields["provenance"] == expected for manifest in manifests)


def test_foreign_ids_and_impossible_positions_are_refused(tmp_path: Path, teacher_model: LlamaForCausalLM) -> None:
    ids = np.arange(5, dtype=np.int32)
    for positions in ([5], [-1], [2, 1], [1, 1]):
        with pytest.raises(AlignmentError, match="logit positions"):
            run(teacher_model, [TeacherRow(ids, np.array(positions))], tmp_path)
    with pytest.raises(AlignmentError, match="token id 97"):
        run(teacher_model, [TeacherRow(np.array([1, 97], np.int32), np.array([0]))], tmp_path)
    with pytest.raises(AlignmentError, match="its ids give"):
        run(teacher_model, [TeacherRow(ids[:n], np.array([0]), b"k" * 16) for n in (3, 4)], tmp_path)


def test_a_teacher_that_says_nan_is_refused_and_nothing_is_stored(tmp_path: Path) -> None:
    model = tiny_llama()
    with torch.no_grad():
        model.lm_head.weight[3, 5] = float("nan")
        with pytest.raises(NumericsError, match="topk signal is refused"):
            run(model, teacher_rows(4), tmp_path, columns=[TOPK])
        model.model.norm.weight[3] = float("inf")
        with pytest.raises(NumericsError, match="final_hidden signal is refused"):
            run(model, teacher_rows(4), tmp_path, columns=[HIDDEN])
    assert not list(tmp_path.rglob(PAYLOAD))


def test_a_disk_too_small_for_the_forecast_is_refused_before_any_work(
    tmp_path: Path, teacher_model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed: list[int] = []

    def refuse(path: Path, needed_bytes: int) -> None:
        needed.append(needed_bytes)
        raise DiskError("too small")

    monkeypatch.setattr(importlib.import_module("tutelage.teacher.teach"), "require_free_space", refuse)
    with pytest.raises(DiskError, match="too small"):
        run(teacher_model, teacher_rows(20), tmp_path)
    assert not list(tmp_path.rglob(MANIFEST))
    monkeypatch.undo()
    report = run(teacher_model, teacher_rows(20), tmp_path)
    written = report.bytes + VOCAB_SIZE * 32 * 4
    assert written <= needed[0] <= 2 * written + 40_000


SAMPLED = SampledColumn(6, 1.0, 0, VOCAB_SIZE)
STATES = HiddenColumn(1, 32, "fp32", 0.25)
POOLED = PooledColumn(2, 32, "fp32")


class CountingTeacher:
    """Counts the rows that go through a model."""

    def __init__(self, model: LlamaForCausalLM, patch: pytest.MonkeyPatch) -> None:
        self.num_rows = 0
        decoder, forward = model.get_decoder(), model.get_decoder().forward

        def counting(*args: object, **kwargs: Any) -> object:
            self.num_rows += len(kwargs["input_ids"])
            return forward(*args, **kwargs)

        patch.setattr(decoder, "forward", counting)


@pytest.mark.parametrize(
    "column", [SAMPLED, POOLED, TopKColumn(8, (4,), VOCAB_SIZE), TopKColumn(12, (1, 2), VOCAB_SIZE)]
)
def test_a_new_signal_temperature_or_larger_k_leaves_what_is_stored_alone(
    tmp_path: Path, teacher_model: LlamaForCausalLM, column: Column
) -> None:
    rows = teacher_rows(10)
    before = run(teacher_model, rows, tmp_path).digests
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.bin")}
    report = run(teacher_model, rows, tmp_path, columns=[HIDDEN, TOPK, column])
    assert report.computed == 10
    # of a column that the new one serves nothing more is written
    assert all(report.digests.get(name, digest) == digest for name, digest in before.items())
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert run(teacher_model, rows, tmp_path, columns=[HIDDEN, TOPK, column]).computed == 0
    together = run(teacher_model, rows, tmp_path / "together", columns=[HIDDEN, TOPK, column])
    assert together.digests == report.digests


def test_a_second_temperature_of_samples_is_a_column_of_its_own(
    tmp_path: Path, teacher_model: LlamaForCausalLM
) -> None:
    rows = teacher_rows(10)
    first = run(teacher_model, rows, tmp_path, columns=[SAMPLED])
    hot = SampledColumn(6, 2.0, 0, VOCAB_SIZE)
    both = run(teacher_model, rows, tmp_path, columns=[SAMPLED, hot])
    assert both.computed == 10
    assert both.digests[SAMPLED.name] == first.digests[SAMPLED.name]
    assert run(teacher_model, rows, tmp_path, columns=[hot]).computed == 0


def test_a_limited_run_later_extended_to_the_full_set_recomputes_nothing(
    tmp_path: Path, teacher_model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, columns = teacher_rows(20), [HIDDEN, TOPK, SAMPLED, STATES, POOLED]
    run(teacher_model, rows[:9], tmp_path, columns=columns)
    payloads = {path: path.read_bytes() for path in tmp_path.rglob(PAYLOAD)}
    counting = CountingTeacher(teacher_model, monkeypatch)
    report = run(teacher_model, rows, tmp_path, columns=columns)
    probes = 2  # the rows of the proof that layers are numbered right, of this call and the next
    assert (report.computed, report.reused, counting.num_rows) == (11, 9, 11 + probes // 2)
    assert {path: path.read_bytes() for path in payloads} == payloads
    assert run(teacher_model, rows, tmp_path, columns=columns).computed == 0
    assert counting.num_rows == 11 + probes
    for column in columns:
        reader = CacheReader(tmp_path, FINGERPRINT, column)
        reader.read([row.key for row in rows], [column.positions_of(row) for row in rows])


def test_new_positions_of_a_row_do_not_touch_its_hidden_states(tmp_path: Path, teacher_model: LlamaForCausalLM) -> None:
    rows = [TeacherRow(row.ids, np.array([0])) for row in teacher_rows(6)]
    run(teacher_model, rows, tmp_path, columns=[TOPK, STATES, POOLED])
    wider = [TeacherRow(row.ids, np.array([0, 1])) for row in rows]
    run(teacher_model, wider, tmp_path, columns=[TOPK, STATES, POOLED])
    assert len(shard_folders(column_folder(tmp_path, FINGERPRINT, TOPK))) == 2
    assert len(shard_folders(column_folder(tmp_path, FINGERPRINT, STATES))) == 1
    assert len(shard_folders(column_folder(tmp_path, FINGERPRINT, POOLED))) == 1


def test_a_larger_share_of_tokens_serves_a_smaller_one(tmp_path: Path, teacher_model: LlamaForCausalLM) -> None:
    rows = teacher_rows(6)
    run(teacher_model, rows, tmp_path, columns=[HiddenColumn(1, 32, "fp32", 0.6)])
    assert run(teacher_model, rows, tmp_path, columns=[STATES]).computed == 0
    signal = CachedTeacher(tmp_path, FINGERPRINT, STATES).signal(batch_of(rows))
    assert [len(tokens) for tokens in signal.tokens] == [max(1, round(len(row.ids) / 4)) for row in rows]
    assert run(teacher_model, rows, tmp_path, columns=[HiddenColumn(1, 32, "fp32", 0.6, 1)]).computed == 6


def test_the_forecast_holds_for_every_kind_of_signal(
    tmp_path: Path, teacher_model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed: list[int] = []
    monkeypatch.setattr(
        importlib.import_module("tutelage.teacher.teach"), "require_free_space", lambda path, size: needed.append(size)
    )
    report = run(teacher_model, teacher_rows(20), tmp_path, columns=[TOPK, SAMPLED, STATES, POOLED])
    assert report.bytes <= needed[0] <= 2 * report.bytes + 60_000


def test_a_second_process_waits_while_the_first_plans_and_can_be_stopped_then(
    tmp_path: Path, teacher_model: LlamaForCausalLM
) -> None:
    asked = iter([False, True])
    with folder_lock(tmp_path / FINGERPRINT / ".claims" / "planning"), pytest.raises(PreemptedError, match="waiting"):
        run(teacher_model, teacher_rows(3), tmp_path, should_stop=lambda: next(asked))
    assert not list(tmp_path.rglob(PAYLOAD))
    assert verify_cache(tmp_path, FINGERPRINT) == []
    assert run(teacher_model, teacher_rows(3), tmp_path).computed == 3
