"""The sentence must follow from the intervals, also when the answer is no."""

import pytest

from tutelage.report.answer import answer


def arm(label, role, *, share=0.95, validation=0.8, parameters_share=0.605):
    score = {"estimate": 0.85, "low": 0.83, "high": 0.87}
    kept = {"estimate": share, "low": share - 0.014, "high": share + 0.013} if share else None
    return {
        "label": label,
        "role": role,
        "score": score,
        "share_kept": kept,
        "validation": validation,
        "parameters_share": parameters_share,
    }


def comparison(role, low, high, *, method="KD1", seeds=(0.01, 0.02, 0.03)):
    rival = {"baseline": "B0", "pseudo": "PSEUDO", "control": "KD1-permuted", "untouched": "Untouched"}[role]
    difference = {"estimate": (low + high) / 2, "low": low, "high": high}
    per_seed = [{"seed": index, "difference": value} for index, value in enumerate(seeds)]
    return {"method": method, "rival": rival, "rival_role": role, "difference": difference, "per_seed": per_seed}


def answer_for(*comparisons, arms=None):
    arms = arms or [arm("Teacher", "teacher"), arm("KD1", "method")]
    return answer({"arms": arms, "comparisons": list(comparisons), "score_name": "accuracy"})


ABOVE, LEVEL, BELOW = (0.006, 0.032), (-0.008, 0.014), (-0.020, -0.004)


def test_a_clear_gain_is_told_with_size_share_and_intervals():
    result = answer_for(
        comparison("baseline", *ABOVE), comparison("pseudo", 0.010, 0.034), comparison("control", 0.03, 0.05)
    )
    assert result["verdict"] == "better"
    assert result["headline"] == "KD1 is 1.9 points above B0 [0.6, 3.2] and keeps 95.0 % of the teacher's accuracy."
    assert result["detail"] == (
        "KD1 keeps 95.0 % [93.6, 96.3] of the teacher's accuracy with 60.5 % of its parameters; "
        "KD1 is 1.9 points above B0 [0.6, 3.2] and 2.2 points above PSEUDO [1.0, 3.4]."
    )


def test_an_interval_over_zero_is_nothing_measurable():
    result = answer_for(comparison("baseline", *LEVEL), comparison("control", 0.03, 0.05))
    assert result["verdict"] == "nothing"
    assert result["headline"] == (
        "KD did nothing measurable: KD1 is not measurably different from B0 (+0.3 points [-0.8, 1.4])."
    )


def test_an_interval_that_only_touches_zero_is_nothing_measurable():
    assert answer_for(comparison("baseline", 0.0, 0.02))["verdict"] == "nothing"


def test_an_interval_below_zero_is_worse():
    result = answer_for(comparison("baseline", *BELOW))
    assert result["verdict"] == "worse"
    assert "KD is worse than plain fine-tuning: KD1 is 1.2 points below B0 [-2.0, -0.4]" in result["headline"]


@pytest.mark.parametrize(
    ("pseudo", "words"),
    [
        (LEVEL, "but soft targets added nothing measurable to PSEUDO."),
        (BELOW, "but 1.2 points below PSEUDO [-2.0, -0.4]."),
    ],
)
def test_a_gain_that_hard_labels_explain_is_not_called_better(pseudo, words):
    result = answer_for(comparison("baseline", *ABOVE), comparison("pseudo", *pseudo))
    assert result["verdict"] == "labels"
    assert words in result["headline"]


@pytest.mark.parametrize("control", [LEVEL, BELOW])
def test_a_gain_whose_control_did_not_lose_is_not_proven(control):
    result = answer_for(comparison("baseline", *ABOVE), comparison("control", *control))
    assert result["verdict"] == "suspect"
    assert result["headline"].endswith("but its control with permuted teacher rows did not lose.")
    assert "distrust any gain" in result["sentences"][0]


def test_the_control_is_reported_either_way():
    lost = answer_for(comparison("baseline", *ABOVE), comparison("control", 0.03, 0.05))
    assert lost["sentences"][0] == (
        "The control with permuted teacher rows lost, as it must: it is 4.0 points lower [3.0, 5.0]."
    )
    absent = answer_for(comparison("baseline", *ABOVE))
    assert absent["verdict"] == "better"
    assert "No permuted-teacher control was run" in absent["sentences"][0]


def test_without_a_baseline_nothing_is_claimed():
    result = answer_for(comparison("pseudo", *ABOVE))
    assert result["verdict"] == "open"
    assert "does not show that distillation helped" in result["headline"]


def test_without_a_method_there_is_no_comparison():
    result = answer_for(arms=[arm("Teacher", "teacher"), arm("B0", "baseline")])
    assert (result["verdict"], result["method"]) == ("open", None)


def test_without_a_teacher_the_score_itself_is_told():
    result = answer_for(comparison("baseline", *ABOVE), arms=[arm("KD1", "method", share=None)])
    assert result["headline"] == "KD1 is 1.9 points above B0 [0.6, 3.2] and reaches 85.0 % [83.0, 87.0] accuracy."


def test_validation_chooses_the_method_that_is_reported():
    arms = [arm("KD1", "method", validation=0.80), arm("KD9", "method", validation=0.82, share=0.90)]
    result = answer_for(comparison("baseline", *ABOVE), comparison("baseline", *BELOW, method="KD9"), arms=arms)
    assert (result["method"], result["verdict"]) == ("KD9", "worse")


def test_seeds_that_are_ahead_are_counted():
    result = answer_for(comparison("baseline", *ABOVE, seeds=(0.01, -0.02, 0.0)))
    assert "KD1 is ahead of B0 in 1 of 3 seeds." in result["sentences"]
