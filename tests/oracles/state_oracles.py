"""Losses over hidden states in float64, one token and one entry at a time, sharing no code with the package.

In: numpy arrays [rows, width], the rows of each group. Out: Python floats, summed with ``math.fsum``.
"""

import math

from relation_oracles import over_groups


def length(vector) -> float:
    """Give the Euclidean norm."""
    return math.sqrt(math.fsum(float(x) ** 2 for x in vector))


def mse(student, teacher) -> float:
    """Mean over the entries of the squared difference."""
    return math.fsum((float(s) - float(t)) ** 2 for s, t in zip(student, teacher, strict=True)) / len(student)


def normalised_mse(student, teacher) -> float:
    """Squared distance of the two vectors at length 1, as Patient KD writes it."""
    s, t = length(student), length(teacher)
    return math.fsum((float(a) / s - float(b) / t) ** 2 for a, b in zip(student, teacher, strict=True))


def cosine(student, teacher) -> float:
    """1 - cos."""
    product = math.fsum(float(a) * float(b) for a, b in zip(student, teacher, strict=True))
    return 1.0 - product / (length(student) * length(teacher))


def per_token(distance):
    """Make an oracle: a distance of two vectors, summed over the tokens."""

    def oracle(student, teacher, group_sizes) -> float:
        return math.fsum(distance(s, t) for s, t in zip(student, teacher, strict=True))

    return oracle


def relation_distance(student, teacher, group_sizes) -> float:
    return over_groups("distance", student, teacher, group_sizes)


def relation_angle(student, teacher, group_sizes, *, form) -> float:
    return over_groups(form, student, teacher, group_sizes)


# Keyed by loss: one without an entry fails a contract test.
STATE_ORACLES = {
    "hidden_mse": per_token(mse),
    "hidden_normalised_mse": per_token(normalised_mse),
    "hidden_cosine": per_token(cosine),
    "relation_distance": relation_distance,
    "relation_angle": relation_angle,
}
