"""The method ``sequence`` from the teacher's answers to scored students, on both kinds of task."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from reading_experiment import RECIPE as READING_RECIPE
from reading_experiment import write_reading_experiment
from tiny_experiment import RECIPE, Finished, run_tiny, write_experiment

from tutelage.align.control_tokens import encode_texts
from tutelage.config import load_recipe
from tutelage.experiment.sequence_rows import stored_answers
from tutelage.experiment.stored import open_stored
from tutelage.experiment.teach import Taught
from tutelage.store import read_manifest
from tutelage.train.loop import train

METHODS = (
    "methods:\n  B0: {kind: baseline}\n  PSEUDO: {kind: pseudo}\n  KD1: {kind: logit, temperature: 2, alpha: 0.3}\n"
)
SIGNALS = "signals: [{kind: final_hidden}, {kind: topk, k: 8, temperatures: [1, 2]}]"


class Spy:
    """The rows that each run learnt, by run id; a trial's too."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.rows: dict[str, list] = {}

        def watched(module, rows, teacher, options, **rest):
            self.rows[rest["folder"].name.rpartition("-")[0]] = rows
            assert not teacher, "answers are targets, not a signal beside them"
            return train(module, rows, teacher, options, **rest)

        patch.setattr("tutelage.experiment.arm.train", watched)


def reviews(folder: Path) -> Path:
    """A teacher that writes one label or the other at random, twice per review; a search over lambda, and a control."""
    methods = "methods:\n  KD2: {kind: sequence, grid: {lambda: [0.1, 1]}}\n"
    signals = (
        "signals: [{kind: sequences, max_new_tokens: 5, do_sample: true, num_samples: 2, seed: 3, allow_bad: true}]"
    )
    recipe = RECIPE.replace(METHODS, methods).replace(SIGNALS, signals)
    recipe = recipe.replace("max_steps: 8", "max_steps: 30").replace("report: [1, 2]", "report: [1]")
    return write_experiment(folder, recipe=recipe)


def questions(folder: Path, *, methods: str, max_new_tokens: int = 4) -> Path:
    recipe = READING_RECIPE.replace(METHODS, f"methods:\n{methods}")
    recipe = recipe.replace(
        "[{kind: final_hidden}]", f"[{{kind: sequences, max_new_tokens: {max_new_tokens}, allow_bad: true}}]"
    )
    return write_reading_experiment(folder, recipe=recipe)


@pytest.fixture(scope="module")
def classified(tmp_path_factory):
    torch.set_num_threads(1)  # a fixture of a module comes before the one that every test has
    with pytest.MonkeyPatch.context() as patch:
        spy = Spy(patch)
        return run_tiny(reviews(tmp_path_factory.mktemp("reviews")), control=True, until="train"), spy.rows


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    torch.set_num_threads(1)  # a fixture of a module comes before the one that every test has
    with pytest.MonkeyPatch.context() as patch:
        spy = Spy(patch)
        recipe = questions(
            tmp_path_factory.mktemp("questions"), methods="  B0: {kind: baseline}\n  KD2: {kind: sequence}\n"
        )
        return run_tiny(recipe, until="train"), spy.rows


def answers_of(finished: Finished, task: str) -> dict[str, list]:
    """What lies in the cache, by item."""
    stored = opened(finished)
    found = stored_answers(stored.data, Taught(finished.at(f"teach/{task}")))
    return {
        example.item_key: samples for example, samples in zip(stored.data.prepared.splits["train"], found, strict=True)
    }


def targets(rows, tokenizer) -> dict[str, str]:
    return {row.item_key: tokenizer.decode(row.ids[row.target_mask]) for row in rows}


def tokenizer_of(finished: Finished):
    return opened(finished).tokenizer


def opened(finished: Finished):
    """The one task of the experiment, as the teacher reads it."""
    (stored,) = open_stored(load_recipe(finished.recipe, environment={}), show=print)
    return stored


def test_half_of_the_questions_learn_what_the_teacher_wrote_and_the_others_gold(read):
    finished, rows = read
    gold, mixed = (
        {row.item_key: row for row in rows[name]} for name in ("B0_squad_S1_seed1", "KD2_squad_S1_l0.5_seed1")
    )
    written, words = answers_of(finished, "squad"), targets(mixed.values(), tokenizer_of(finished))
    assert list(mixed) == list(gold)
    taught = [key for key in mixed if not np.array_equal(mixed[key].ids, gold[key].ids)]
    record = finished.record("KD2_squad_S1_l0.5_seed1")
    counts = record["sequences"]
    assert counts["num_taught"] == round(0.5 * len(gold)) == record["gold_labels"]
    assert 0 < len(taught) <= counts["num_taught"], "a teacher that is always right would prove nothing"
    for key in taught:
        (answer,) = written[key]
        assert words[key] == answer.text.strip() + " <end>"
        assert mixed[key].ids[~mixed[key].target_mask].tolist() == gold[key].ids[~gold[key].target_mask].tolist()
    assert (counts["num_cut"], counts["num_left_out"], counts["allowed"]) == (0, 0, [])
    baseline = finished.record("B0_squad_S1_seed1")
    assert (record["role"], record["kind"], record["steps"]) == ("method", "sequence", baseline["steps"])
    assert record["tokens"] == baseline["tokens"], "every answer here is one city: the budget is that of B0"
    assert record["teacher_tokens"] > 0
    assert record["metrics"]["test"]["n"] == baseline["metrics"]["test"]["n"] == 30


def test_the_same_run_made_again_has_the_same_content_and_the_same_command_skips_it(read):
    finished, _ = read
    folder = finished.at("KD2_squad_S1_l0.5_seed1")
    before = read_manifest(folder)
    assert run_tiny(finished.recipe, until="train").outcome.skipped == 8
    folder.rename(finished.recipe.parent / "aside")
    run_tiny(finished.recipe, until="train")
    after = read_manifest(folder)
    assert before is not None
    assert after is not None
    assert before.content_digest == after.content_digest


@pytest.mark.slow  # the rule itself is held by test_sequence_rows
def test_answers_that_were_cut_teach_no_end_and_what_the_gate_let_pass_is_in_the_run(tmp_path, monkeypatch):
    spy = Spy(monkeypatch)
    recipe = questions(tmp_path, methods="  KD2: {kind: sequence, lambda: 1}\n", max_new_tokens=1)
    finished = run_tiny(recipe, until="train")
    (rows,) = spy.rows.values()
    end = tokenizer_of(finished).eos_token_id
    assert not any(end in row.ids for row in rows)
    record = finished.record("KD2_squad_S1_l1_seed1")
    assert record["sequences"]["num_cut"] == len(rows) == record["sequences"]["num_taught"]
    assert record["gold_labels"] == 0
    (allowed,) = record["sequences"]["allowed"]
    assert "are cut at the token limit" in allowed


def as_words(tokenizer, text: str) -> str:
    """A teacher's text as a row holds it: ``<pad>`` in it is text and no control token."""
    return tokenizer.decode(encode_texts(tokenizer, [text], [()])[0])


def test_a_search_over_lambda_names_its_trials_and_trains_the_exact_shares(classified):
    finished, rows = classified
    written, tokenizer = answers_of(finished, "sentiment"), tokenizer_of(finished)
    data = opened(finished).data
    gold = targets(data.rows(data.prepared.splits["train"]), tokenizer)
    for share in (0.1, 1):
        name = f"KD2_sentiment_S1_l{share}_seed7"
        counts = finished.record(name)["sequences"]
        items = len(rows[name])
        assert counts["num_taught"] == round(share * items)
        assert counts["num_taught"] + counts["num_gold"] == items == len(gold) - counts["num_left_out"]
        taught = {key: words for key, words in targets(rows[name], tokenizer).items() if words != gold[key]}
        assert 0 < len(taught) <= counts["num_taught"]
        for key, words in taught.items():
            assert words.removesuffix(" <end>") in {as_words(tokenizer, answer.text.strip()) for answer in written[key]}


def test_the_control_learns_the_same_answers_at_other_items(classified):
    finished, rows = classified
    (own,) = [name for name in rows if name.startswith("KD2_") and name.endswith("seed1")]
    other = own.replace("KD2_", "KD2-permuted_")
    tokenizer = tokenizer_of(finished)
    true, permuted = targets(rows[own], tokenizer), targets(rows[other], tokenizer)
    assert list(true) == list(permuted)
    assert Counter(true.values()) == Counter(permuted.values())
    assert true != permuted
    assert finished.record(other)["role"] == "control"
    assert finished.record(other)["tokens"] == finished.record(own)["tokens"]
