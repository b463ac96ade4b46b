"""How far a cached signal may lie from the live one: the codec's stated bound, and the teacher's own batch noise.

In: a teacher and rows; two records of one column. Out: the noise; an ``AssertionError`` where a record is further off.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from tiny_teacher import VOCAB_SIZE, batch_of
from transformers import LlamaForCausalLM

from tutelage.cache import ClassScoresColumn, FinalHiddenColumn, HiddenColumn, PooledColumn, SampledColumn, TopKColumn
from tutelage.cache.column import Column
from tutelage.models.taps import read_states
from tutelage.teacher import LiveTeacher
from tutelage.teacher.draws import uniforms
from tutelage.teacher.measure import flat_index, measure, measure_states, token_places
from tutelage.types import (
    Batch,
    ClassScores,
    FinalHidden,
    HiddenStates,
    OutputHead,
    Pooled,
    Sampled,
    TeacherRow,
    TeacherSignal,
    TopK,
)

# Live and cached lie on two sides of what a row alone gives, each as far off as the noise was seen to reach.
SIDES = 2
HALF_BF16, HALF_FP16 = 2.0**-8, 2.0**-11  # half a unit in the last place, relative
CUMULATIVE_ROUNDING = 2.0**-20  # float32 sums of up to 64 probabilities in a draw
LAYERS = (0, 1, 2)
TEMPERATURES = (1, 2, 4)


@dataclass(frozen=True)
class Noise:
    """The largest difference that other batch shapes were seen to make, and what a row alone gives.

    ``logprobs_V`` holds the float64 log-probabilities at T = 1 by row key and position.
    """

    final: float
    logprob: float  # of any id, and of any log_z
    states: dict[int, float]  # by layer number
    pooled: dict[int, float]
    logprobs_V: dict[tuple[bytes, int], torch.Tensor] = field(default_factory=dict, repr=False)

    def at(self, rows: Sequence[TeacherRow]) -> torch.Tensor:
        """The exact log-probabilities of the rows' positions, [N, V]."""
        return torch.stack([self.logprobs_V[row.key, int(position)] for row in rows for position in row.positions])

    def below(self, temperature: float) -> float:
        """How far the share of probability below any id may move at a temperature.

        Ratios of probabilities that move by a factor of ``exp(e)`` at most move a share F by at most
        ``min(F, 1 - F) (exp(e) - 1)``.
        """
        return 0.5 * float(np.expm1(2 * self.logprob / temperature)) + CUMULATIVE_ROUNDING


def layouts(rows: Sequence[TeacherRow]) -> Iterator[list[Batch]]:
    """Lay the rows out in batches of several shapes, their order kept."""
    yield [batch_of(rows)]
    yield [batch_of(rows, width=40)]
    yield [batch_of(rows, packed=True)]
    for size in (2, 7):
        yield [batch_of(rows[start : start + size]) for start in range(0, len(rows), size)]


def measure_noise(model: LlamaForCausalLM, rows: Sequence[TeacherRow]) -> Noise:
    """Compare what every row gives alone with what it gives in batches of other shapes."""
    head = LiveTeacher(model).head
    alone = joined_figures(model, head, [batch_of([row]) for row in rows])
    weight_VE = head.weight_VD.double()
    exact_NV = (alone["final"].double() @ weight_VE.T).log_softmax(dim=1)
    alone["logprob"] = log_figures_of(exact_NV)
    largest = dict.fromkeys(alone, 0.0)
    for batches in layouts(rows):
        for name, figure in joined_figures(model, head, batches).items():
            largest[name] = max(largest[name], float((figure.double() - alone[name].double()).abs().max()))
    places = [(row.key, int(position)) for row in rows for position in row.positions]
    return Noise(
        final=largest["final"],
        logprob=largest["logprob"],
        states={layer: largest[f"states {layer}"] for layer in LAYERS},
        pooled={layer: largest[f"pooled {layer}"] for layer in LAYERS},
        logprobs_V=dict(zip(places, exact_NV, strict=True)),
    )


@torch.no_grad()
def joined_figures(model: LlamaForCausalLM, head: OutputHead, batches: Sequence[Batch]) -> dict[str, torch.Tensor]:
    """Every raw figure that a signal is made of, over the batches' rows laid end to end."""
    parts = [figures(model, head, batch) for batch in batches]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def figures(model: LlamaForCausalLM, head: OutputHead, batch: Batch) -> dict[str, torch.Tensor]:
    """One forward pass: final hidden states, log-probabilities, hidden states of every token, means over rows."""
    states, places, rows = read_states(model, batch, LAYERS), token_places(batch), batch.teacher_rows
    final_NE = states.final_GD[flat_index(places, rows)]
    whole = measure(final_NE, head, TopKColumn(VOCAB_SIZE, TEMPERATURES, VOCAB_SIZE))
    by_id_NV = torch.empty_like(whole["logprobs_NK"]).scatter_(1, whole["ids_NK"], whole["logprobs_NK"])
    found = {"final": final_NE, "logprob": torch.cat([by_id_NV, whole["log_z_NT"]], dim=1)}
    for layer in LAYERS:
        every = HiddenColumn(layer, 32)
        tokens = [TeacherRow(row.ids, every.positions_of(row), row.key) for row in rows]
        found[f"states {layer}"] = measure_states(states, places, every, tokens)["hidden_NE"]
        found[f"pooled {layer}"] = measure_states(states, places, PooledColumn(layer, 32), rows)["pooled_NE"]
    return found


def log_figures_of(logprobs_NV: torch.Tensor) -> torch.Tensor:
    """Log-probabilities by id, then the log_z of every temperature but 1: [N, V + temperatures]."""
    log_z = [(logprobs_NV / temperature).logsumexp(dim=1) for temperature in TEMPERATURES[1:]]
    return torch.cat([logprobs_NV, torch.stack(log_z, dim=1)], dim=1)


def assert_same_record(
    cached: TeacherSignal, live: TeacherSignal, column: Column, rows: Sequence[TeacherRow], noise: Noise
) -> None:
    """Compare two records of ``column`` at the rows' positions."""
    assert type(cached) is type(live)
    if isinstance(column, HiddenColumn | PooledColumn):
        assert_same_states(cached, live, column, rows, noise)
        return
    match cached, live, column:
        case FinalHidden(), FinalHidden(), FinalHiddenColumn():
            assert_within(
                cached.hidden_NE, live.hidden_NE, state_bound(live.hidden_NE, column.dtype, noise.final), noise.final
            )
        case TopK(), TopK(), TopKColumn():
            assert_same_topk(cached, live, column, noise)
        case ClassScores(), ClassScores(), ClassScoresColumn():
            assert_within(cached.scores_BC, live.scores_BC, torch.zeros(()), noise.logprob)
        case Sampled(), Sampled(), SampledColumn():
            assert_same_draws(cached, live, column, rows, noise)
        case _:
            raise AssertionError((type(cached), column.name))


def assert_same_states(
    cached: TeacherSignal,
    live: TeacherSignal,
    column: HiddenColumn | PooledColumn,
    rows: Sequence[TeacherRow],
    noise: Noise,
) -> None:
    """Compare hidden states after the column's layer, at its own tokens or over whole rows."""
    if isinstance(column, PooledColumn):
        assert isinstance(cached, Pooled)
        assert isinstance(live, Pooled)
        bound_BE = state_bound(live.pooled_BE, column.dtype, noise.pooled[column.layer])
        assert_within(cached.pooled_BE, live.pooled_BE, bound_BE, noise.pooled[column.layer])
    else:
        assert isinstance(cached, HiddenStates)
        assert isinstance(live, HiddenStates)
        wanted = [column.positions_of(row).tolist() for row in rows]
        assert [each.tolist() for each in cached.tokens] == [each.tolist() for each in live.tokens] == wanted
        bound_PE = state_bound(live.hidden_PE, column.dtype, noise.states[column.layer])
        assert_within(cached.hidden_PE, live.hidden_PE, bound_PE, noise.states[column.layer])
    assert cached.layer == live.layer == column.layer


def assert_within(cached: torch.Tensor, live: torch.Tensor, bound: torch.Tensor, noise: float) -> None:
    """Say that no entry is further off than the codec's bound and the noise of both sides."""
    excess = (cached.double() - live.double()).abs() - bound.double() - SIDES * noise
    assert float(excess.max()) <= 0, f"{float(excess.max()):g} beyond the bound; noise {noise:g}"


def state_bound(live_NE: torch.Tensor, dtype: str, noise: float) -> torch.Tensor:
    """The stated bound of a format for vectors, per value; 0 where the teacher itself computes in it.

    It is that of the largest values that the noise leaves possible: what was stored is not quite what is live.
    """
    sizes_NE = live_NE.double().abs() + SIDES * noise
    largest_N1 = sizes_NE.amax(dim=1, keepdim=True)  # 32 values: one group of bytes with a scale
    scales_N1 = largest_N1 / 127 * (1 + 2.0**-9) + 2.0**-24
    bounds = {
        "fp32": torch.zeros(()),
        "bf16": torch.zeros(()) if live_NE.dtype == torch.bfloat16 else sizes_NE * HALF_BF16,
        "fp16": sizes_NE * HALF_FP16 + 2.0**-25,
        "int8": scales_N1 / 2,
        "sq8": (scales_N1 * sizes_NE / 127).sqrt() + scales_N1 / 508,
        "fp8": torch.maximum(sizes_NE / 16, largest_N1 / 448 * 2.0**-10),
    }
    return bounds[dtype] * (1 + 2.0**-20)


def logprob_bound(live_NK: torch.Tensor, dtype: str) -> torch.Tensor:
    """The stated bound of a layout for sorted log-probabilities, per value or position."""
    exact_NK = live_NK.double()
    if dtype == "fp32":
        return torch.zeros(())
    if dtype == "fp16":
        return exact_NK.abs() * HALF_FP16 + 2.0**-25
    spread_N1 = exact_NK[:, :1] - exact_NK[:, -1:]
    log_mass_N1 = exact_NK.logsumexp(dim=1, keepdim=True).clamp(max=0)
    return spread_N1 / 255 + (1 + log_mass_N1.abs() + spread_N1) * HALF_FP16 + 2.0**-18


def sqrt_bound(live: torch.Tensor, bits: int) -> torch.Tensor:
    """The stated bound of codes of the root of a log-probability."""
    step = 8 / (2**bits - 1)
    return step * live.double().neg().clamp(min=0).sqrt() + step**2 / 4


def assert_same_topk(cached: TopK, live: TopK, column: TopKColumn, noise: Noise) -> None:
    """Compare by rank and by id; an id may be on one side only where it ties with the smallest kept one."""
    assert (cached.vocab_size, cached.ids_NK.dtype) == (live.vocab_size, live.ids_NK.dtype)
    assert list(cached.log_z_N) == list(live.log_z_N) == list(column.temperatures)
    bound = logprob_bound(live.logprobs_NK, column.dtype)
    assert_within(cached.logprobs_NK, live.logprobs_NK, bound, noise.logprob)
    for temperature, log_z_N in live.log_z_N.items():
        assert_within(cached.log_z_N[temperature], log_z_N, torch.zeros(()), noise.logprob)
    smallest_N1 = live.logprobs_NK[:, -1:].double()
    dense = [torch.full((len(live.ids_NK), live.vocab_size), torch.nan, dtype=torch.float64) for _ in range(2)]
    for by_id_NV, record in zip(dense, (cached, live), strict=True):
        by_id_NV.scatter_(1, record.ids_NK, record.logprobs_NK.double())
    cached_NV, live_NV = (by_id_NV.where(~by_id_NV.isnan(), smallest_N1) for by_id_NV in dense)
    widest_N1 = bound.broadcast_to(live.logprobs_NK.shape).amax(dim=1, keepdim=True)
    assert_within(cached_NV, live_NV, widest_N1, noise.logprob)


def assert_same_draws(
    cached: Sampled, live: Sampled, column: SampledColumn, rows: Sequence[TeacherRow], noise: Noise
) -> None:
    """Compare what was drawn, the exact heads, and the log-probabilities.

    The numbers that draw are functions of row, position, temperature and seed, so a count may differ only by numbers
    that lie within the noise of a border between two ids.
    """
    assert (
        (cached.temperature, cached.vocab_size)
        == (live.temperature, live.vocab_size)
        == (column.temperature, VOCAB_SIZE)
    )
    counts = [counts_by_id(record, column) for record in (cached, live)]
    least_NV, most_NV = possible_counts(column, rows, noise)
    for counts_NV in counts:
        assert (counts_NV >= least_NV).all()
        assert (counts_NV <= most_NV).all()
    cached_NV, live_NV = (logprobs_by_id(record) for record in (cached, live))
    in_head = [torch.zeros_like(live_NV, dtype=torch.bool).scatter_(1, record.ids_NK[:, : column.head_k], True)
               for record in (cached, live)]  # fmt: skip
    head_NV, drawn_NV = in_head[0] & in_head[1], (counts[0] > 0) & (counts[1] > 0)
    if column.head_k:
        assert_within(cached_NV[head_NV], live_NV[head_NV], live_NV[head_NV].abs() * HALF_FP16, noise.logprob)
    if column.logprob_bits:
        bound = sqrt_bound(live_NV[drawn_NV], column.logprob_bits)
        assert_within(cached_NV[drawn_NV], live_NV[drawn_NV], bound, noise.logprob)
        return
    same_N = (counts[0] == counts[1]).all(dim=1)
    means = [(counts_NV * by_id_NV.nan_to_num()).sum(dim=1) / column.num_draws
             for counts_NV, by_id_NV in zip(counts, (cached_NV, live_NV), strict=True)]  # fmt: skip
    if bool(same_N.any()):  # in a batch of one bfloat16 row the noise may move a draw at each of its few positions
        assert_within(means[0][same_N], means[1][same_N], sqrt_bound(means[1][same_N], 12), noise.logprob)


def counts_by_id(record: Sampled, column: SampledColumn) -> torch.Tensor:
    """How often every id was drawn, [N, V], from the weights of the drawn entries."""
    drawn_NK = record.weights_NK.double()
    drawn_NK[:, : column.head_k] = 0
    counts_NK = drawn_NK / drawn_NK.sum(dim=1, keepdim=True) * column.num_draws
    assert torch.allclose(counts_NK, counts_NK.round(), atol=1e-3)
    shape = (len(drawn_NK), record.vocab_size)
    return torch.zeros(shape, dtype=torch.float64).scatter_add_(1, record.ids_NK, counts_NK.round())


def logprobs_by_id(record: Sampled) -> torch.Tensor:
    """The stored log-probability of every id, [N, V]; NaN where it was not stored."""
    stored_NK = record.logprobs_NK.double().where(record.weights_NK > 0, torch.nan)
    by_id_NV = torch.full((len(stored_NK), record.vocab_size), torch.nan, dtype=torch.float64)
    for stored_N, ids_N in zip(stored_NK.T, record.ids_NK.T, strict=True):  # padding shares id 0 with real entries
        real_N = ~stored_N.isnan()
        by_id_NV[real_N, ids_N[real_N]] = stored_N[real_N]
    return by_id_NV


def possible_counts(
    column: SampledColumn, rows: Sequence[TeacherRow], noise: Noise
) -> tuple[torch.Tensor, torch.Tensor]:
    """The least and the most often that the rows' numbers can draw every id, [N, V], from exact probabilities.

    An id whose place in an exact head is within the noise may have been drawn or not.
    """
    tempered_NV = (noise.at(rows) / column.temperature).log_softmax(dim=1)
    probs_NV = tempered_NV.exp()
    closeness = SIDES * noise.logprob / column.temperature
    is_close_N = torch.zeros(len(probs_NV), dtype=torch.bool)
    if column.head_k:
        ranked_NK = tempered_NV.topk(column.head_k + 1, dim=1)
        is_close_N = ranked_NK.values[:, -2] - ranked_NK.values[:, -1] <= closeness
        probs_NV = probs_NV.scatter(1, ranked_NK.indices[:, : column.head_k], 0.0)
    tail_N1 = probs_NV.sum(dim=1, keepdim=True)
    ends_NV = probs_NV.cumsum(dim=1) / tail_N1
    starts_NV = ends_NV - probs_NV / tail_N1
    numbers_NJ1 = torch.from_numpy(
        uniforms(rows, num_draws=column.num_draws, temperature=column.temperature, seed=column.seed)
    )[:, :, None]
    margin = SIDES * noise.below(column.temperature)
    starts_N1V, ends_N1V = starts_NV[:, None], ends_NV[:, None]
    least_NV = ((numbers_NJ1 >= starts_N1V + margin) & (numbers_NJ1 < ends_N1V - margin)).sum(dim=1)
    most_NV = ((numbers_NJ1 >= starts_N1V - margin) & (numbers_NJ1 < ends_N1V + margin)).sum(dim=1)
    most_NV = most_NV.where(probs_NV > 0, 0)
    anything_N1 = is_close_N[:, None]
    return least_NV.masked_fill(anything_N1, 0), most_NV.masked_fill(anything_N1, column.num_draws)
