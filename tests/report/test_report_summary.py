"""What is compared with what, and which checks a comparison must pass."""

from typing import Any

import pytest

from tutelage.report.arms import Arm, group_arms
from tutelage.report.collect import Experiment, Run
from tutelage.report.curves import arm_curves
from tutelage.report.statistics import paired_difference
from tutelage.report.summary import summarise
from tutelage.report.trials import heat_map_grids


def arms_by_label(group):
    return {arm["label"]: arm for arm in group["arms"]}


def check(group, name):
    return next(each for each in group["checks"] if each["name"] == name)


def summarised(experiment):
    return summarise(experiment, question="", command="c")["groups"]


def test_arms_come_in_the_order_of_the_argument(group):
    assert [arm["label"] for arm in group["arms"]] == ["Teacher", "Untouched", "B0", "PSEUDO", "KD1", "KD1-permuted"]


def test_method_is_compared_with_every_arm_that_could_explain_it(group):
    assert [(each["method"], each["rival"]) for each in group["comparisons"]] == [
        ("KD1", rival) for rival in ("B0", "PSEUDO", "Untouched", "KD1-permuted", "Teacher")
    ]


def test_score_of_an_arm_is_the_mean_of_its_runs(group, experiment):
    runs = [run for run in experiment.runs if run.record["method"] == "KD1"]
    expected = sum(run.test["accuracy"] for run in runs) / 3
    assert arms_by_label(group)["KD1"]["score"]["estimate"] == pytest.approx(expected, abs=1e-9)


def test_comparison_is_the_paired_one(group, experiment):
    ((_, arms),) = group_arms(experiment.runs).items()
    by_label = {arm.label: arm for arm in arms}
    expected = paired_difference(by_label["KD1"].scores, by_label["B0"].scores)
    found = group["comparisons"][0]
    assert found["difference"]["low"] == expected.interval.low
    assert found["p_value"] == expected.p_value
    assert len(found["per_seed"]) == 3


def test_holm_never_lowers_a_p_value(group):
    assert all(each["p_holm"] >= each["p_value"] for each in group["comparisons"])


def test_a_control_answers_to_the_method_that_it_permutes(experiment, change_records):
    def two_methods(record: dict[str, Any]) -> dict[str, Any]:
        if record["method"] == "PSEUDO" and not record.get("trial"):
            record |= {"method": "KD2", "role": "method"}
        return record

    (group,) = summarised(change_records(experiment, two_methods))
    controls = [(each["method"], each["rival"]) for each in group["comparisons"] if each["rival_role"] == "control"]
    assert controls == [("KD1", "KD1-permuted")]


def test_fair_experiment_passes_all_checks(group):
    assert [each["passed"] for each in group["checks"]] == [True] * 4


def test_unequal_effort_is_told(experiment):
    fewer = Experiment(experiment.name, experiment.runs, experiment.trials[1:])
    (group,) = summarised(fewer)
    found = check(group, "Equal tuning effort")
    assert not found["passed"]
    assert "B0 5" in found["finding"]


def test_without_a_search_effort_and_selection_are_unknown(experiment):
    (group,) = summarised(Experiment(experiment.name, experiment.runs, ()))
    found = [check(group, name)["passed"] for name in ("Equal tuning effort", "Selection apart from reporting")]
    assert found == [None, None]


def test_unequal_budget_is_told(experiment, change_records):
    longer = change_records(experiment, lambda r: r | {"tokens": 600_000} if r["method"] == "KD1" else r)
    (group,) = summarised(longer)
    assert not check(group, "Equal student budget")["passed"]


def test_a_selection_seed_among_the_reported_ones_is_told(experiment, change_records):
    (group,) = summarised(change_records(experiment, lambda r: r | {"seed": 42} if r.get("trial") else r))
    assert not check(group, "Selection apart from reporting")["passed"]


def test_a_missing_seed_is_told_and_left_out(experiment):
    runs = tuple(run for run in experiment.runs if run.run_id != "B0_sentiment_S1_seed123")
    (group,) = summarised(Experiment(experiment.name, runs, experiment.trials))
    assert not check(group, "Same seeds in every arm")["passed"]
    assert [pair["seed"] for pair in group["comparisons"][0]["per_seed"]] == [42, 456]


def test_teacher_and_untouched_alone_make_a_report_without_claims(experiment):
    runs = tuple(run for run in experiment.runs if run.seed is None)
    (group,) = summarised(Experiment(experiment.name, runs, ()))
    assert group["answer"]["verdict"] == "open"
    assert group["comparisons"] == []


def test_students_are_grouped_apart_and_share_the_teacher(experiment, change_records):
    second = change_records(experiment, lambda r: r | {"student": "S2"} if r["student"] else r)
    both = Experiment("x", (*experiment.runs, *(run for run in second.runs if run.role != "teacher")), ())
    groups = summarised(both)
    assert [(group["task"], group["student"]) for group in groups] == [("sentiment", "S1"), ("sentiment", "S2")]
    assert all(group["arms"][0]["label"] == "Teacher" for group in groups)


# --- trials


def test_the_chosen_trial_is_the_one_whose_settings_are_reported(group):
    chosen = {trial["method"]: trial["settings"] for trial in group["trials"] if trial["chosen"]}
    reported = {label: arm["settings"] for label, arm in arms_by_label(group).items() if label in chosen}
    assert chosen == reported
    assert len(chosen) == 3


def test_every_trial_is_listed_best_first(group):
    assert len(group["trials"]) == 18
    for method in ("B0", "PSEUDO", "KD1"):
        scores = [trial["validation"] for trial in group["trials"] if trial["method"] == method]
        assert scores == sorted(scores, reverse=True)


def test_heat_map_holds_every_cell_of_temperature_by_alpha(group):
    grid = group["heat_maps"][0]
    assert (grid["method"], grid["row_setting"], grid["column_setting"]) == ("KD1", "temperature", "alpha")
    assert (grid["rows"], grid["columns"], grid["chosen"]) == ([1, 2, 4], [0.1, 0.3], [1, 1])
    by_cell = {
        (t["settings"]["temperature"], t["settings"]["alpha"]): t["validation"]
        for t in group["trials"]
        if t["method"] == "KD1"
    }
    assert grid["cells"] == [[by_cell[t, a] for a in (0.1, 0.3)] for t in (1, 2, 4)]


def trial(settings, validation):
    return {"method": "KD1", "settings": settings, "validation": validation, "chosen": False}


def test_further_settings_leave_the_best_trial_in_a_cell():
    trials = [
        trial({"temperature": t, "alpha": a, "train.learning_rate": lr}, t + a + lr)
        for t in (1, 2)
        for a in (0.1, 0.3)
        for lr in (0.01, 0.02)
    ]
    (grid,) = heat_map_grids(trials)
    assert (grid["row_setting"], grid["column_setting"]) == ("temperature", "alpha")
    assert grid["cells"][1][1] == pytest.approx(2.32)


def test_one_varying_setting_is_no_grid():
    assert heat_map_grids([trial({"temperature": t, "alpha": 0.1}, 0.5) for t in (1, 2)]) == []


def test_a_hole_in_the_grid_stays_empty():
    trials = [trial({"temperature": t, "alpha": a}, 0.5) for t, a in ((1, 0.1), (2, 0.1), (2, 0.3))]
    assert heat_map_grids(trials)[0]["cells"] == [[0.5, None], [0.5, 0.5]]


# --- curves


def history(losses, validation=()):
    return Run(
        record={"method": "KD1"},
        items=None,
        labels=(),
        steps=tuple({"step": step, "loss_nats": loss} for step, loss in losses),
        evaluations=tuple({"step": step, "accuracy": value} for step, value in validation),
        provenance={},
        content_digest="",
    )


def curves(*runs):
    return arm_curves(Arm("KD1", "method", "KD1", dict(enumerate(runs))), metric="accuracy")


def test_curve_is_the_mean_over_seeds_with_their_range():
    found = curves(
        history([(1, 1.0), (2, 0.5)], [(1, 0.6), (2, 0.7)]), history([(1, 3.0), (2, 0.7)], [(1, 0.6), (2, 0.9)])
    )
    assert found is not None
    assert found["loss"]["mean"] == pytest.approx([2.0, 0.6])
    assert (found["loss"]["low"], found["loss"]["high"]) == ([1.0, 0.5], [3.0, 0.7])
    assert found["validation"]["mean"] == pytest.approx([0.6, 0.8])


def test_one_evaluation_is_no_curve():
    found = curves(history([(1, 1.0), (2, 0.5)], [(2, 0.7)]))
    assert found is not None
    assert found["validation"] is None


def test_a_seed_that_stopped_early_does_not_bend_the_mean():
    found = curves(history([(step, 1.0) for step in range(1, 11)]), history([(step, 3.0) for step in range(1, 6)]))
    assert found is not None
    assert set(found["loss"]["mean"]) == {2.0}
    assert len(found["loss"]["step"]) == 5


def test_long_runs_are_binned_without_losing_their_mean():
    found = curves(history([(step, float(step)) for step in range(1, 1201)]))
    assert found is not None
    assert len(found["loss"]["step"]) == 60
    assert sum(found["loss"]["mean"]) / 60 == pytest.approx(600.5)
    assert found["loss"]["step"] == pytest.approx(found["loss"]["mean"])


def test_nothing_logged_gives_no_curve():
    assert curves(history([])) is None
