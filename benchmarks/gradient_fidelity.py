"""B6: what at most 40 bytes per position keep of full distillation: the angle of a step, and a small student's loss.

In: nothing. Out: a row for the angle, a row for each measure of the student. The share is ``(CE - signal) / (CE - full
KD)`` of a loss on held-out prose, counted only where the gap between cross-entropy and full distillation is above five
standard deviations over seeds; else the row says that it is not resolvable here.
"""

import statistics
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.cache_size import measure_angle
from benchmarks.prose import Prose, load_sample, read_prose, untrained_student
from benchmarks.records import record
from tutelage.cache import Column
from tutelage.cache.sampled import SampledColumn
from tutelage.cache.topk import TopKColumn
from tutelage.evaluate.cut import cut_signal
from tutelage.evaluate.frontier import store_and_read
from tutelage.losses import head_losses
from tutelage.models.head import final_hidden, find_head
from tutelage.types import FinalHidden, LossTerm, TeacherSignal

SEEDS = (0, 1, 2)
LAYERS, STEPS, LEARNING_RATE = 8, 40, 2e-4
TRAIN_ROWS, HELD_OUT_ROWS = 40, 4
SHARE_TARGET, RESOLVABLE = 0.9, 5.0
CROSS_ENTROPY, FULL = "cross-entropy", "full KD"
KL, NLL = "KL to the teacher", "NLL of the text"
Losses = dict[str, float]


def measure() -> list[dict[str, Any]]:
    """Run both halves."""
    return [*measure_angle(), *measure_students()]


def measure_students() -> list[dict[str, Any]]:
    """Train one student per signal and seed, equal steps and learning rate, and compare their held-out losses."""
    teacher = load_sample(torch.bfloat16)
    train, held_out = read_prose(teacher, TRAIN_ROWS), read_prose(teacher, HELD_OUT_ROWS, skip=TRAIN_ROWS)
    vocab = train.head.weight_VD.shape[0]
    columns: dict[str, Callable[[int], Column]] = {
        "sampled n=25": lambda seed: SampledColumn(25, 1.0, seed, vocab),
        "top-12 + tail": lambda seed: TopKColumn(12, (1.0,), vocab, "fp16"),
        "top-50 + tail": lambda seed: TopKColumn(50, (1.0,), vocab, "fp16"),
    }
    found: dict[str, list[Losses]] = {}
    for seed in SEEDS:
        dense = FinalHidden(train.hidden_NE, train.head)
        found.setdefault(CROSS_ENTROPY, []).append(train_student(train, held_out, None, seed))
        found.setdefault(FULL, []).append(train_student(train, held_out, dense, seed))
        for name, column in columns.items():
            signal, _ = store_and_read(column(seed), train.hidden_NE, train.head, train.rows)
            found.setdefault(name, []).append(train_student(train, held_out, signal, seed))
    return [share_row(found, name, metric) for metric in (KL, NLL) for name in columns]


def train_student(train: Prose, held_out: Prose, signal: TeacherSignal | None, seed: int) -> Losses:
    """Train on one row a step, in an order of the seed; None trains on the text itself."""
    torch.manual_seed(seed)
    student = untrained_student(LAYERS).train()
    optimizer = torch.optim.AdamW(student.parameters(), lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    term = LossTerm("cross_entropy" if signal is None else "forward_kl", 1.0)
    per_row = len(train.rows[0].positions)
    for number in torch.randperm(len(train.rows))[:STEPS].tolist():
        part = slice(number * per_row, (number + 1) * per_row)
        teacher = cut_signal(signal, part) if signal is not None else FinalHidden(train.hidden_NE[part], train.head)
        with torch.autocast("cpu", torch.bfloat16):
            hidden_ND = final_hidden(student, train.batches[number])
        losses = head_losses(hidden_ND, find_head(student), next_ids(train, number), teacher, terms=[term], fused=True)
        (losses.objective.total / losses.objective.count).backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return held_out_losses(student.eval(), held_out)


def next_ids(prose: Prose, number: int) -> torch.Tensor:
    """Return the text's own next token at every wanted position of a row."""
    return torch.from_numpy(prose.rows[number].ids[1:].astype("int64"))


@torch.no_grad()
def held_out_losses(student: torch.nn.Module, prose: Prose) -> Losses:
    """Average both losses, in nats per token, over rows that nothing was trained on."""
    per_row = len(prose.rows[0].positions)
    totals = {KL: 0.0, NLL: 0.0}
    for number, batch in enumerate(prose.batches):
        part = slice(number * per_row, (number + 1) * per_row)
        signal = FinalHidden(prose.hidden_NE[part], prose.head)
        hidden_ND = final_hidden(student, batch)
        for name, kind in ((KL, "forward_kl"), (NLL, "cross_entropy")):
            losses = head_losses(
                hidden_ND, find_head(student), next_ids(prose, number), signal, terms=[LossTerm(kind, 1.0)], fused=False
            )
            totals[name] += float(losses.objective.total)
    return {name: total / prose.num_positions for name, total in totals.items()}


def share_row(found: dict[str, list[Losses]], name: str, metric: str) -> dict[str, Any]:
    """Say which share of the gap from cross-entropy to full distillation a signal closes."""
    values = {arm: [losses[metric] for losses in each] for arm, each in found.items()}
    means = {arm: statistics.mean(each) for arm, each in values.items()}
    gap = means[CROSS_ENTROPY] - means[FULL]
    noise = max(statistics.stdev(values[CROSS_ENTROPY]), statistics.stdev(values[FULL]))
    resolvable = gap > RESOLVABLE * noise
    share = (means[CROSS_ENTROPY] - means[name]) / gap if gap else float("nan")
    note = "" if resolvable else " (not resolvable here: the gap is within 5 standard deviations over seeds)"
    row = record(
        "B6", f"share of the gap from cross-entropy to full KD that {name} closes, {metric}{note}", share, SHARE_TARGET,
        nats_per_token=values, gap=gap, seed_sd=noise, seeds=len(SEEDS), steps=STEPS, layers=LAYERS,
    )  # fmt: skip
    return row if resolvable else row | {"met": None}
