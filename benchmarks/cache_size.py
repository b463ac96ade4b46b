"""B3 and the first half of B6: bytes per position against the direction of the student's step, on real prose.

In: nothing. Out: a row per peer for B3, one for the angle of B6. The reference is the gradient of full-vocabulary
distillation in float64 at the output, pushed through the body of a 24-layer student that is not trained.
"""

from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.peer_formats import FORMATS
from benchmarks.prose import MODEL, Prose, load_sample, read_prose, untrained_student
from benchmarks.records import record
from tutelage.cache import Column
from tutelage.cache.sampled import SampledColumn
from tutelage.cache.topk import TopKColumn
from tutelage.evaluate.frontier import angle_between, hidden_gradient, step_gradient, store_and_read
from tutelage.models.head import final_hidden, find_head
from tutelage.types import FinalHidden, TeacherSignal, TopK

NUM_ROWS, STUDENT_LAYERS = 2, 24
TEMPERATURE = 1.0
PEER_K = (12, 25, 50, 128, 256)
OUR_DRAWS = (12, 25, 50)
TARGETS = {"parquet lists + zstd": 0.25, "DistillKit-style polynomial": 0.5}  # int32 + fp16 is shown without one
MAX_BYTES, MAX_DEGREES = 40.0, 10.0  # B6


@dataclass(frozen=True)
class Point:
    """One way to store a signal: bytes per position, row index left out, and the angle to dense distillation."""

    name: str
    bytes_per_position: float
    degrees: float
    norm_ratio: float


class Judge:
    """Holds the reference gradient; says how far a signal's gradient is from it."""

    def __init__(self, prose: Prose) -> None:
        self.student = untrained_student(STUDENT_LAYERS)
        self.batches = prose.batches
        with torch.no_grad():
            self.hidden_ND = torch.cat([final_hidden(self.student, batch) for batch in prose.batches])
        self.reference = self.step(FinalHidden(prose.hidden_NE, prose.head))

    def step(self, signal: TeacherSignal) -> list[torch.Tensor]:
        """Return the gradient of every parameter of the body."""
        gradient_ND = hidden_gradient(self.hidden_ND, find_head(self.student), signal, temperature=TEMPERATURE)
        return [each.clone() for each in step_gradient(self.student, self.batches, gradient_ND)]

    def point(self, name: str, size: float, signal: TeacherSignal) -> Point:
        """Measure one signal."""
        angle = angle_between(self.step(signal), self.reference)
        return Point(name, round(size, 2), round(angle.degrees, 2), round(angle.norm_ratio, 3))


class Bench:
    """The prose, the judge, and what both were made of."""

    def __init__(self) -> None:
        self.prose = read_prose(load_sample(torch.bfloat16), NUM_ROWS)
        self.judge = Judge(self.prose)
        self.vocab = self.prose.head.weight_VD.shape[0]
        self.setting: dict[str, Any] = {
            "teacher": MODEL,
            "text": "docstrings of the standard library",
            "text_sha256": self.prose.text_sha256,
            "positions": self.prose.num_positions,
            "student": f"{STUDENT_LAYERS} evenly spaced layers, not trained",
            "temperature": TEMPERATURE,
        }

    def stored(self, column: Column) -> tuple[TeacherSignal, dict[str, float]]:
        """Encode a column and read it back: the signal, and bytes per position by part."""
        return store_and_read(column, self.prose.hidden_NE, self.prose.head, self.prose.rows)

    def ours(self) -> list[Point]:
        """Measure samples with some numbers of draws."""
        points = []
        for draws in OUR_DRAWS:
            signal, parts = self.stored(SampledColumn(draws, TEMPERATURE, 0, self.vocab))
            points.append(self.judge.point(f"sampled n={draws}", sum(parts.values()), signal))
        return points

    def peers(self) -> dict[str, list[Point]]:
        """Measure every peer format with some numbers of kept entries."""
        widest, _ = self.stored(TopKColumn(max(PEER_K), (1.0,), self.vocab, "fp32"))
        assert isinstance(widest, TopK)
        points: dict[str, list[Point]] = {name: [] for name in FORMATS}
        for k in PEER_K:
            signal = TopK(widest.ids_NK[:, :k], widest.logprobs_NK[:, :k], widest.log_z_N, self.vocab)
            for name, store in FORMATS.items():
                points[name].append(self.judge.point(f"top-{k}", *store(signal)))
        return points


def measure() -> list[dict[str, Any]]:
    """B3: our smallest signal at least as faithful as the peer's, over the peer's bytes; B6: the angle at 40 bytes."""
    bench = Bench()
    ours, peers = bench.ours(), bench.peers()
    shown = {**bench.setting, "ours": [vars(point) for point in ours]}
    rows = []
    for name, points in peers.items():
        ratio, pair = best_ratio(ours, points)
        details = {**shown, "peer": [vars(point) for point in points], "compared": pair}
        rows.append(
            record(
                "B3",
                f"bytes per position at equal angle, against {name}",
                ratio,
                TARGETS.get(name),
                at_most=True,
                **details,
            )
        )
    return rows


def best_ratio(ours: list[Point], peers: list[Point]) -> tuple[float, list[str]]:
    """Compare each of our points with the peer's cheapest point of at most its angle; the middle ratio counts.

    Where no k is that faithful the peer's most faithful point is taken, which favours the peer.
    """
    ratios = []
    for mine in ours:
        as_good = [point for point in peers if point.degrees <= mine.degrees]
        peer = min(as_good or [min(peers, key=lambda p: p.degrees)], key=lambda p: p.bytes_per_position)
        ratios.append((mine.bytes_per_position / peer.bytes_per_position, [mine.name, peer.name]))
    return sorted(ratios)[len(ratios) // 2]


def measure_angle() -> list[dict[str, Any]]:
    """B6, first half: the smallest angle that at most 40 bytes buy."""
    bench = Bench()
    ours = bench.ours()
    best = min((point for point in ours if point.bytes_per_position <= MAX_BYTES), key=lambda point: point.degrees)
    what = f"degrees to dense distillation at {best.bytes_per_position} bytes per position ({best.name})"
    return [
        record(
            "B6", what, best.degrees, MAX_DEGREES, at_most=True, **bench.setting, ours=[vars(point) for point in ours]
        )
    ]
