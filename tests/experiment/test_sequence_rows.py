"""Which items learn what the teacher wrote: an exact share, chosen by key and seed, with ends only where there were."""

from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from tiny_experiment import WORDS, tiny_tokenizer

from tutelage.align import Reader
from tutelage.cache.sequences import Answer
from tutelage.config import Classification
from tutelage.data import ClassificationTask, Example, PreparedTask, WrittenAnswer
from tutelage.errors import AlignmentError, DataError
from tutelage.experiment.sequence_rows import choose_items, choose_samples, mixed_rows, rotated, wording_warning
from tutelage.experiment.stage import Context
from tutelage.experiment.task_data import TaskData

END = WORDS.index("<end>")
TEMPLATE = "Review: {text} Sentiment:"
VERBALISERS = {"negative": " negative", "positive": " positive"}


def task_data(num_items: int = 11) -> TaskData:
    """Reviews of one to eleven words, every second one positive."""
    task = ClassificationTask("sentiment", TEMPLATE, tuple(VERBALISERS), tuple(VERBALISERS.values()))
    examples = [Example(f"item-{i}", f"c{i}", {"text": " ".join(["film"] * (i + 1))}, i % 2) for i in range(num_items)]
    section = Classification.model_validate(
        {"kind": "classification", "data": {"source": "x.jsonl"}, "template": TEMPLATE, "verbalisers": VERBALISERS}
    )
    prepared = PreparedTask(task, {"train": examples}, {})
    return TaskData(
        Mock(spec=Context, written={}),
        "task",
        prepared,
        tiny_tokenizer(),
        Reader("the model", len(WORDS), {}),
        END,
        section,
    )


DATA = task_data()
GOLD = DATA.rows(DATA.prepared.splits["train"])
KEYS = [row.item_key for row in GOLD]


def answers(texts: dict[int, str] | None = None, *, cut: tuple[int, ...] = ()) -> dict[str, WrittenAnswer]:
    """``not bad`` for every item, but where another text is given."""
    return {
        key: WrittenAnswer((texts or {}).get(number, "not bad"), has_ended=number not in cut)
        for number, key in enumerate(KEYS)
    }


def mixed(written: dict[str, WrittenAnswer], *, share: float, seed: int = 1, **options: Any):
    return mixed_rows(DATA, GOLD, written, share=share, seed=seed, **options)


def target_words(row) -> str:
    return " ".join(WORDS[number] for number in row.ids[row.target_mask])


def prompt(row) -> list[int]:
    return row.ids[~row.target_mask].tolist()


@pytest.mark.parametrize(("share", "count"), [(0.1, 1), (0.3, 3), (0.5, 6), (0.9, 10), (1.0, 11)])
def test_the_share_is_exact_and_every_item_has_one_row(share, count):
    made = mixed(answers(), share=share)
    taught = [row for row in made.rows if target_words(row) == "not bad <end>"]
    assert (len(taught), made.num_taught, made.num_gold) == (count, count, len(KEYS) - count)
    assert [row.item_key for row in made.rows] == KEYS
    for row, gold in zip(made.rows, GOLD, strict=True):
        assert prompt(row) == prompt(gold)
        assert target_words(row) in ("not bad <end>", target_words(gold))


def test_the_choice_is_a_function_of_key_and_seed_and_shares_are_nested():
    keys = [f"item-{number}" for number in range(400)]
    half = choose_items(keys, share=0.5, seed=3)
    assert set(half) == set(choose_items(keys[::-1], share=0.5, seed=3))
    assert set(half) != set(choose_items(keys, share=0.5, seed=4))
    assert set(choose_items(keys, share=0.1, seed=3)) < set(half)
    # numbers stand for lengths and parities for labels: four standard deviations of a fair draw
    numbers = np.array([int(key.removeprefix("item-")) for key in half])
    assert abs(np.mean(numbers % 2) - 0.5) < 4 * 0.5 / np.sqrt(400)
    assert abs(np.mean(numbers) - 199.5) < 4 * 400 / np.sqrt(12) / np.sqrt(400)


def false_ends(made, written: dict[str, WrittenAnswer]) -> int:
    """Rows that teach an end where the teacher had not ended."""
    return sum(row.ids[-1] == END and not written[row.item_key].has_ended for row in made.rows)


def test_an_answer_that_was_cut_has_no_end_and_the_defect_is_seen():
    written = answers(cut=(0, 4, 7))
    made = mixed(written, share=1.0)
    assert (false_ends(made, written), made.num_cut) == (0, 3)
    assert [target_words(row) for row in made.rows].count("not bad") == 3
    defect = {key: WrittenAnswer(answer.text, has_ended=True) for key, answer in written.items()}
    assert false_ends(mixed(defect, share=1.0), written) == 3


def test_an_item_without_an_answer_is_left_out_under_every_share():
    written = answers({3: "  ", 9: ""})
    for share in (0.1, 0.5, 1.0):
        made = mixed(written, share=share)
        assert {row.item_key for row in made.rows} == set(KEYS) - {"item-3", "item-9"}
        assert (made.num_left_out, made.num_taught) == (2, round(share * 9))


def test_a_share_that_is_no_item_is_refused():
    with pytest.raises(DataError, match=r"lambda 0.04 of 11 items .*0 without one.* is no item at all"):
        mixed(answers(), share=0.04)
    with pytest.raises(DataError, match=r"lambda 1 of 0 items .*11 without one"):
        mixed(answers(dict.fromkeys(range(11), "")), share=1.0)


def test_an_id_that_the_model_lacks_is_refused():
    small = replace(DATA, reader=Reader("the model", WORDS.index("bad"), {}))
    with pytest.raises(AlignmentError, match="item-0"):
        mixed_rows(small, GOLD, answers(), share=1.0, seed=1)


def test_the_control_gives_the_same_answers_to_other_items():
    written = answers({number: " ".join(WORDS[10 : 11 + number]) for number in range(11)})
    true, permuted = mixed(written, share=0.5), mixed(written, share=0.5, permuted=True)
    moved = [
        (target_words(row), target_words(other))
        for row, other in zip(true.rows, permuted.rows, strict=True)
        if target_words(row) != target_words(other)
    ]
    assert len(moved) == true.num_taught == 6
    own, others = zip(*moved, strict=True)
    assert sorted(own) == sorted(others)
    assert [prompt(row) for row in true.rows] == [prompt(row) for row in permuted.rows]
    assert sum(len(row.ids) for row in true.rows) == sum(len(row.ids) for row in permuted.rows)


def test_a_control_that_moves_nothing_is_refused():
    with pytest.raises(DataError, match="found 11 items with 1 answer"):
        rotated(answers())


def test_one_sample_per_item_is_chosen_by_key_and_seed_whatever_it_is():
    def sample(number: int) -> Answer:
        finish = "stop" if number else "length"
        return Answer(np.zeros(number, dtype=np.int32), f"text {number}", finish)

    samples = {f"item-{number}": [sample(0), sample(1), sample(2)] for number in range(300)}
    chosen = choose_samples(samples, seed=1)
    assert chosen == choose_samples(dict(reversed(samples.items())), seed=1)
    assert chosen != choose_samples(samples, seed=2)
    texts = [answer.text for answer in chosen.values()]
    for number in range(3):
        assert abs(texts.count(f"text {number}") - 100) < 4 * np.sqrt(300 * 2 / 9)
    assert all(answer.has_ended == (answer.text != "text 0") for answer in chosen.values())


def test_answers_in_other_words_than_the_labels_bring_a_warning():
    assert wording_warning(DATA, mixed(answers(dict.fromkeys(range(11), "positive")), share=1.0)) is None
    made = mixed(answers({2: "positive"}), share=1.0)
    assert made.num_gold_worded == 1
    assert "1 of 11 answers of the teacher are worded like a label (negative, positive)" in str(
        wording_warning(DATA, made)
    )
