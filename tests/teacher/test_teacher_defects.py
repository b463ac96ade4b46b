"""Defects of other teach stages, put back into ours one at a time: each is caught."""

import contextlib
import importlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from signal_bounds import assert_same_record, measure_noise
from taught_cache import HIDDEN, ROWS, SAMPLED, TOPK, read, run
from tiny_sequences import TOKENIZER, prompts
from tiny_teacher import FINGERPRINT, VOCAB_SIZE, batch_of, dense_logprobs, tiny_llama

from tutelage.cache import (
    CacheReader,
    ClassScoresColumn,
    HiddenColumn,
    PooledColumn,
    TopKColumn,
)
from tutelage.cache import hidden as hidden_module
from tutelage.cache import write as write_module
from tutelage.cache.column import TensorDict
from tutelage.cache.layout import column_folder, shard_name
from tutelage.cache.sequences import Answer, SequencesColumn
from tutelage.errors import AlignmentError, CacheError, DataError, ModelError, NumericsError
from tutelage.models import fingerprint as fingerprint_module
from tutelage.models import taps
from tutelage.models.chat import Stops
from tutelage.models.generate import Decoding, generate_batch
from tutelage.models.head import find_head
from tutelage.models.taps import StateGrid
from tutelage.teacher import CachedTeacher, LiveTeacher, cached, measure, passes, sequence_quality
from tutelage.teacher import logits as logits_module
from tutelage.teacher import plan as plan_module
from tutelage.teacher import sequences as sequences_module
from tutelage.teacher.claims import Claims
from tutelage.teacher.logits import LogitTile
from tutelage.teacher.plan import ShardJob
from tutelage.teacher.sequences import generate_sequences, read_sequences
from tutelage.types import Batch, FinalHidden, HiddenStates, Pooled, TeacherRow

teach_module = importlib.import_module("tutelage.teacher.teach")  # the package's name `teach` is the function

SCORES = ClassScoresColumn((5, 6))
STATES = HiddenColumn(1, 32, "fp32", 0.5, 3)
POOLED = PooledColumn(1, 32, "fp32")
EXACT = 5e-5  # float32 logits against float64: 8e-6 is seen here
Patch = pytest.MonkeyPatch
Defect = Callable[[Patch], None]
Check = Callable[[Path], None]


def assert_near(found: torch.Tensor, expected: torch.Tensor, atol: float = EXACT) -> None:
    assert found.shape == expected.shape
    assert torch.allclose(found.double(), expected.double(), rtol=0, atol=atol), (found - expected).abs().max()


# Checks: what must hold, against the model itself. Each passes as the package is.


def check_topk_at_every_temperature(root: Path) -> None:
    run(root, TOPK)
    signal = read(root, TOPK)
    exact_NV = dense_logprobs(tiny_llama(), ROWS)
    for temperature, log_z_N in signal.log_z_N.items():
        found_NK = signal.logprobs_NK / temperature - log_z_N[:, None]
        assert_near(found_NK, (exact_NV / temperature).log_softmax(dim=1).topk(40, dim=1).values)


def check_class_scores(root: Path) -> None:
    run(root, SCORES)
    first = [TeacherRow(row.ids, row.positions[:1]) for row in ROWS]
    assert_near(read(root, SCORES).scores_BC, dense_logprobs(tiny_llama(), first)[:, [5, 6]])


def check_final_hidden(root: Path) -> None:
    run(root, HIDDEN)
    signal = read(root, HIDDEN)
    assert_near(signal.head.logits(signal.hidden_NE).double().log_softmax(dim=1), dense_logprobs(tiny_llama(), ROWS))


def own_states(layer: int) -> list[torch.Tensor]:
    """The model's own hidden states after a layer, of every row alone."""
    model = tiny_llama()
    with torch.no_grad():
        return [
            model(input_ids=torch.tensor(row.ids)[None].long(), output_hidden_states=True).hidden_states[layer][0]
            for row in ROWS
        ]


def check_hidden_states(root: Path) -> None:
    run(root, STATES)
    signal = read(root, STATES)
    assert isinstance(signal, HiddenStates)
    assert [len(tokens) for tokens in signal.tokens] == [max(1, round(len(row.ids) / 2)) for row in ROWS]
    pairs = zip(own_states(1), signal.tokens, strict=True)
    assert_near(signal.hidden_PE, torch.cat([states[torch.from_numpy(tokens)] for states, tokens in pairs]), 1e-3)


def check_pooled(root: Path) -> None:
    run(root, POOLED)
    signal = read(root, POOLED)
    assert isinstance(signal, Pooled)
    assert_near(signal.pooled_BE, torch.stack([states.mean(dim=0) for states in own_states(1)]), 1e-3)


def check_draws(root: Path) -> None:
    run(root, SAMPLED, rows=ROWS[::-1])
    model = tiny_llama()
    live = LiveTeacher(model, column=SAMPLED).signal(batch_of(ROWS))
    assert_same_record(read(root, SAMPLED), live, SAMPLED, ROWS, measure_noise(model, ROWS))


def check_faint_ids_are_drawn(root: Path) -> None:
    weights_nU = torch.full((1, 10_001), 3e-8)
    weights_nU[0, 0] = 1.0
    numbers = torch.linspace(0, 1, 100_001, dtype=torch.float64)[None, :-1]
    share = (measure.draw(weights_nU, numbers) > 0).double().mean()
    assert abs(float(share) - 3e-4) < 2e-5


def check_top_k_is_exact(root: Path) -> None:
    logits_nU = torch.zeros(2, 1024)
    logits_nU[0, [3, 5, 7, 9]] = torch.tensor([4.0, 3.0, 2.0, 1.0])
    logits_nU[1] = torch.randn(1024, generator=torch.Generator().manual_seed(0))
    found_nK = LogitTile(logits_nU, torch.empty_like(logits_nU)).top(3)
    assert torch.equal(found_nK, logits_nU.topk(3, dim=1).indices)


def check_top_k_searches_a_part_of_the_vocabulary(root: Path) -> None:
    searched: list[int] = []
    topk = torch.Tensor.topk

    def noting(logits: torch.Tensor, *args: Any, **options: Any) -> Any:
        searched.append(logits.shape[1])
        return topk(logits, *args, **options)

    with Patch.context() as patch:
        patch.setattr(torch.Tensor, "topk", noting)
        logits_nU = torch.randn(2, 49_152)
        LogitTile(logits_nU, torch.empty_like(logits_nU)).top(50)
    assert max(searched) <= 49_152 // 4


def check_every_row_is_stored(root: Path) -> None:
    run(root, HIDDEN)
    assert len(CacheReader(root, FINGERPRINT, HIDDEN).keys()) == len(ROWS)


def check_a_second_run_computes_nothing(root: Path) -> None:
    run(root, HIDDEN)
    assert run(root, HIDDEN).computed == 0


def check_an_empty_folder_is_filled(root: Path) -> None:
    folder = column_folder(root, FINGERPRINT, HIDDEN)
    (folder / shard_name(sorted(ROWS, key=lambda row: row.key)[:4])).mkdir(parents=True)
    assert run(root, HIDDEN).computed == len(ROWS)


def check_a_failed_write_is_an_error(root: Path) -> None:
    broken = tiny_llama()
    with torch.no_grad():
        broken.model.norm.weight[3] = float("inf")
    require_error(lambda: run(root, HIDDEN, model=broken), NumericsError)


def check_one_shard_is_one_workers(root: Path) -> None:
    first, second = Claims(root, FINGERPRINT), Claims(root, FINGERPRINT)
    claim = first.claim("ab" * 16)
    assert claim is not None
    with claim:
        assert second.claim("ab" * 16) is None


def check_two_teachers_do_not_share_a_cache(root: Path) -> None:
    prints = [fingerprint_module.model_fingerprint(tiny_llama(seed=seed), dtype=torch.float32) for seed in (0, 1)]
    run(root, HIDDEN, fingerprint=prints[0])
    assert run(root, HIDDEN, fingerprint=prints[1], model=tiny_llama(seed=1)).computed == len(ROWS)
    signal = CachedTeacher(root, prints[1], HIDDEN).signal(batch_of(ROWS))
    assert isinstance(signal, FinalHidden)
    found_NV = signal.head.logits(signal.hidden_NE).double().log_softmax(dim=1)
    assert_near(found_NV, dense_logprobs(tiny_llama(seed=1), ROWS))


def check_two_tasks_do_not_share_rows(root: Path) -> None:
    for seed in (0, 1):
        ids = np.random.default_rng(seed).integers(0, VOCAB_SIZE, size=(4, 9)).astype(np.int32)
        rows = [new_row(number, row) for number, row in enumerate(ids)]
        run(root, HIDDEN, rows=rows)
    signal = read(root, HIDDEN, rows)
    found_NV = signal.head.logits(signal.hidden_NE).double().log_softmax(dim=1)
    assert_near(found_NV, dense_logprobs(tiny_llama(), rows))


def new_row(number: int, ids: np.ndarray) -> TeacherRow:
    """How a task makes its rows; a defect replaces it."""
    return TeacherRow(ids, np.array([6, 7]))


ENDLESS = SequencesColumn(VOCAB_SIZE, max_new_tokens=6, stop_ids=())


def check_answers_end(root: Path) -> None:
    """Stop at what the model says third, whatever it is: every answer is then short of the limit."""
    model, rows = tiny_llama(), prompts(12)
    endless = generate_batch(
        model, TOKENIZER, [row.ids for row in rows], decoding=Decoding(Stops(()), max_new_tokens=6)
    )
    begins = {int(answer.ids[0]) for answer in endless}  # no answer is to be empty
    ends = {row.key: int(answer.ids[2]) for row, answer in zip(rows, endless, strict=True)}
    rows = [row for row in rows if ends[row.key] not in begins]
    assert len(rows) > 2
    column = SequencesColumn(VOCAB_SIZE, 6, stop_ids=tuple(sorted({ends[row.key] for row in rows})))
    generate_sequences(model, TOKENIZER, rows, column=column, root=root, fingerprint=FINGERPRINT)
    found = read_sequences(root, FINGERPRINT, column, rows)
    sequence_quality.require_quality(sequence_quality.measure_quality(found))


def check_a_set_that_runs_on_is_refused(root: Path) -> None:
    """The published set: 730 of 2,000 answers go on with an invented "Human" turn."""
    texts = ["Fine.\n\nHuman: And the next?\n\nAssistant: Also"] * 730 + ["Fine."] * 1270
    answers = [[Answer(np.ones(5, dtype=np.int32), text, "stop")] for text in texts]
    quality = sequence_quality.measure_quality(answers, markers=("<|im_start|>user",))
    require_error(lambda: sequence_quality.require_quality(quality), DataError)


def require_error(action: Callable[[], object], kind: type[Exception]) -> None:
    """Say that an action ends with this kind of error."""
    try:
        action()
    except kind:
        return
    raise AssertionError(f"no {kind.__name__}")


# Defects: each puts one back.


def log_softmax_over_the_kept_entries(patch: Patch) -> None:
    """Normalise over the k values at cache time: the tail is lost for ever."""

    def topk(tile: LogitTile, column: TopKColumn, uniforms_nJ: np.ndarray) -> TensorDict:
        found = MEASURE_TOPK(tile, column, uniforms_nJ)
        return {**found, "logprobs_NK": found["logprobs_NK"].log_softmax(dim=1)}

    patch.setitem(measure.MEASURES, TopKColumn, topk)


def temperature_over_the_kept_entries(patch: Patch) -> None:
    """Soften the k values and normalise over them: right ids, wrong temperature."""

    def topk(tile: LogitTile, column: TopKColumn, uniforms_nJ: np.ndarray) -> TensorDict:
        found = MEASURE_TOPK(tile, column, uniforms_nJ)
        log_z = [(found["logprobs_NK"] / t).logsumexp(dim=1) for t in column.stored_temperatures]
        return {**found, "log_z_NT": torch.stack(log_z, dim=1)}

    patch.setitem(measure.MEASURES, TopKColumn, topk)


def log_z_left_out(patch: Patch) -> None:
    """Divide log-probabilities by T and call it softening."""
    patch.setattr(TopKColumn, "log_z", lambda column, log_z_NT: dict.fromkeys(column.temperatures, 0 * log_z_NT[:, 0]))


MEASURE_TOPK = measure.measure_topk


def top_k_of_block_maxima(patch: Patch) -> None:
    """Keep one candidate per block."""

    def top(tile: LogitTile, k: int) -> torch.Tensor:
        ids = tile.logits_nU.unflatten(1, (-1, 64)).argmax(dim=2) + 64 * torch.arange(tile.logits_nU.shape[1] // 64)
        return ids.gather(1, tile.logits_nU.gather(1, ids).topk(k, dim=1).indices)

    patch.setattr(LogitTile, "top", top)


def default_top_k(patch: Patch) -> None:
    """Search the whole vocabulary in one go."""
    patch.setattr(logits_module, "TOP_SHARE", 10**9)


def mask_unshifted_by_one(patch: Patch) -> None:
    """Read the logits at the target itself instead of the position before it."""
    index = passes.flat_index

    def unshifted(places: dict[bytes, torch.Tensor], rows: Sequence[TeacherRow]) -> torch.Tensor:
        return index(places, [TeacherRow(row.ids, row.positions + 1, row.key) for row in rows])

    patch.setattr(passes, "flat_index", unshifted)


def class_scores_over_the_classes(patch: Patch) -> None:
    """Normalise over the labels at cache time."""
    scores = measure.measure_classes

    def over_the_classes(tile: LogitTile, column: ClassScoresColumn, uniforms_nJ: np.ndarray) -> TensorDict:
        return {"scores_NC": scores(tile, column, uniforms_nJ)["scores_NC"].log_softmax(dim=1)}

    patch.setitem(measure.MEASURES, ClassScoresColumn, over_the_classes)


def final_hidden_before_the_final_norm(patch: Patch) -> None:
    """Keep what the last layer gives, which the head never reads."""
    states = passes.read_states

    def unnormed(model: Any, batch: Batch, layers: Sequence[int]) -> StateGrid:
        grid = states(model, batch, [*layers, 2])
        return StateGrid(grid.tapped[2], grid.tapped)

    patch.setattr(passes, "read_states", unnormed)


def hidden_states_read_by_another_head(patch: Patch) -> None:
    """Apply the student's head to the teacher's hidden states."""
    patch.setattr(cached, "read_head", lambda *args, **kwargs: find_head(tiny_llama(seed=7)))


def off_by_one_layer(patch: Patch) -> None:
    """File the output of layer n + 1 under n."""
    tap = taps._tap

    def shifted(stack: torch.nn.ModuleList, layer: int, found: dict[int, torch.Tensor]) -> Any:
        inner: dict[int, torch.Tensor] = {}
        wrong = min(layer + 1, len(stack))
        tap(stack, wrong, inner)
        return stack[-1].register_forward_hook(lambda *_: found.update({layer: inner[wrong]}))

    patch.setattr(taps, "_tap", shifted)


def off_by_one_layer_unproven(patch: Patch) -> None:
    """The same, and nobody compares the numbers with the model's own at load."""
    off_by_one_layer(patch)
    patch.setattr(teach_module, "require_taps", lambda model: None)


def mean_over_padding(patch: Patch) -> None:
    """Pool over the whole grid."""
    states_of = passes.measure_states

    def pooled(
        states: StateGrid, places: dict[bytes, torch.Tensor], column: Any, rows: Sequence[TeacherRow]
    ) -> TensorDict:
        if not isinstance(column, PooledColumn):
            return states_of(states, places, column, rows)
        grid_BTE = states.tapped[column.layer].unflatten(0, (len(places), -1))
        return {"pooled_NE": torch.stack([grid_BTE[list(places).index(row.key)].float().mean(dim=0) for row in rows])}

    patch.setattr(passes, "measure_states", pooled)


def token_subset_ratio_ignored(patch: Patch) -> None:
    """Accept the setting and store every token."""
    patch.setattr(hidden_module, "token_subset", lambda key, length, **_: np.arange(length))


def token_subset_of_a_running_generator(patch: Patch) -> None:
    """Choose tokens by the order in which rows come, instead of by the row."""
    generator = np.random.default_rng(0)

    def running(key: bytes, length: int, *, ratio: float, seed: int) -> np.ndarray:
        return np.sort(generator.choice(length, max(1, round(ratio * length)), replace=False))

    patch.setattr(hidden_module, "token_subset", running)


def draws_counted_through_the_batch(patch: Patch) -> None:
    """Draw with one generator, position after position as they come."""
    generator = np.random.default_rng(0)

    def running(rows: Sequence[TeacherRow], *, num_draws: int, temperature: float, seed: int) -> np.ndarray:
        return generator.random((sum(len(row.positions) for row in rows), num_draws))

    patch.setattr(measure, "uniforms", running)


def draws_from_a_float32_running_sum(patch: Patch) -> None:
    """Invert one float32 sum over the vocabulary: ids below 6e-8 are never drawn."""

    def draw(weights_nU: torch.Tensor, uniforms_nJ: torch.Tensor) -> torch.Tensor:
        ends_nU = torch.from_numpy(np.cumsum(weights_nU.numpy(), axis=1, dtype=np.float32))
        return torch.searchsorted(ends_nU, (uniforms_nJ * ends_nU[:, -1:]).float(), right=True)

    patch.setattr(measure, "draw", draw)


def last_incomplete_shard_lost(patch: Patch) -> None:
    """``chunks = N // size``."""
    plan = teach_module.plan_jobs

    def whole_shards(rows: Sequence[TeacherRow], *args: Any, shard_rows: int) -> list[ShardJob]:
        kept = sorted(rows, key=lambda row: row.key)[: len(rows) // shard_rows * shard_rows]
        return plan(kept, *args, shard_rows=shard_rows)

    patch.setattr(teach_module, "plan_jobs", whole_shards)


def restart_at_the_first_file(patch: Patch) -> None:
    """Begin anew whatever is there."""
    patch.setattr(teach_module, "open_stored", lambda root, teacher, columns: ({column: [] for column in columns}, []))
    patch.setattr(teach_module, "without_committed", lambda job, folders: job)


def folders_trusted_because_they_exist(patch: Patch) -> None:
    """Take a folder of the right name for a finished shard."""
    patch.setattr(write_module, "shard_folders", lambda folder: [])  # nobody sweeps it
    patch.setattr(plan_module, "is_committed", lambda folder: folder.exists())


def exceptions_swallowed(patch: Patch) -> None:
    """Pass over what could not be written."""
    write = teach_module.shard_write

    def swallowing(*args: Any) -> Callable[[], None]:
        def attempt() -> None:
            with contextlib.suppress(Exception):
                write(*args)()

        return attempt

    patch.setattr(teach_module, "shard_write", swallowing)


def claims_that_everybody_gets(patch: Patch) -> None:
    """Let every worker compute every shard."""
    patch.setattr(Claims, "claim", lambda claims, plan: contextlib.ExitStack())


def teacher_known_by_its_name(patch: Patch) -> None:
    """Address the cache by what the teacher is called, not by its weights."""
    patch.setattr(fingerprint_module, "model_fingerprint", lambda *args, **kwargs: FINGERPRINT)


def rows_known_by_their_number(patch: Patch) -> None:
    """Address rows by their place in the task."""
    patch.setitem(
        globals(), "new_row", lambda number, ids: TeacherRow(ids, np.array([6, 7]), number.to_bytes(16, "big"))
    )


def generation_without_stop(patch: Patch) -> None:
    """Let the teacher write until the limit."""
    decoding = sequences_module.decoding_of
    patch.setattr(sequences_module, "decoding_of", lambda column: decoding(ENDLESS))


def only_the_templates_own_markers(patch: Patch) -> None:
    """Look for the chat template's turn openers, which an invented turn does not use."""
    patch.setattr(sequence_quality, "ASKING_ROLES", ("<|im_start|>user",))
    patch.setattr(sequence_quality, "ANSWERING_ROLES", ("<|im_start|>assistant",))


Caught = AssertionError  # by the check; the others are refused by the package itself
CAUGHT: list[tuple[Defect, Check, type[Exception]]] = [
    (log_softmax_over_the_kept_entries, check_topk_at_every_temperature, Caught),
    (temperature_over_the_kept_entries, check_topk_at_every_temperature, Caught),
    (log_z_left_out, check_topk_at_every_temperature, Caught),
    (top_k_of_block_maxima, check_top_k_is_exact, Caught),
    (default_top_k, check_top_k_searches_a_part_of_the_vocabulary, Caught),
    (mask_unshifted_by_one, check_topk_at_every_temperature, Caught),
    (class_scores_over_the_classes, check_class_scores, Caught),
    (final_hidden_before_the_final_norm, check_final_hidden, Caught),
    (hidden_states_read_by_another_head, check_final_hidden, Caught),
    (off_by_one_layer, check_hidden_states, ModelError),
    (off_by_one_layer_unproven, check_hidden_states, Caught),
    (mean_over_padding, check_pooled, Caught),
    (token_subset_ratio_ignored, check_hidden_states, Caught),
    (token_subset_of_a_running_generator, check_hidden_states, CacheError),
    (draws_counted_through_the_batch, check_draws, Caught),
    (draws_from_a_float32_running_sum, check_faint_ids_are_drawn, Caught),
    (last_incomplete_shard_lost, check_every_row_is_stored, CacheError),
    (restart_at_the_first_file, check_a_second_run_computes_nothing, Caught),
    (folders_trusted_because_they_exist, check_an_empty_folder_is_filled, CacheError),
    (exceptions_swallowed, check_a_failed_write_is_an_error, CacheError),
    (claims_that_everybody_gets, check_one_shard_is_one_workers, Caught),
    (teacher_known_by_its_name, check_two_teachers_do_not_share_a_cache, Caught),
    (rows_known_by_their_number, check_two_tasks_do_not_share_rows, AlignmentError),
    (generation_without_stop, check_answers_end, DataError),
    (only_the_templates_own_markers, check_a_set_that_runs_on_is_refused, Caught),
]
CHECKS = list(dict.fromkeys(check for _, check, _ in CAUGHT))


@pytest.fixture(autouse=True)
def no_fsync() -> Iterator[None]:
    """Nothing is killed here."""
    with Patch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        yield


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_what_must_hold_does(tmp_path: Path, check: Check) -> None:
    check(tmp_path)


@pytest.mark.parametrize(("defect", "check", "error"), CAUGHT, ids=lambda part: part.__name__)
def test_a_defect_of_the_teach_stage_is_caught(
    tmp_path: Path, monkeypatch: Patch, defect: Defect, check: Check, error: type[Exception]
) -> None:
    defect(monkeypatch)
    with pytest.raises(error):
        check(tmp_path)
