"""Relational losses in float64, one pair or triplet at a time, sharing no code with the package.

In: the vectors of one group, as sequences of rows. Out: Python floats, summed with ``math.fsum``.
"""

import math
from itertools import permutations


def dot(a, b) -> float:
    return math.fsum(float(x) * float(y) for x, y in zip(a, b, strict=True))


def minus(a, b) -> list[float]:
    return [float(x) - float(y) for x, y in zip(a, b, strict=True)]


def huber(gap: float) -> float:
    """Smooth L1 with delta 1."""
    return 0.5 * gap * gap if abs(gap) < 1 else abs(gap) - 0.5


def cosine(a, b) -> float:
    return dot(a, b) / (math.sqrt(dot(a, a)) * math.sqrt(dot(b, b)))


def relative_distances(rows) -> dict[tuple[int, int], float]:
    """Give every ordered pair's distance over the mean of all."""
    pairs = list(permutations(range(len(rows)), 2))
    distances = {(i, j): math.sqrt(dot(gap := minus(rows[i], rows[j]), gap)) for i, j in pairs}
    mean = math.fsum(distances.values()) / len(pairs)
    return {pair: distance / mean if mean else 0.0 for pair, distance in distances.items()}


def distance(student, teacher, pairs=None) -> float:
    """Mean over pairs (None: all) of the Huber gap of relative distances; 0 for a single row."""
    if len(student) < 2:
        return 0.0
    of_student, of_teacher = relative_distances(student), relative_distances(teacher)
    gaps = [huber(of_student[pair] - of_teacher[pair]) for pair in pairs or of_student]
    return math.fsum(gaps) / len(gaps)


def angle_rkd(student, teacher, triplets=None) -> float:
    """Mean over triplets (i, j, k), vertex j (None: all), of the Huber gap of cosines; equal rows have no angle."""
    gaps = []
    for i, j, k in triplets or permutations(range(len(student)), 3):
        arms = [(minus(rows[i], rows[j]), minus(rows[k], rows[j])) for rows in (student, teacher)]
        if all(any(arm) for pair in arms for arm in pair):
            gaps.append(huber(cosine(*arms[0]) - cosine(*arms[1])))
        else:
            gaps.append(0.0)
    return math.fsum(gaps) / len(gaps) if gaps else 0.0


def angle_cosine(student, teacher) -> float:
    """Mean over pairs of the Huber gap of cosines seen from the origin; a zero vector has none."""
    gaps = []
    for i, j in permutations(range(len(student)), 2):
        if all(any(rows[row]) for rows in (student, teacher) for row in (i, j)):
            gaps.append(huber(cosine(student[i], student[j]) - cosine(teacher[i], teacher[j])))
        else:
            gaps.append(0.0)
    return math.fsum(gaps) / len(gaps) if gaps else 0.0


RELATION_ORACLES = {"distance": distance, "rkd": angle_rkd, "cosine": angle_cosine}


def over_groups(name, student, teacher, group_sizes) -> float:
    """Sum a relation over groups of adjacent rows."""
    totals, start = [], 0
    for size in group_sizes:
        rows = slice(start, start + size)
        totals.append(RELATION_ORACLES[name](student[rows].tolist(), teacher[rows].tolist()))
        start += size
    return math.fsum(totals)
