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
from tutelage.cache.sampled import SampledColumn
from tutelage.cache.topk import TopKColumn
from tutelage.evaluate.frontier import angle_between, hidden_gradient, step_gradient, store_and_read
from tutelage.models.head import final_hidden, find_head
from tutelage.types import FinalHidden, TeacherSignal, TopK

NUM_ROWS, STUDENT_LAYERS = 2, 24
TEMPERATURE = 1.0
PEER_K = (12, 25, 50, 128, 256)
OUR_DRAWS = (12, 25, 50)
PARQUET_TARGET, POLYNOMIAL_TARGET, FLAT_TARGET = 0.25, 0.5, 0.5  # PEERS sets none for int32 + fp16
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


def measure_points() -> tuple[list[Point], dict[str, list[Point]], dict[str, Any]]:
    """Return our points, those of each peer format, and what they were measured on."""
    prose = read_prose(load_sample(torch.bfloat16), NUM_ROWS)
    judge = Judge(prose)
    vocab = prose.head.weight_VD.shape[0]
    ours = []
    for draws in OUR_DRAWS:
        column = SampledColumn(draws, TEMPERATURE, 0, vocab)
        signal, parts = store_and_read(column, prose.hidden_NE, prose.head, prose.rows)
        ours.append(judge.point(f"sampled n={draws}", sum(parts.values()), signal))
    exact = TopKColumn(max(PEER_K), (1.0,), vocab, "fp32")
    widest, _ = store_and_read(exact, prose.hidden_NE, prose.head, prose.rows)
    assert isinstance(widest, TopK)
    peers: dict[str, list[Point]] = {name: [] for name in FORMATS}
    for k in PEER_K:
        signal = TopK(widest.ids_NK[:, :k], widest.logprobs_NK[:, :k], widest.log_z_N, vocab)
        for name, store in FORMATS.items():
            size, read = store(signal)
            peers[name].append(judge.point(f"top-{k}", size, read))
    setting = {
        "teacher": MODEL,
        "text": "docstrings of the standard library",
        "text_sha256": prose.text_sha256,
        "positions": prose.num_positions,
        "student": f"{STUDENT_LAYERS} evenly spaced layers, not trained",
        "temperature": TEMPERATURE,
    }
    return ours, peers, setting


def measure() -> list[dict[str, Any]]:
    """B3: our smallest signal at least as faithful as the peer's, over the peer's bytes; B6: the angle at 40 bytes."""
    ours, peers, setting = measure_points()
    shown = {"ours": [vars(point) for point in ours]}
    targets = dict(zip(FORMATS, (PARQUET_TARGET, FLAT_TARGET, POLYNOMIAL_TARGET), strict=True))
    rows = []
    for name, points in peers.items():
        ratio, pair = best_ratio(ours, points)
        details = {**setting, **shown, "peer": [vars(point) for point in points], "compared": pair}
        rows.append(
            record(
                "B3",
                f"bytes per position at equal angle, against {name}",
                ratio,
                targets[name],
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
    ours, _, setting = measure_points()
    best = min((point for point in ours if point.bytes_per_position <= MAX_BYTES), key=lambda point: point.degrees)
    what = f"degrees to dense distillation at {best.bytes_per_position} bytes per position ({best.name})"
    return [
        record("B6", what, best.degrees, MAX_DEGREES, at_most=True, **setting, ours=[vars(point) for point in ours])
    ]
