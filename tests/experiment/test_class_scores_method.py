"""``signal: class_scores`` through the whole pipeline, and what happens where labels are not one token each."""

import json

import pytest
from tiny_experiment import RECIPE, run_tiny, write_experiment

from tutelage.errors import CapabilityError
from tutelage.experiment import list_runs
from tutelage.experiment.teach import FACTS_FILE, Taught


def test_a_method_may_learn_from_the_label_words_alone(tmp_path):
    changed = RECIPE.replace("{kind: logit, ", "{kind: logit, signal: class_scores, divergence: jsd, beta: 0.3, ")
    done = run_tiny(write_experiment(tmp_path, recipe=changed), "seeds.report=[1]", until="train")
    (record,) = [run.record for run in list_runs(done.root.parent) if run.run_id.startswith("KD1_")]
    assert record["metrics"]["test"]["n"] == 32
    lines = (done.at(record["run_id"]) / "metrics.jsonl").read_text().splitlines()
    assert all(json.loads(line)["parts"]["jsd"] > 0 for line in lines)


def test_a_signal_that_was_not_stored_is_named_with_the_remedy(tmp_path):
    (tmp_path / FACTS_FILE).write_text('{"columns": [{"kind": "final_hidden", "width": 8, "dtype": "fp32"}]}')
    with pytest.raises(CapabilityError, match=r"stored final_hidden, not class_scores.*one token each"):
        Taught(tmp_path).column("class_scores")
