"""``relation`` (REL) through the whole pipeline: what it trains, its control, what it refuses."""

import json

import pytest
from tiny_experiment import Finished, recipe_with, run_tiny, write_experiment

from tutelage.config import RecipeError
from tutelage.experiment import list_runs

SIGNALS = "signals: [{kind: final_hidden}, {kind: pooled, layers: [1, 4]}]"


def steps_of(finished: Finished, run_id: str) -> list[dict]:
    return [json.loads(line) for line in (finished.at(run_id) / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("arm", ["REL", "REL-permuted"])
def test_the_objective_is_cross_entropy_and_the_weighted_means_over_groups(state_methods: Finished, arm):
    lines = steps_of(state_methods, f"{arm}_sentiment_S1_ld2_la0.25_seed1")
    assert lines
    for line in lines:
        parts = line["parts"]
        expected = parts["cross_entropy"] + 2 * parts["relation_distance"] + 0.25 * parts["relation_angle"]
        assert line["loss_nats"] == pytest.approx(expected, rel=1e-6)
        assert min(parts.values()) > 0


def test_the_control_compares_with_the_vectors_of_other_rows(state_methods: Finished):
    first = {arm: steps_of(state_methods, f"{arm}_sentiment_S1_ld2_la0.25_seed1")[0] for arm in ("REL", "REL-permuted")}
    assert first["REL"]["parts"]["cross_entropy"] == first["REL-permuted"]["parts"]["cross_entropy"]
    assert first["REL"]["parts"]["relation_distance"] < 0.8 * first["REL-permuted"]["parts"]["relation_distance"]


def test_every_run_is_scored_and_says_what_it_read(state_methods: Finished):
    records = {run.record["role"]: run.record for run in list_runs(state_methods.root.parent) if "REL" in run.run_id}
    assert records.keys() == {"method", "control"}
    for record in records.values():
        assert record["metrics"]["test"]["n"] == 32
        assert record["gold_labels"] == 80
        assert record["train"]["group_rows"] == 4


def test_a_layer_that_the_student_lacks_is_refused_before_the_teacher_runs(tmp_path):
    methods = "  REL: {kind: relation, student_layer: 3, group_rows: 4}\n"
    with pytest.raises(RecipeError, match=r"methods\.REL: student S1: student layer 3 .* has 2 decoder layers"):
        run_tiny(write_experiment(tmp_path, recipe=recipe_with(methods, SIGNALS)), until="train")
    assert not (tmp_path / "runs" / "tiny" / "teach").exists()
