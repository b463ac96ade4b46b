import pytest
from loss_cases import HEADS, PATHS, make_case
from loss_oracles import ORACLES
from loss_properties import CHECKS

from tutelage.errors import CapabilityError
from tutelage.losses import CAPABILITIES, LOSSES
from tutelage.losses.capabilities import PROPERTIES

KEYS = list(CAPABILITIES)
HELD = [(key, name) for key, capability in CAPABILITIES.items() for name in capability.granted]
DENIED = [(key, name) for key, capability in CAPABILITIES.items() for name in capability.denied]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("key", "name"), HELD, ids=lambda part: "-".join(part) if isinstance(part, tuple) else part)
def test_a_granted_property_holds(key, name, path, head):
    CHECKS[name](make_case(key, head=head), PATHS[path])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("key", "name"), DENIED, ids=lambda part: "-".join(part) if isinstance(part, tuple) else part)
def test_a_denied_property_fails_its_check_and_says_why(key, name, path):
    assert len(CAPABILITIES[key].denied[name]) > 10
    with pytest.raises((AssertionError, CapabilityError)):
        CHECKS[name](make_case(key), PATHS[path])


def test_every_property_has_a_check():
    assert set(CHECKS) == set(PROPERTIES)
    for capability in CAPABILITIES.values():
        assert set(capability.denied) <= set(PROPERTIES)


def missing_entries(losses, capabilities, oracles) -> list[str]:
    """Say what a loss lacks: a capability, or an oracle for one of its signals."""
    missing = [f"capability of {name}" for name in losses if not any(key[2] == name for key in capabilities)]
    missing += [f"loss {key[2]}" for key in capabilities if key[2] not in losses]
    missing += [f"oracle of {key[2]} on {key[1]}" for key in capabilities if (key[2], key[1]) not in oracles]
    return missing


def test_every_loss_has_a_capability_and_an_oracle():
    assert missing_entries(LOSSES, CAPABILITIES, ORACLES) == []


def test_a_loss_without_capability_or_oracle_is_named():
    entry = CAPABILITIES["live", "dense", "forward_kl"]
    assert missing_entries({**LOSSES, "reverse_kl": None}, CAPABILITIES, ORACLES) == ["capability of reverse_kl"]
    capabilities = {**CAPABILITIES, ("live", "dense", "reverse_kl"): entry}
    assert missing_entries({**LOSSES, "reverse_kl": None}, capabilities, ORACLES) == ["oracle of reverse_kl on dense"]
    assert "loss reverse_kl" in missing_entries(LOSSES, capabilities, ORACLES)
