"""Say which source, signal, divergence and temperature go together, and what each then promises.

In: the names a recipe uses. Out: nothing, or a ``CapabilityError`` with the reason. Recipes are validated and the
conformance tests are generated from these tables.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

from tutelage.errors import CapabilityError
from tutelage.plugins import OwnLoss, find_own_loss

SOURCES = ("live", "cached", "served")
SIGNALS = ("dense", "final_hidden", "topk", "sampled", "class_scores", "hidden", "pooled", "none")
LABEL_DIVERGENCES = ("cross_entropy",)  # read gold labels: no teacher, no temperature
TEACHER_DIVERGENCES = ("forward_kl", "reverse_kl", "jsd", "skew_kl", "skew_reverse_kl", "total_variation")

PROPERTIES = (
    "oracle",  # equals the float64 oracle
    "fixed_point",  # zero and zero gradient when student equals teacher
    "gradcheck",  # gradient equals finite differences
    "detached_teacher",  # no gradient reaches the teacher
    "split_invariance",  # 1x8 = 2x4 = 4x2 micro-batches with uneven masks
    "mask_blindness",  # unsupervised positions have no effect, even when NaN
    "permutation",  # renaming the vocabulary changes nothing
    "small_tails",  # log-probabilities around -30 keep their digits
    "empty",  # no supervised position: sum 0, count 0, a connected graph
    "bf16",  # within a stated tolerance in bfloat16
    "fused",  # the fused path gives the same values and gradients
    "temperature_scale",  # gradients stay of one size as T grows (the factor T**2; T for total_variation)
    "dense_equality",  # equals the loss on dense logits
    "k_equals_v",  # with every id kept, equals the loss on dense logits
    "any_temperature",  # one record serves every T > 0
    "unbiased",  # the mean gradient over many independent draws is that of dense logits
)


@dataclass(frozen=True)
class Capability:
    """One defined combination: where it may be evaluated, and which properties it cannot have and why."""

    temperatures: Literal["any", "stored", "own", "one"]
    denied: dict[str, str] = field(default_factory=dict)

    @property
    def granted(self) -> tuple[str, ...]:
        """Properties that the conformance suite proves."""
        return tuple(name for name in PROPERTIES if name not in self.denied)


_NO_K = {"k_equals_v": "the signal keeps every id; there is no k"}
_TOPK = {
    "dense_equality": "ids in the tail bucket share one probability: a lower bound of the dense loss",
    "any_temperature": "only temperatures whose log_z was stored",
    "unbiased": "the tail bucket pulls on its ids in the student's proportions, not in the teacher's",
}
_SERVED_TOPK = {**_TOPK, "temperature_scale": "a server gives log-probabilities at T = 1 only"}
_SAMPLED = {
    "fixed_point": "zero in expectation only: one draw's weights are not the teacher's probabilities",
    "dense_equality": "equal in the mean over draws only",
    "k_equals_v": "its ids are drawn; there is no k",
    "any_temperature": "the draws come from p_T at one T, and re-weighting them to another keeps few of them",
    "temperature_scale": "the gradient's mean stays of one size, the noise of its draws grows with T",
}
_CLASS_SCORES = {
    "dense_equality": "both sides are normalised over the label words alone; other ids are not compared",
    "k_equals_v": "the signal keeps the label words; there is no k",
    "unbiased": "it does not estimate the dense loss, it is another one: over the label words alone",
}
_LABELS = {
    **_NO_K,
    "fixed_point": "its floor is the entropy of the labels, not 0",
    "detached_teacher": "there is no teacher",
    "dense_equality": "there is no teacher",
    "temperature_scale": "there is no temperature",
    "any_temperature": "gold labels are compared at T = 1",
    "unbiased": "there is no teacher",
}

# What every divergence of two distributions can do with a signal that holds one.
_DISTRIBUTIONS: dict[tuple[str, str], Capability] = {
    ("live", "dense"): Capability("any", _NO_K),
    ("live", "final_hidden"): Capability("any", _NO_K),
    ("live", "topk"): Capability("stored", _TOPK),
    ("live", "class_scores"): Capability("any", _CLASS_SCORES),
    ("cached", "final_hidden"): Capability("any", _NO_K),
    ("cached", "topk"): Capability("stored", _TOPK),
    ("cached", "class_scores"): Capability("any", _CLASS_SCORES),
    ("served", "topk"): Capability("one", _SERVED_TOPK),
}

# (source, signal, divergence). A label divergence is the same under every source and signal: one entry.
CAPABILITIES: dict[tuple[str, str, str], Capability] = {
    ("none", "none", "cross_entropy"): Capability("one", _LABELS),
    **{
        (source, signal, divergence): capability
        for divergence in TEACHER_DIVERGENCES
        for (source, signal), capability in _DISTRIBUTIONS.items()
    },
    # Samples estimate sums over the teacher's probabilities, and of these divergences only forward KL is one.
    ("live", "sampled", "forward_kl"): Capability("own", _SAMPLED),
    ("cached", "sampled", "forward_kl"): Capability("own", _SAMPLED),
}

_NO_TEACHER = (
    "it compares with a teacher, and there is no signal; add one under `signals` (final_hidden, topk or sampled)"
)
_SERVED_SAMPLED = "a server draws one token, not many from one distribution; use topk at T = 1"
_BIASED = (
    "it is not linear in the teacher's probabilities, so an estimate of them gives a biased loss; use forward_kl, or "
    "final_hidden or topk"
)
_NO_DISTRIBUTION = (
    "hidden states of a layer are not a distribution over tokens; use final_hidden, which gives one, or a loss over "
    "hidden states"
)

REFUSED_SIGNALS: dict[tuple[str, str], str] = {
    ("live", "none"): _NO_TEACHER,
    ("cached", "dense"): "dense logits are never stored (300 kB per position at V = 152k); use final_hidden, which "
    "gives the same loss",
    ("cached", "none"): _NO_TEACHER,
    ("served", "dense"): "a server gives top-k log-probabilities only; use topk at T = 1",
    ("served", "final_hidden"): "a server does not give hidden states; use topk at T = 1",
    ("served", "sampled"): _SERVED_SAMPLED,
    ("served", "class_scores"): "a server's top-k need not hold every label word; use topk at T = 1",
    ("served", "none"): _NO_TEACHER,
    **{(source, signal): _NO_DISTRIBUTION for source in SOURCES for signal in ("hidden", "pooled")},
}

REFUSALS: dict[tuple[str, str, str], str] = {
    **{
        (source, signal, divergence): reason
        for divergence in TEACHER_DIVERGENCES
        for (source, signal), reason in REFUSED_SIGNALS.items()
    },
    **{
        (source, "sampled", divergence): _BIASED
        for divergence in TEACHER_DIVERGENCES
        for source in ("live", "cached")
        if divergence != "forward_kl"
    },
}


def find_capability(*, source: str, signal: str, divergence: str) -> Capability:
    """Look a combination up.

    Raises:
        CapabilityError: If a name is unknown or the combination is not defined; the message says why.
    """
    own = None if divergence in (*LABEL_DIVERGENCES, *TEACHER_DIVERGENCES) else find_own_loss(divergence)
    if own is not None:
        return _own_capability(own, source=source, signal=signal)
    for what, name, known in (
        ("divergence", divergence, LABEL_DIVERGENCES + TEACHER_DIVERGENCES),
        ("source", source, (*SOURCES, "none")),
        ("signal", signal, SIGNALS),
    ):
        if name not in known:
            raise CapabilityError(f"unknown {what} {name!r}; expected one of {', '.join(known)}")
    if divergence in LABEL_DIVERGENCES:
        return CAPABILITIES["none", "none", divergence]
    if source == "none":
        raise CapabilityError(f"{divergence} with signal {signal} from no source: {_NO_TEACHER}")
    if (reason := REFUSALS.get((source, signal, divergence))) is not None:
        raise CapabilityError(f"{divergence} is not defined for signal {signal} from a {source} teacher: {reason}")
    return CAPABILITIES[source, signal, divergence]


def _own_capability(own: OwnLoss, *, source: str, signal: str) -> Capability:
    """Say what a loss that a user registered can read; nothing is proven of it."""
    nothing: dict[str, str] = dict.fromkeys(PROPERTIES, "a loss of the user's own")
    if own.reads == "labels":
        return Capability("any", nothing)
    found = _DISTRIBUTIONS.get((source, signal)) or CAPABILITIES.get((source, signal, "forward_kl"))
    if own.reads == "logits" and signal not in ("dense", "final_hidden"):
        found = None
    if found is None:
        expected = "final_hidden, which gives logits" if own.reads == "logits" else "final_hidden, topk or sampled"
        raise CapabilityError(f"{own.name} cannot read signal {signal} from source {source}; name {expected}")
    return Capability(found.temperatures, nothing)


def check_capability(
    *,
    source: str,
    signal: str,
    divergence: str,
    temperature: float = 1.0,
    cached_temperatures: Collection[float] | None = None,
) -> None:
    """Refuse a combination that is not defined, with the reason.

    Args:
        source: Where the signal comes from: live, cached, served (none when there is no teacher).
        signal: dense, final_hidden, topk, sampled, class_scores or none.
        divergence: A key of ``LOSSES``.
        temperature: Dimensionless, > 0.
        cached_temperatures: For topk those whose log_z is stored besides 1, for sampled those of its draws; None
            means not yet known.

    Raises:
        CapabilityError: What was asked, why it is not defined, what to use instead.
    """
    capability = find_capability(source=source, signal=signal, divergence=divergence)
    asked = f"{divergence} on {signal} from a {source} teacher at temperature {temperature:g}"
    if not temperature > 0:
        raise CapabilityError(f"{asked}: expected a temperature above 0")
    if capability.temperatures == "own":
        _check_own_temperature(asked, temperature, cached_temperatures)
        return
    if temperature == 1.0 or capability.temperatures == "any":
        return
    if divergence in LABEL_DIVERGENCES:
        raise CapabilityError(f"{divergence} at temperature {temperature:g}: expected 1, gold labels have no other")
    if capability.temperatures == "one":
        raise CapabilityError(f"{asked}: only T = 1 is defined; set temperature 1, or use a cached final_hidden signal")
    if cached_temperatures is not None and temperature not in cached_temperatures:
        stored = ", ".join(f"{t:g}" for t in sorted({1.0, *cached_temperatures}))
        raise CapabilityError(
            f"{asked}: the signal stores log_z for {stored} only; add the temperature to the signal's `temperatures` "
            "and teach again, or use final_hidden, which serves every temperature"
        )


def _check_own_temperature(asked: str, temperature: float, drawn_at: Collection[float] | None) -> None:
    if drawn_at is not None and temperature not in drawn_at:
        known = ", ".join(f"{t:g}" for t in sorted(drawn_at)) or "none"
        raise CapabilityError(
            f"{asked}: the signal was drawn at {known}; add a sampled signal with the loss's temperature and teach "
            "again, or use final_hidden, which serves every temperature"
        )
