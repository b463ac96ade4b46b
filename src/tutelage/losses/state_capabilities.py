"""Say which loss over hidden states reads which signal, and what each then promises.

In: the names a recipe uses. Out: nothing, or a ``CapabilityError`` with the reason. The conformance tests
are generated from these tables, as with ``capabilities.py`` for the losses over logits; a recipe cannot write another
combination, since each kind of method names its one signal.
"""

from dataclasses import dataclass, field
from itertools import product

from tutelage.errors import CapabilityError
from tutelage.losses.capabilities import SIGNALS, SOURCES
from tutelage.losses.registry import STATE_LOSSES

STATE_PROPERTIES = (
    "oracle",  # equals the float64 oracle
    "fixed_point",  # zero and zero gradient when student equals teacher
    "gradcheck",  # gradient equals finite differences
    "detached_teacher",  # no gradient reaches the teacher, nor anything trainable on its side
    "split_invariance",  # 1x8 = 2x4 = 4x2 micro-batches, uneven ones
    "mask_blindness",  # tokens that do not count have no effect, even when NaN
    "permutation",  # the order of tokens, and of the rows of a group, changes nothing
    "empty",  # nothing to compare: sum 0, count 0, a connected graph
    "bf16",  # bfloat16 states are compared in float32
    "degenerate",  # zero vectors and equal rows have finite gradients of ordinary size
    "scale_invariance",  # states may be multiplied by any positive number, another one per token or group and side
)


@dataclass(frozen=True)
class StateCapability:
    """One defined combination, with the properties it cannot have and why."""

    denied: dict[str, str] = field(default_factory=dict)

    @property
    def granted(self) -> tuple[str, ...]:
        """Properties that the conformance suite proves."""
        return tuple(name for name in STATE_PROPERTIES if name not in self.denied)


_MSE = {"scale_invariance": "it compares sizes too: twice the states are four times the loss"}
_RELATION = {"mask_blindness": "it takes no mask: every row is in a group, and pooling has left the padding out"}

_DENIED: dict[str, dict[str, str]] = {
    "hidden_mse": _MSE,
    "hidden_normalised_mse": {},
    "hidden_cosine": {},
    "relation_distance": _RELATION,
    "relation_angle": _RELATION,
}

# (source, signal, loss)
STATE_CAPABILITIES: dict[tuple[str, str, str], StateCapability] = {
    (source, loss.reads, name): StateCapability(_DENIED[name])
    for name, loss in STATE_LOSSES.items()
    for source in ("live", "cached")
}

_WHAT_IT_COMPARES = {
    "hidden": "it compares hidden states token by token; add a signal `hidden`",
    "pooled": "it compares how the rows of a group lie to each other, by one vector per row; add a signal `pooled`",
}

STATE_REFUSALS: dict[tuple[str, str, str], str] = {
    (source, signal, name): "a server does not give hidden states; use a local teacher"
    if source == "served"
    else _WHAT_IT_COMPARES[loss.reads]
    for source, signal, (name, loss) in product(SOURCES, SIGNALS, STATE_LOSSES.items())
    if source == "served" or signal != loss.reads
}


def check_state_capability(*, source: str, signal: str, loss: str) -> None:
    """Refuse a loss over hidden states for a signal that it does not read, with the reason.

    Args:
        source: Where the signal comes from: live, cached or served.
        signal: A signal's kind; ``hidden`` or ``pooled`` for something to be defined.
        loss: A key of ``STATE_LOSSES``.

    Raises:
        CapabilityError: What was asked, why it is not defined, what to use instead.
    """
    for what, name, known in (("loss", loss, STATE_LOSSES), ("source", source, SOURCES), ("signal", signal, SIGNALS)):
        if name not in known:
            raise CapabilityError(f"unknown {what} {name!r}; expected one of {', '.join(known)}")
    if (reason := STATE_REFUSALS.get((source, signal, loss))) is not None:
        raise CapabilityError(f"{loss} is not defined for signal {signal} from a {source} teacher: {reason}")
