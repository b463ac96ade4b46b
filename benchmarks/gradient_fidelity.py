"""B6: what at most 40 bytes per position keep of full distillation: the angle of a step, and a small student's loss.

In: nothing. Out: a row for the angle; a row per signal and measure of the student. A row's ratio is the share of the
gap from cross-entropy to full distillation that the signal closes, ``(CE - signal) / (CE - full KD)``, in a loss on
held-out prose. It counts only where the gap is above five standard deviations over seeds; else the row's verdict says
that it is not resolvable here. About twelve minutes of one core; a line per student goes to standard error.
"""

import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from benchmarks.cache_size import MAX_BYTES, measure_angle
from benchmarks.prose import CPU, MODEL, Prose, load_sample, prose_rows, untrained_student
from benchmarks.records import record
from tutelage.cache import Column
from tutelage.cache.sampled import SampledColumn
from tutelage.cache.topk import TopKColumn
from tutelage.evaluate.cut import cut_signal
from tutelage.evaluate.frontier import StoredSignal, store_and_read_all
from tutelage.losses import head_losses
from tutelage.models.head import final_hidden, find_head
from tutelage.teacher.batches import padded_batch
from tutelage.types import FinalHidden, LossTerm, OutputHead, Sampled, TeacherRow, TeacherSignal, TopK

SEEDS = (0, 1, 2)  # of the order of the rows, and of the draws
LAYERS, TRAINED_LAYERS = (
    24,
    6,
)  # evenly spaced; the last six learn. With six in all it would first have to learn to write
STEPS, LEARNING_RATE = 30, 2e-4
ROW_TOKENS, ROWS_PER_LINE = 160, 3  # short rows out of the 512 tokens that the prose is cut into
TRAIN_LINES, HELD_OUT_LINES = 4, 2
DRAWS, TOP_KS = (25, 50, 64, 80, 100), (8, 10, 12, 14, 16, 20, 25, 32)  # of each, the most that fit into 40 bytes
SHARE_TARGET, RESOLVABLE = 0.9, 5.0
CROSS_ENTROPY, FULL, OURS = "cross-entropy", "full KD", "sampled"
KL, NLL = "KL to the teacher", "NLL of the text"
NOT_RESOLVABLE = "not resolvable here"
Losses = dict[str, float]


@dataclass(frozen=True)
class Arm:
    """What a student learns from: a signal, the text itself (no signal), or a softmax over the kept ids alone."""

    name: str
    bytes_per_position: float
    signal: TeacherSignal | None
    is_subset: bool = False


def measure() -> list[dict[str, Any]]:
    """Run both halves."""
    return [*measure_angle(), *measure_students()]


def measure_students() -> list[dict[str, Any]]:
    """Train one student per signal and seed, equal steps and learning rate, and compare their held-out losses."""
    teacher = load_sample(torch.bfloat16)
    train = short_prose(teacher, TRAIN_LINES)
    held_out = short_prose(teacher, HELD_OUT_LINES, skip=TRAIN_LINES)
    topk, num_draws, student = widest_topk(train), most_draws(train), Student()
    untouched = held_out_losses(student.model.eval(), held_out)
    found: dict[str, list[Losses]] = {}
    sizes: dict[str, list[float]] = {}
    for seed in SEEDS:
        for arm in (*reference_arms(train), sampled_arm(train, num_draws, seed), *topk_arms(topk)):
            began = time.perf_counter()
            losses = student.learn(train, held_out, arm, seed)
            found.setdefault(arm.name, []).append(losses)
            sizes.setdefault(arm.name, []).append(arm.bytes_per_position)
            shown = ", ".join(f"{name} {value:.4f}" for name, value in losses.items())
            print(f"B6 seed {seed}, {arm.name}: {shown}, {time.perf_counter() - began:.0f} s", file=sys.stderr)
    setting = {
        "teacher": MODEL,
        "text": "docstrings of the standard library",
        "text_sha256": train.text_sha256,
        "train_positions": train.num_positions,
        "held_out_positions": held_out.num_positions,
        "student": f"{LAYERS} evenly spaced layers, the last {TRAINED_LAYERS} trained",
        "untouched": untouched,
        "draws": num_draws,
        "steps": STEPS,
        "learning_rate": LEARNING_RATE,
        "seeds": len(SEEDS),
    }
    signals = [name for name in found if name not in (CROSS_ENTROPY, FULL)]
    return [
        share_row(found, name, metric, statistics.mean(sizes[name]), setting)
        for metric in (KL, NLL)
        for name in signals
    ]


def short_prose(teacher: PreTrainedModel, num_lines: int, *, skip: int = 0) -> Prose:
    """Read prose in rows of 160 tokens, each alone: short steps, so that there can be many."""
    lines, digest = prose_rows(num_lines, skip=skip)
    cuts = [line.ids[start : start + ROW_TOKENS] for line in lines for start in row_starts()]
    rows = [TeacherRow(ids, lines[0].positions[: ROW_TOKENS - 1]) for ids in cuts]
    batches = [padded_batch([row], device=CPU) for row in rows]
    with torch.no_grad():
        hidden_NE = torch.cat([final_hidden(teacher, batch) for batch in batches])
    head = find_head(teacher)
    return Prose(rows, batches, hidden_NE, OutputHead(head.weight_VD.detach(), scale=head.scale), digest)


def row_starts() -> range:
    """Give where the short rows of a line begin."""
    return range(0, ROWS_PER_LINE * ROW_TOKENS, ROW_TOKENS)


def reference_arms(train: Prose) -> list[Arm]:
    """Give the two ends of the gap."""
    dense = FinalHidden(train.hidden_NE, train.head)
    return [Arm(CROSS_ENTROPY, 0.0, None), Arm(FULL, 2.0 * train.hidden_NE.shape[1], dense)]


def sampled_arm(train: Prose, num_draws: int, seed: int) -> Arm:
    """Give our signal; the draws are those of a seed."""
    stored = store_each(train, {num_draws: SampledColumn(num_draws, 1.0, seed, vocab_size(train))})[num_draws]
    return Arm(OURS, sum(stored.parts.values()), stored.signal)


def most_draws(train: Prose) -> int:
    """Choose as many draws as fit into 40 bytes."""
    return largest_fitting(store_each(train, {n: SampledColumn(n, 1.0, 0, vocab_size(train)) for n in DRAWS}))


def widest_topk(train: Prose) -> StoredSignal:
    """Give the widest top-k of at most 40 bytes, in our own packed layout: the peers' formats keep fewer entries."""
    stored = store_each(train, {k: TopKColumn(k, (1.0,), vocab_size(train), "q8") for k in TOP_KS})
    return stored[largest_fitting(stored)]


def store_each(train: Prose, columns: Mapping[int, Column]) -> dict[int, StoredSignal]:
    """Store and read back columns by size."""
    named = {str(size): column for size, column in columns.items()}
    stored = store_and_read_all(named, train.hidden_NE, train.head, train.rows)
    return {size: stored[str(size)] for size in columns}


def largest_fitting(stored: Mapping[int, StoredSignal]) -> int:
    """Choose the largest size whose bytes per position fit."""
    return max(size for size, each in stored.items() if sum(each.parts.values()) <= MAX_BYTES)


def vocab_size(prose: Prose) -> int:
    """Count the ids of the teacher's head."""
    return prose.head.weight_VD.shape[0]


def topk_arms(stored: StoredSignal) -> list[Arm]:
    """Give the three readings of one stored top-k that are in use."""
    size, signal = sum(stored.parts.values()), stored.signal
    assert isinstance(signal, TopK)
    k = signal.ids_NK.shape[1]
    return [
        Arm(f"top-{k}, subset softmax", size, signal, is_subset=True),
        Arm(f"top-{k}, teacher renormalised", size, renormalised(signal)),
        Arm(f"top-{k} + tail bucket", size, signal),
    ]


def renormalised(signal: TopK) -> Sampled:
    """Put the kept probabilities to a sum of 1, against the student's full softmax: weights like those of samples."""
    logprobs_NK = signal.logprobs_NK.log_softmax(dim=1)
    return Sampled(signal.ids_NK, logprobs_NK.exp(), logprobs_NK, 1.0, signal.vocab_size)


class Student:
    """A student that begins every run with the same weights; its upper layers learn."""

    def __init__(self) -> None:
        self.model = untrained_student(LAYERS).requires_grad_(False)
        self.trained = list(self.model.model.layers[-TRAINED_LAYERS:].requires_grad_(True).parameters())
        self.first = [parameter.detach().clone() for parameter in self.trained]
        self.head = find_head(self.model)

    def learn(self, train: Prose, held_out: Prose, arm: Arm, seed: int) -> Losses:
        """Train on one row a step, in an order of the seed, and measure on other rows."""
        with torch.no_grad():
            for parameter, first in zip(self.trained, self.first, strict=True):
                parameter.copy_(first)
        optimizer = torch.optim.AdamW(self.trained, lr=LEARNING_RATE, weight_decay=0.0, fused=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
        self.model.train()
        for number in row_order(len(train.rows), seed):
            with torch.autocast("cpu", torch.bfloat16):
                hidden_ND = final_hidden(self.model, train.batches[number])
            loss = arm_loss(arm, hidden_ND, self.head, train, number)
            (loss / len(hidden_ND)).backward()
            torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        return held_out_losses(self.model.eval(), held_out)


def row_order(num_rows: int, seed: int) -> list[int]:
    """Shuffle the rows anew for each pass, until there is one for every step."""
    generator = torch.Generator().manual_seed(seed)
    passes = [torch.randperm(num_rows, generator=generator) for _ in range(-(-STEPS // num_rows))]
    return torch.cat(passes)[:STEPS].tolist()


def arm_loss(arm: Arm, hidden_ND: torch.Tensor, head: OutputHead, train: Prose, number: int) -> torch.Tensor:
    """Sum an arm's loss over the positions of a row."""
    signal = None if arm.signal is None else cut_signal(arm.signal, row_slice(train, number))
    if arm.is_subset:
        assert isinstance(signal, TopK)
        return subset_loss(hidden_ND, head, signal)
    term = LossTerm("cross_entropy" if signal is None else "forward_kl", 1.0)
    labels_N = next_ids(train, number)
    return head_losses(hidden_ND, head, labels_N, signal, terms=[term], fused=True).objective.total


def subset_loss(hidden_ND: torch.Tensor, head: OutputHead, signal: TopK) -> torch.Tensor:
    """Sum KL(teacher || student), both softmaxes over the kept ids alone."""
    logits_NK = head.scale * torch.einsum("nd,nkd->nk", hidden_ND.float(), head.weight_VD[signal.ids_NK].float())
    teacher_NK = signal.logprobs_NK.log_softmax(dim=1)
    return (teacher_NK.exp() * (teacher_NK - logits_NK.log_softmax(dim=1))).sum()


def row_slice(prose: Prose, number: int) -> slice:
    """Give a row's positions among all."""
    per_row = len(prose.rows[0].positions)
    return slice(number * per_row, (number + 1) * per_row)


def next_ids(prose: Prose, number: int) -> torch.Tensor:
    """Return the text's own next token at every wanted position of a row."""
    return torch.from_numpy(prose.rows[number].ids[1:].astype("int64"))


@torch.no_grad()
def held_out_losses(student: torch.nn.Module, prose: Prose) -> Losses:
    """Average both losses, in nats per token, over rows that nothing was trained on."""
    kinds = {"forward_kl": KL, "cross_entropy": NLL}
    totals = dict.fromkeys(kinds.values(), 0.0)
    teacher_head = OutputHead(prose.head.weight_VD.float(), scale=prose.head.scale)
    terms = [LossTerm(kind, 1.0) for kind in kinds]
    for number, batch in enumerate(prose.batches):
        signal = FinalHidden(prose.hidden_NE[row_slice(prose, number)], teacher_head)
        hidden_ND, labels_N = final_hidden(student, batch), next_ids(prose, number)
        losses = head_losses(hidden_ND, find_head(student), labels_N, signal, terms=terms, fused=True)
        for kind, name in kinds.items():
            totals[name] += float(losses.parts[kind].total)
    return {name: total / prose.num_positions for name, total in totals.items()}


def share_row(
    found: dict[str, list[Losses]], name: str, metric: str, size: float, setting: dict[str, Any]
) -> dict[str, Any]:
    """Say which share of the gap from cross-entropy to full distillation a signal closes, and whether that counts."""
    values = {arm: [losses[metric] for losses in each] for arm, each in found.items()}
    gaps = [ce - full for ce, full in zip(values[CROSS_ENTROPY], values[FULL], strict=True)]
    gap = statistics.mean(gaps)
    noise = max(statistics.stdev(values[CROSS_ENTROPY]), statistics.stdev(values[FULL]))
    shares = gap_shares(values[CROSS_ENTROPY], values[name], gap)
    share = statistics.mean(shares)
    is_ours = name == OURS
    resolvable = gap > RESOLVABLE * noise
    verdict = NOT_RESOLVABLE
    if resolvable:
        verdict = "for comparison" if not is_ours else "met" if share >= SHARE_TARGET else "missed"
    row = record(
        "B6",
        f"share of the gap from cross-entropy to full KD that {name} ({size:.1f} bytes) closes, {metric}: {verdict}",
        share,
        SHARE_TARGET if is_ours else None,
        **setting,
        verdict=verdict,
        bytes_per_position=round(size, 2),
        nats_per_token={arm: [round(value, 4) for value in each] for arm, each in values.items()},
        gap=round(gap, 4),
        seed_sd=round(noise, 4),
        gap_in_seed_sds=round(gap / noise, 1),
        gap_sd_paired=round(statistics.stdev(gaps), 4),
        share_sd=round(statistics.stdev(shares), 4),
    )
    return row if resolvable else row | {"met": None}


def gap_shares(cross_entropy: Sequence[float], signal: Sequence[float], gap: float) -> list[float]:
    """Divide what a signal gains over cross-entropy, seed by seed, by the mean gap."""
    return [(ce - own) / gap if gap else float("nan") for ce, own in zip(cross_entropy, signal, strict=True)]
