from itertools import product

import pytest
from loss_cases import HEADS, PATHS, make_case
from loss_properties import CHECKS, named

from tutelage.errors import CapabilityError
from tutelage.losses import CAPABILITIES
from tutelage.losses.capabilities import PROPERTIES

# What depends on the form of the head is proven on every form, the rest on the one that has bias, scale and softcap.
OF_THE_HEAD = ("oracle", "fixed_point", "gradcheck", "bf16", "fused")


def distinct(capabilities):
    """Leave out a source whose signal and promises another one has: a loss does not see the source."""
    seen = []
    for key, capability in capabilities.items():
        if (key[1:], capability) not in seen:
            seen.append((key[1:], capability))
            yield key, capability


HELD = [(key, name) for key, capability in distinct(CAPABILITIES) for name in capability.granted]
DENIED = [(key, name) for key, capability in distinct(CAPABILITIES) for name in capability.denied]


def heads_of(name):
    return HEADS if name in OF_THE_HEAD else ["softcap"]


def name_part(part):
    return "-".join(part) if isinstance(part, tuple) else part


@pytest.mark.parametrize(("key", "name"), HELD, ids=name_part)
def test_a_granted_property_holds(key, name):
    for head, path in product(heads_of(name), PATHS):
        with named(head, path):
            CHECKS[name](make_case(key, head=head), PATHS[path])


@pytest.mark.parametrize(("key", "name"), DENIED, ids=name_part)
def test_a_denied_property_fails_its_check_and_says_why(key, name):
    assert len(CAPABILITIES[key].denied[name]) > 10
    for path in PATHS:
        with named(path), pytest.raises((AssertionError, CapabilityError)):
            CHECKS[name](make_case(key), PATHS[path])


def test_sources_that_promise_the_same_are_proven_once_and_no_other():
    kept = dict(distinct(CAPABILITIES))
    assert set(kept) <= set(CAPABILITIES)
    for key, capability in CAPABILITIES.items():
        assert any(key[1:] == other[1:] and capability == kept[other] for other in kept), key


def test_every_property_has_a_check():
    assert set(CHECKS) == set(PROPERTIES)
    for capability in CAPABILITIES.values():
        assert set(capability.denied) <= set(PROPERTIES)
