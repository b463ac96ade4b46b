"""Items of written answers: exact match and F1 of every one, every question in the denominator."""

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from tutelage.data import Question, ReadingPrompt
from tutelage.errors import DataError, IntegrityError
from tutelage.evaluate import (
    AnswerItems,
    Reply,
    answer_metrics,
    read_answer_items,
    read_items,
    score_replies,
    write_answer_items,
)

CASES = (  # reply, golds, exact match, F1, valid
    ("the Denver Broncos", ("Denver Broncos", "Broncos"), 1, 1, True),
    ("Broncos of Denver", ("Denver Broncos",), 0, 0.8, True),
    ("", ("Denver",), 0, 0, False),
    ("the !", ("Denver",), 0, 0, False),  # no word is left
    ("the", ("The The", "An"), 0, 0, False),  # equal after normalisation, and still no answer
    ("東京", ("東京",), 1, 1, True),
)


def scored(**changes) -> AnswerItems:
    questions = [
        Question(f"q{i}", f"c{i // 2}", {"context": "A text.", "question": f"Why {i}?"}, golds, golds[0], 0)
        for i, (_, golds, *_) in enumerate(CASES)
    ]
    window = np.array([1, 2], dtype=np.int32)
    prompts = [ReadingPrompt(f"q{i}", (window,) * (1 + i % 2), i == 3) for i in range(len(CASES))]
    replies = [Reply(case[0], -0.5 * i, i == 1) for i, case in enumerate(CASES)]
    return score_replies(questions, prompts, replies, **changes)


def test_each_item_keeps_both_metrics_and_answers_without_words_are_wrong():
    items = scored()
    assert items.exact_match_B.tolist() == [case[2] for case in CASES]
    assert items.f1_B.tolist() == pytest.approx([case[3] for case in CASES])
    assert items.valid_B.tolist() == [case[4] for case in CASES]
    assert items.predictions == tuple(case[0] for case in CASES)
    assert items.golds == tuple(case[1] for case in CASES)
    assert items.num_windows_B.tolist() == [1, 2] * 3
    assert items.confidence_B.tolist() == pytest.approx(np.exp(-0.5 * np.arange(6)))
    assert items.texts[0] == "Why 0? | A text."


def test_every_question_is_in_the_denominator():
    assert answer_metrics(scored()) == {
        "f1": pytest.approx(2.8 / 6),
        "exact_match": pytest.approx(2 / 6),
        "valid_ratio": pytest.approx(3 / 6),
        "cut_ratio": pytest.approx(1 / 6),
        "shortened_ratio": pytest.approx(1 / 6),
        "n": 6,
    }


@pytest.mark.parametrize("name", ["f1", "exact_match"])
def test_the_score_is_the_metric_that_was_asked_for(name):
    items = scored(score_name=name)
    assert items.score_B.mean() == answer_metrics(items)[name]


def test_items_survive_the_disk_and_equal_items_give_equal_bytes(tmp_path):
    items = scored(score_name="exact_match")
    write_answer_items(tmp_path / "a.parquet", items)
    write_answer_items(tmp_path / "b.parquet", scored(score_name="exact_match"))
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    again = read_answer_items(tmp_path / "a.parquet")
    for name, value in vars(items).items():
        np.testing.assert_equal(getattr(again, name), value)


def test_the_file_has_what_statistics_read(tmp_path):
    write_answer_items(tmp_path / "items.parquet", scored())
    table = pq.read_table(tmp_path / "items.parquet")
    assert {"item_key", "cluster_key", "gold", "prediction", "score", "exact_match", "f1"} <= set(table.column_names)
    assert table["gold"].to_pylist()[0] == "Denver Broncos | Broncos"
    assert json.loads(table["golds"].to_pylist()[0]) == ["Denver Broncos", "Broncos"]


def test_items_of_another_kind_or_a_damaged_file_are_refused(tmp_path):
    write_answer_items(tmp_path / "a.parquet", scored())
    with pytest.raises(IntegrityError, match="has items format"):
        read_items(tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-9])
    with pytest.raises(IntegrityError, match=r"b\.parquet"):
        read_answer_items(tmp_path / "b.parquet")
    pq.write_table(pq.read_table(tmp_path / "a.parquet").drop(["f1"]), tmp_path / "c.parquet")
    with pytest.raises(IntegrityError, match="expected answers of format 1"):
        read_answer_items(tmp_path / "c.parquet")


def test_parts_that_do_not_fit_together_are_refused():
    items = scored()
    with pytest.raises(DataError, match="differ in length"):
        replace(items, predictions=items.predictions[:-1])
    with pytest.raises(DataError, match="no score 'accuracy'"):
        replace(items, score_name="accuracy")
    with pytest.raises(DataError, match="Found 0 questions"):
        score_replies([], [], [])
