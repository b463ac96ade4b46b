"""The headline names what takes the meaning from a comparison, before the comparison itself."""

import numpy as np
import pytest

from tutelage.report.collect import Experiment, Run
from tutelage.report.summary import summarise

LABELS = ("sports", "world", "business", "science")
ROLES = {"teacher": "teacher", "untouched": "untouched", "B0": "baseline", "PSEUDO": "pseudo"}
GOLD = np.arange(200) % 4


def run(method, prediction, *, seed=1, gold=GOLD, labels=LABELS, metrics=None, score="accuracy", validation=0.5):
    """Make a finished run of one arm from what it answers."""
    gold, prediction = np.asarray(gold), np.asarray(prediction)
    right = (gold == prediction).astype(float)
    keys = np.array([f"i{index:04d}" for index in range(len(gold))])
    columns = {"item_key": keys, "cluster_key": keys, "gold": gold, "prediction": prediction, "score": right}
    role = ROLES.get(method, "method")
    record = {
        "run_id": f"{method}_{seed}", "role": role, "method": method, "task": "news",
        "student": "" if role == "teacher" else "S1", "seed": None if role in ("teacher", "untouched") else seed,
        "primary_metric": score, "parameters": 10 if role != "teacher" else 20, "teacher_parameters": 20,
        "metrics": {"test": {score: float(right.mean()), **(metrics or {})}, "validation": {score: validation}},
    }  # fmt: skip
    return Run(record, columns, labels, (), (), {}, "")


def answers(share, *, gold=GOLD, shift=0, wrong=None):
    """Answer this share of the items right, evenly over the classes, and the others wrong."""
    gold = np.asarray(gold)
    order = np.random.default_rng(3).permutation(len(gold))
    right = np.isin(np.arange(len(gold)), np.roll(order, shift)[: round(share * len(gold))])
    return np.where(right, gold, (gold + 1) % 4 if wrong is None else wrong)


def grouped(*runs):
    return summarise(Experiment("x", tuple(runs), ()), question="", command="c")["groups"][0]


def headline(*runs):
    return grouped(*runs)["answer"]["headline"]


def test_a_teacher_below_chance_is_the_headline_and_nothing_is_kept_of_it():
    group = grouped(run("teacher", answers(0.16)), run("B0", answers(0.26)), run("KD1", answers(0.31)))
    assert group["answer"]["verdict"] == "teacher"
    assert group["answer"]["headline"] == (
        "The teacher is not above chance: 16.0 % [11.0, 21.0], and always answering “sports” gives 25.0 % [19.0, 31.0]."
    )
    assert all(arm["share_kept"] is None for arm in group["arms"])
    assert "keeps" not in str(group["answer"])


@pytest.mark.parametrize(("share", "verdict"), [(0.28, "teacher"), (0.45, "nothing")])
def test_chance_is_decided_by_the_interval_of_the_difference(share, verdict):
    runs = run("teacher", answers(share)), run("B0", answers(0.42)), run("KD1", answers(0.42, shift=9))
    assert grouped(*runs)["answer"]["verdict"] == verdict


def test_the_commonest_class_of_the_test_rows_is_chance():
    """A teacher at 90 % has learnt nothing where nine rows of ten are of one class."""
    gold = np.repeat([1, 0], [180, 20])
    runs = [run(name, np.ones(200, int), gold=gold) for name in ("teacher", "B0", "KD1")]
    group = grouped(*runs)
    assert (group["chance"]["label"], group["chance"]["score"]["estimate"]) == ("world", 0.9)
    assert group["answer"]["headline"].startswith("The teacher is not above chance: 90.0 %")


def test_a_student_above_its_teacher_keeps_nothing():
    runs = run("teacher", answers(0.6)), run("B0", answers(0.7)), run("KD1", answers(0.9))
    assert headline(*runs).endswith("and reaches 90.0 % [85.5, 94.0] accuracy, the teacher 60.0 %.")


def test_arms_that_answer_one_class_are_the_headline():
    one = np.full(200, 2)
    group = grouped(run("teacher", answers(0.9)), run("B0", one), run("KD1", one))
    assert group["answer"]["headline"] == "B0 and KD1 answer “business” to every test item."
    assert group["answer"]["verdict"] == "trivial"
    kept = {arm["label"]: arm["share_kept"] for arm in group["arms"]}
    assert kept["B0"] is None
    assert kept["KD1"] is None
    assert "keeps" not in str(group["answer"])


def test_a_sound_method_is_still_compared_when_another_arm_answers_one_class():
    runs = run("teacher", answers(0.9)), run("B0", answers(0.7)), run("KD1", answers(0.85), validation=0.9)
    text = headline(*runs, run("FEAT", np.zeros(200, int)))
    assert text.startswith("FEAT answers “sports” to every test item; KD1 is 15.0 points above B0 [")


def test_an_arm_at_chance_is_named():
    text = headline(run("teacher", answers(0.9)), run("B0", answers(0.8)), run("KD1", answers(0.27)))
    assert text.startswith("KD1 is not above chance (always “sports”: 25.0 %)")
    assert "keeps" not in text


def test_every_method_that_is_measurably_below_the_baseline_is_named():
    sound = run("teacher", answers(0.95)), run("B0", answers(0.8)), run("KD1", answers(0.8, shift=3), validation=0.9)
    one = headline(*sound, run("FEAT", answers(0.6)))
    assert one.startswith("FEAT is 20.0 points below B0 [-25.5, -14.5]; ")
    assert "KD1" in one
    both = headline(*sound, run("FEAT", answers(0.6)), run("PSEUDO", answers(0.7)))
    assert both.startswith("PSEUDO (-10.0) and FEAT (-20.0) are measurably below B0; ")


def test_a_seed_that_failed_is_named():
    runs = [run("teacher", answers(0.95))]
    for seed, share in ((1, 0.84), (2, 0.85), (3, 0.52)):
        runs += [run("B0", answers(0.8), seed=seed), run("KD1", answers(share), seed=seed)]
    group = grouped(*runs)
    assert "KD1 (52.0 to 85.0 %) is unstable over seeds" in group["answer"]["headline"]
    assert any("85.0 % with seed 2 and 52.0 % with seed 3" in each for each in group["answer"]["sentences"])


def test_seeds_that_differ_by_little_are_not_unstable():
    runs = [run("teacher", answers(0.95))]
    for seed, share in ((1, 0.84), (2, 0.80)):
        runs += [run("B0", answers(0.8), seed=seed), run("KD1", answers(share), seed=seed)]
    assert "unstable" not in headline(*runs)


def test_a_seed_without_a_result_is_named():
    runs = [run("teacher", answers(0.95)), run("KD1", answers(0.84), seed=1)]
    runs += [run("B0", answers(0.8), seed=seed) for seed in (1, 2)]
    assert headline(*runs).startswith("KD1 lacks seed 2; ")


def test_a_conversation_that_stays_without_an_answer_is_the_headline():
    def chat(method, share, empty):
        return run(method, answers(share), score="token_accuracy", metrics={"answers_empty": empty})

    group = grouped(chat("teacher", 0.9, 0.0), chat("B0", 0.6, 0.1), chat("KD", 0.7, 1.0))
    assert group["answer"]["headline"].startswith("KD (100.0 %) gives no answer to most test items")
    assert "keeps" not in str(group["answer"])
    teacher = headline(chat("teacher", 0.9, 0.8), chat("B0", 0.6, 0.0), chat("KD", 0.7, 0.0))
    assert teacher == "The teacher gives no answer to 80.0 % of the test items."


def test_a_teacher_of_texts_that_knows_no_more_than_the_untrained_student_is_the_headline():
    def texts(method, share, shift=0):
        return run(method, answers(share, shift=shift), score="token_accuracy")

    group = grouped(texts("teacher", 0.3), texts("untouched", 0.3, 50), texts("B0", 0.3, 9), texts("KD1", 0.6))
    assert group["answer"]["headline"].startswith("The teacher is not above the untouched student (30.0 %): 30.0 % [")
    assert all(arm["share_kept"] is None for arm in group["arms"])
    better = headline(texts("teacher", 0.7), texts("untouched", 0.3), texts("B0", 0.5), texts("KD1", 0.6))
    assert better.startswith("KD1 is 10.0 points above B0")


def test_written_answers_that_are_all_the_same_are_found():
    gold = np.array([f"answer {index}" for index in range(40)])

    def read(method, prediction):
        return run(method, prediction, gold=gold, labels=(), score="exact_match")

    same = np.array(["Answer  0", "answer 0"] * 20)
    assert headline(read("teacher", gold), read("B0", gold), read("KD1", same)).startswith(
        "KD1 answers “Answer  0” to every test item"
    )
    empty = np.array([""] * 40)
    assert headline(read("teacher", gold), read("B0", gold), read("KD1", empty)).startswith(
        "KD1 (100.0 %) gives no answer to most test items"
    )
    assert headline(read("teacher", same[::-1]), read("B0", gold), read("KD1", gold)).startswith("The teacher ")


@pytest.mark.parametrize("num_items", [1, 5])
def test_fewer_than_six_items_can_tell_nothing(num_items):
    gold = np.arange(num_items) % 2
    runs = [run(name, gold, gold=gold) for name in ("teacher", "KD1")]
    group = grouped(*runs, run("B0", 1 - gold, gold=gold))
    assert group["answer"]["verdict"] == "few"
    assert group["answer"]["headline"].startswith(f"Too few items to tell: {num_items} test item")


def test_a_small_test_set_is_not_called_nothing():
    gold = GOLD[:32]
    runs = [run(name, answers(share, gold=gold, shift=shift), gold=gold)
            for name, share, shift in (("teacher", 0.9, 0), ("B0", 0.75, 1), ("KD1", 0.8, 4))]  # fmt: skip
    answer = grouped(*runs)["answer"]
    assert answer["verdict"] == "few"
    assert answer["headline"].startswith("Too few test items to tell KD1 from B0 (+")
    assert any("would be seen four times of five" in each for each in answer["sentences"])
