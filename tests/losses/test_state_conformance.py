"""Every loss over hidden states through every property that its capability grants; the others fail their check."""

from itertools import product

import pytest
from state_cases import VARIANTS, make_state_case
from state_properties import CHECKS

from tutelage.errors import CapabilityError
from tutelage.losses import STATE_CAPABILITIES, STATE_LOSSES, check_capability, check_state_capability
from tutelage.losses.capabilities import SIGNALS, SOURCES, TEACHER_DIVERGENCES
from tutelage.losses.state_capabilities import STATE_PROPERTIES, STATE_REFUSALS

# A loss does not see the source: what two of them promise alike is proven once.
PROMISES = {key[2]: capability for key, capability in STATE_CAPABILITIES.items()}
HELD = [
    (loss, settings, name)
    for loss, capability in PROMISES.items()
    for settings in VARIANTS.get(loss, [{}])
    for name in capability.granted
]
DENIED = [(loss, name) for loss, capability in PROMISES.items() for name in capability.denied]


def name_part(part):
    return "-".join(part.values()) if isinstance(part, dict) else part


@pytest.mark.parametrize(("loss", "settings", "name"), HELD, ids=name_part)
def test_a_granted_property_of_a_state_loss_holds(loss, settings, name):
    case = make_state_case(loss, settings)
    CHECKS[name](case, case.implementation)


@pytest.mark.parametrize(("loss", "name"), DENIED)
def test_a_denied_property_of_a_state_loss_fails_its_check_and_says_why(loss, name):
    assert len(PROMISES[loss].denied[name]) > 10
    case = make_state_case(loss)
    with pytest.raises(AssertionError):
        CHECKS[name](case, case.implementation)


def test_every_property_has_a_check_and_every_source_promises_the_same():
    assert set(CHECKS) == set(STATE_PROPERTIES)
    for key, capability in STATE_CAPABILITIES.items():
        assert capability == PROMISES[key[2]]
        assert set(capability.denied) <= set(STATE_PROPERTIES)


def test_every_combination_of_a_state_loss_is_either_defined_or_refused_with_a_reason():
    for key in product(SOURCES, SIGNALS, STATE_LOSSES):
        assert (key in STATE_CAPABILITIES) != (key in STATE_REFUSALS), key
    assert set(STATE_CAPABILITIES) | set(STATE_REFUSALS) == set(product(SOURCES, SIGNALS, STATE_LOSSES))


@pytest.mark.parametrize("loss", STATE_LOSSES)
def test_a_state_loss_on_a_signal_that_it_does_not_read_is_refused(loss):
    for key, reason in STATE_REFUSALS.items():
        if key[2] == loss:
            with pytest.raises(CapabilityError) as caught:
                check_state_capability(source=key[0], signal=key[1], loss=loss)
            assert reason in str(caught.value)
            assert key[1] in str(caught.value)
    for source in ("live", "cached"):
        check_state_capability(source=source, signal=STATE_LOSSES[loss].reads, loss=loss)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"source": "cached", "signal": "topk"}, "hidden_mse is not defined for signal topk .* add a signal `hidden`"),
        ({"source": "cached", "signal": "pooled"}, "token by token"),
        ({"source": "served", "signal": "hidden"}, "a server does not give hidden states"),
        ({"source": "cached", "signal": "states"}, "unknown signal 'states'; expected one of dense"),
        ({"source": "disk", "signal": "hidden"}, "unknown source 'disk'"),
        ({"source": "cached", "signal": "hidden", "loss": "mse"}, "unknown loss 'mse'; expected one of hidden_mse"),
    ],
)
def test_an_undefined_request_for_a_state_loss_says_what_is_expected(asked, message):
    with pytest.raises(CapabilityError, match=message):
        check_state_capability(**{"loss": "hidden_mse", **asked})


@pytest.mark.parametrize("signal", ["hidden", "pooled"])
@pytest.mark.parametrize("divergence", TEACHER_DIVERGENCES)
def test_a_divergence_of_distributions_is_refused_on_hidden_states(divergence, signal):
    with pytest.raises(CapabilityError, match="not a distribution over tokens; use final_hidden"):
        check_capability(source="cached", signal=signal, divergence=divergence)
