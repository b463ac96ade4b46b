from itertools import product

import pytest

from tutelage.errors import CapabilityError
from tutelage.losses import LOSSES, check_capability
from tutelage.losses.capabilities import (
    CAPABILITIES,
    LABEL_DIVERGENCES,
    REFUSALS,
    SIGNALS,
    SOURCES,
    TEACHER_DIVERGENCES,
)


def test_every_combination_is_either_defined_or_refused_with_a_reason():
    for key in product(SOURCES, SIGNALS, TEACHER_DIVERGENCES):
        assert (key in CAPABILITIES) != (key in REFUSALS), key
    assert set(CAPABILITIES) | set(REFUSALS) == set(product(SOURCES, SIGNALS, TEACHER_DIVERGENCES)) | {
        ("none", "none", name) for name in LABEL_DIVERGENCES
    }


def test_the_divergences_are_the_registered_losses():
    assert {name for name, loss in LOSSES.items() if loss.compares_with == "labels"} == set(LABEL_DIVERGENCES)
    assert {name for name, loss in LOSSES.items() if loss.compares_with == "teacher"} == set(TEACHER_DIVERGENCES)


@pytest.mark.parametrize("key", REFUSALS, ids="-".join)
def test_a_refusal_gives_its_reason(key):
    source, signal, divergence = key
    with pytest.raises(CapabilityError) as caught:
        check_capability(source=source, signal=signal, divergence=divergence, temperature=1.0)
    assert REFUSALS[key] in str(caught.value)
    assert signal in str(caught.value)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0, 17.0])
@pytest.mark.parametrize("source", ["live", "cached"])
def test_final_hidden_serves_any_temperature(source, temperature):
    check_capability(source=source, signal="final_hidden", divergence="forward_kl", temperature=temperature)


def test_cross_entropy_goes_with_every_source_and_signal():
    for source, signal in product((*SOURCES, "none"), SIGNALS):
        check_capability(source=source, signal=signal, divergence="cross_entropy")


def test_topk_serves_its_stored_temperatures_and_one():
    asked = {"source": "cached", "signal": "topk", "divergence": "forward_kl"}
    check_capability(**asked, temperature=1.0, cached_temperatures=[])
    check_capability(**asked, temperature=2.0, cached_temperatures=[1.0, 2.0])
    check_capability(**asked, temperature=4.0)  # what is stored is not known yet
    with pytest.raises(CapabilityError, match=r"stores log_z for 1, 2 only.*final_hidden"):
        check_capability(**asked, temperature=4.0, cached_temperatures=[2.0])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"source": "served", "signal": "topk", "temperature": 2.0}, "only T = 1 is defined"),
        ({"source": "live", "signal": "dense", "temperature": 0.0}, "above 0"),
        ({"source": "live", "signal": "dense", "temperature": float("nan")}, "above 0"),
        ({"source": "live", "signal": "logits"}, "unknown signal 'logits'; expected one of dense"),
        ({"source": "remote", "signal": "topk"}, "unknown source 'remote'; expected one of live"),
        ({"source": "live", "signal": "topk", "divergence": "kl"}, "unknown divergence 'kl'; expected one of cross"),
        ({"source": "none", "signal": "topk"}, "there is no signal"),
        ({"source": "none", "signal": "none", "divergence": "cross_entropy", "temperature": 2.0}, "expected 1"),
    ],
)
def test_an_undefined_request_says_what_is_expected(asked, message):
    with pytest.raises(CapabilityError, match=message):
        check_capability(**{"divergence": "forward_kl", **asked})
