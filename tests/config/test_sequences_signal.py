"""The signal of generated answers: what it means, and what it refuses."""

import pytest
from recipe_texts import OWN_FILE, load, problems

from tutelage.config import SequencesSignal

SIGNALS = "signals=[{kind: final_hidden}, {kind: sequences%s}]"


def test_by_default_answers_are_greedy_short_and_gated():
    (_, signal) = load(OWN_FILE, SIGNALS % "").recipe.signals
    assert isinstance(signal, SequencesSignal)
    assert (signal.max_new_tokens, signal.do_sample, signal.num_samples) == (64, False, 1)
    assert (signal.stop, signal.template, signal.allow_bad) == ((), "auto", False)


@pytest.mark.parametrize("setting", ["temperature: 0.7", "top_p: 0.9", "num_samples: 4", "seed: 1"])
def test_a_setting_of_sampling_without_sampling_is_refused(setting):
    name = setting.partition(":")[0]
    found = problems(OWN_FILE, SIGNALS % f", {setting}")
    assert found == {f"command line: signals.1.{name}": "has no effect without `do_sample: true`"}
    assert load(OWN_FILE, SIGNALS % f", do_sample: true, {setting}").recipe.signals[1].do_sample


@pytest.mark.parametrize(
    ("setting", "path"),
    [
        ("max_new_tokens: 0", "max_new_tokens"),
        ("do_sample: true, top_p: 1.1", "top_p"),
        ("do_sample: true, temperature: 0", "temperature"),
        ("stop: ['']", "stop.0"),
        ("template: chatml", "template"),
    ],
)
def test_impossible_settings_are_found_at_their_path(setting, path):
    assert list(problems(OWN_FILE, SIGNALS % f", {setting}")) == [f"command line: signals.1.{path}"]


def test_a_token_loss_on_answers_is_refused():
    assert problems(OWN_FILE, SIGNALS % "", "methods.KD1.signal=sequences") == {
        "command line: methods.KD1.signal": "'sequences' holds answers, which forward_kl does not read; name "
        "final_hidden, topk or sampled"
    }
