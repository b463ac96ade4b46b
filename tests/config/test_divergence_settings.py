"""Divergences in a recipe: every loss has a section, its settings reach the loss, and nothing is left unread."""

from typing import get_args

import pytest
from pydantic import ValidationError
from recipe_texts import OWN_FILE, load, problems

from tutelage.build import loss_terms
from tutelage.config import check_capabilities, expand_losses, grid_points, teacher_temperatures, with_point
from tutelage.config.losses import LossSection
from tutelage.config.methods import DIVERGENCES, Logit
from tutelage.errors import CapabilityError
from tutelage.losses import LOSSES
from tutelage.types import LossTerm

TERMS = {
    "forward_kl": LossTerm("forward_kl", 0.7, 1.0),
    "reverse_kl": LossTerm("reverse_kl", 0.7, 1.0),
    "jsd": LossTerm("jsd", 0.7, 1.0, beta=0.5),
    "skew_kl": LossTerm("skew_kl", 0.7, 1.0, skew=0.1),
    "skew_reverse_kl": LossTerm("skew_reverse_kl", 0.7, 1.0, skew=0.1),
    "total_variation": LossTerm("total_variation", 0.7, 1.0),
}


def test_every_registered_loss_has_a_section_with_its_setting():
    sections = {get_args(section.model_fields["kind"].annotation)[0]: section for section in get_args(LossSection)}
    assert list(sections) == list(LOSSES)
    assert {kind: section for kind, section in sections.items() if kind in DIVERGENCES} == DIVERGENCES
    assert set(get_args(Logit.model_fields["divergence"].annotation)) == set(DIVERGENCES)
    for kind, loss in LOSSES.items():
        shares = {"beta", "skew"} & set(sections[kind].model_fields)
        assert shares == ({loss.setting} if loss.setting else set())


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_logit_method_takes_every_divergence_with_its_default(divergence: str):
    overrides = (f"methods.KD1.divergence={divergence}", "methods.KD1.temperature=1")
    method = load(OWN_FILE, *overrides).recipe.methods["KD1"]

    assert loss_terms(method) == [LossTerm("cross_entropy", 0.3), TERMS[divergence]]
    assert teacher_temperatures(method) == [1.0]


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_custom_method_takes_every_divergence(divergence: str):
    losses = f"{{signal: final_hidden, losses: [{{kind: {divergence}, weight: 0.7}}]}}"
    recipe = load(OWN_FILE, f"methods.KD1={losses}").recipe

    assert loss_terms(recipe.methods["KD1"]) == [TERMS[divergence]]
    check_capabilities(recipe)


def test_a_weighted_sum_may_hold_several_divergences():
    losses = "[{kind: forward_kl, temperature: 4}, {kind: jsd, beta: 0.2, weight: 3}, {kind: cross_entropy}]"
    method = load(OWN_FILE, f"methods.KD1={{signal: final_hidden, losses: {losses}}}").recipe.methods["KD1"]

    assert loss_terms(method) == [
        LossTerm("forward_kl", 1.0, 4.0),
        LossTerm("jsd", 3.0, 1.0, beta=0.2),
        LossTerm("cross_entropy", 1.0),
    ]


@pytest.mark.parametrize(
    ("settings", "term"),
    [
        ("divergence: jsd, beta: 0.1", LossTerm("jsd", 0.7, 1.0, beta=0.1)),
        ("divergence: skew_kl, skew: 0.3", LossTerm("skew_kl", 0.7, 1.0, skew=0.3)),
        ("divergence: skew_reverse_kl, skew: 0.3", LossTerm("skew_reverse_kl", 0.7, 1.0, skew=0.3)),
    ],
)
def test_beta_and_skew_reach_the_loss(settings: str, term: LossTerm):
    method = load(OWN_FILE, f"methods.KD1={{kind: logit, alpha: 0.3, {settings}}}").recipe.methods["KD1"]

    assert loss_terms(method)[1] == term


@pytest.mark.parametrize(
    ("settings", "path", "message"),
    [
        ("beta: 0.5", "beta", "has no effect with divergence forward_kl"),
        ("divergence: jsd, skew: 0.5", "skew", "has no effect with divergence jsd"),
        ("divergence: skew_kl, beta: 0.5", "beta", "has no effect with divergence skew_kl"),
        ("divergence: jsd, beta: 0", "beta", "found 0, expected a number above 0"),
        ("divergence: jsd, beta: 1", "beta", "found 1, expected a number below 1"),
        ("divergence: skew_kl, skew: 1", "skew", "found 1, expected a number below 1"),
        ("divergence: kl", "divergence", "found 'kl'; expected one of forward_kl, reverse_kl, jsd, skew_kl, "),
    ],
)
def test_a_setting_that_is_not_read_or_out_of_range_is_found_at_its_path(settings: str, path: str, message: str):
    found = problems(OWN_FILE, f"methods.KD1={{kind: logit, {settings}}}")

    assert list(found) == [f"command line: methods.KD1.{path}"]
    assert found[f"command line: methods.KD1.{path}"].startswith(message)


def test_a_grid_may_search_beta_and_the_divergence():
    for grid in ("{beta: [0.1, 0.5]}", "{divergence: [jsd, forward_kl]}"):
        text = OWN_FILE.replace("kind: baseline", "kind: baseline, grid: {train.max_steps: [1, 2]}")
        method = load(text, f"methods.KD1={{kind: logit, divergence: jsd, grid: {grid}}}").recipe.methods["KD1"]
        chosen = [loss_terms(with_point(method, point))[-1] for point in grid_points(method)]
        assert len({(term.kind, term.beta) for term in chosen}) == 2


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_class_scores_need_not_be_listed_and_serve_every_divergence_at_any_temperature(divergence: str):
    recipe = load(
        OWN_FILE, f"methods.KD1={{kind: logit, signal: class_scores, divergence: {divergence}, temperature: 3}}"
    ).recipe

    check_capabilities(recipe)
    assert recipe.methods["KD1"].signal == "class_scores"


def test_class_scores_of_a_task_without_label_words_are_refused():
    reading = "tasks.facts={kind: reading, data: {source: facts.jsonl}}"
    found = problems(OWN_FILE, reading, "evaluate.select_by=auto", "methods.KD1.signal=class_scores")

    assert found == {
        "command line: methods.KD1.signal": "'class_scores' are scores of label words, and task 'facts' has none; name "
        "final_hidden, topk or sampled"
    }


SAMPLED = "signals=[{kind: sampled, temperatures: [2]}]"


@pytest.mark.parametrize("divergence", [name for name in DIVERGENCES if name != "forward_kl"])
def test_samples_serve_forward_kl_only(divergence: str):
    recipe = load(OWN_FILE, SAMPLED, "methods.KD1.signal=sampled", f"methods.KD1.divergence={divergence}").recipe

    with pytest.raises(CapabilityError, match=rf"methods\.KD1: {divergence} .* biased loss; use forward_kl"):
        check_capabilities(recipe)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_token_loss_on_hidden_states_is_refused_by_its_name(divergence: str):
    signals = "signals=[{kind: hidden, stride: 2}]"
    found = problems(OWN_FILE, signals, "methods.KD1.signal=hidden", f"methods.KD1.divergence={divergence}")

    (message,) = found.values()
    assert message.startswith(f"'hidden' holds hidden states, which {divergence} does not read")


def test_the_terms_of_a_method_are_checked_again_when_a_point_is_set():
    method = load(OWN_FILE, "methods.KD1.divergence=jsd", "methods.KD1.beta=0.2").recipe.methods["KD1"]

    assert expand_losses(method)[1].model_dump()["beta"] == 0.2
    with pytest.raises(ValidationError, match="no effect"):
        with_point(method, {"divergence": "forward_kl"})
