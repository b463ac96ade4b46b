"""The conformance table's machinery, on our own losses and on plain recipes: no peer needs to be installed."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.conformance import measure_row, tail_push, value_and_gradient, zipf_problem
from benchmarks.conformance_rows import OURS, ROWS

PLAIN = [row for row in ROWS if row.package is None]


@pytest.fixture(scope="module")
def problem():
    return zipf_problem()


@pytest.mark.parametrize("row", PLAIN, ids=lambda row: row.name)
def test_a_loss_equals_its_own_oracle(row, problem):
    assert measure_row(row, problem)["value_error"] < 1e-12


@pytest.mark.parametrize("row", [row for row in PLAIN if row.name in OURS], ids=lambda row: row.name)
def test_our_losses_hold_every_property_of_the_table(row, problem):
    found = measure_row(row, problem)
    assert found["fixed_point"] < 1e-12
    assert found["split_error"] < 1e-12
    assert found["small_tail_error"] < 1e-6
    assert 0.9 < found["scale"] < 1.1
    lowered, equal, lifted = found["tail_push"]
    assert lowered < 0 < lifted
    assert abs(equal) < 1e-12


def test_the_table_tells_the_recipes_apart(problem):
    found = {row.name: measure_row(row, problem) for row in PLAIN}
    assert all(abs(slope) < 1e-12 for slope in found["top-k, both renormalised"]["tail_push"])
    for name in ("top-k, teacher raw, student full", "top-k, teacher renormalised, student full"):
        assert found[name]["fixed_point"] > 0.1
        assert min(found[name]["tail_push"]) > 0
        assert found[name]["split_error"] > 0.05


def test_an_oracle_sees_a_wrong_temperature(problem):
    row = next(row for row in PLAIN if row.name == "top-k + tail bucket")
    warm = replace(problem, temperature=2.0)
    wrong = replace(row, call=lambda part: row.call(replace(part, temperature=1.0)))
    assert value_and_gradient(row.call, warm)[0] == pytest.approx(row.oracle(warm), rel=1e-12)
    assert measure_row(wrong, problem)["value_error"] > 0.1
    assert tail_push(row, replace(problem, student_ND=problem.teacher_NE), 0.0) == pytest.approx(0.0, abs=1e-12)
