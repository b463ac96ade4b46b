"""The column of generated sequences gives back every answer, and refuses what cannot be one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_signals import TEACHER, random_rows

from tutelage.cache import CacheReader, ShardWriter, bytes_per_position, column_from_spec, verify_cache
from tutelage.cache.sequences import HEADER, Answer, SequencesColumn, pack_answers, unpack_answers
from tutelage.errors import NumericsError
from tutelage.types import TeacherRow

LIMIT = 6
SMALL = SequencesColumn(vocab_size=97, max_new_tokens=LIMIT)
SAMPLED = SequencesColumn(2**17, LIMIT, 3, True, 0.7, 0.9, 5, (1, 2), ("\n\n",), "0123abcd")


def answer(ids: list[int], text: str = "", *, finish: str = "stop") -> Answer:
    return Answer(np.array(ids, dtype=np.int32), text, finish)


def same(found: list[list[Answer]], expected: list[list[Answer]]) -> bool:
    def plain(rows: list[list[Answer]]) -> list[list[tuple]]:
        return [[(each.ids.tolist(), str(each.ids.dtype), each.text, each.finish) for each in row] for row in rows]

    return plain(found) == plain(expected)


def through_bytes(column: SequencesColumn, answers: list[list[Answer]]) -> list[list[Answer]]:
    counts = np.ones(len(answers), dtype=np.int64)
    tensors = pack_answers(answers)
    assert column.first_problem(tensors) is None
    blocks = [np.frombuffer(block, dtype=np.uint8) for block in column.encode_rows(tensors, counts)]
    assert column.fits(np.array([len(block) for block in blocks]), counts)
    assert sum(column.count_parts(blocks, counts).values()) == sum(len(block) for block in blocks)
    return unpack_answers(column.decode_rows(blocks, counts))


ODD_ANSWERS = [
    [answer([])],  # a stop string at once
    [answer([2])],  # nothing but the end token
    [answer([96, 0, 0, 5], "größer 東京 🎬")],  # id 0 inside, four bytes per letter
    [answer([7] * LIMIT, "\0 a zero byte\n", finish="length")],
    [answer([1], " ")],
    [answer([3, 4], "cut\ufffd")],
]


def test_odd_answers_come_back_as_they_were():
    assert same(through_bytes(SMALL, ODD_ANSWERS), ODD_ANSWERS)
    alone = [found for row in ODD_ANSWERS for found in through_bytes(SMALL, [row])]
    assert same(alone, ODD_ANSWERS)


@st.composite
def answer_sets(draw: st.DrawFn, column: SequencesColumn) -> list[list[Answer]]:
    def one() -> Answer:
        ids = draw(st.lists(st.integers(0, column.vocab_size - 1), max_size=LIMIT))
        finish = draw(st.sampled_from(["stop", "length"])) if len(ids) == LIMIT else "stop"
        return answer(ids, draw(st.text(max_size=20)), finish=finish)

    num_prompts = draw(st.integers(1, 5))
    return [[one() for _ in range(column.num_samples)] for _ in range(num_prompts)]


@settings(max_examples=60, deadline=None)
@given(answer_sets(SMALL))
def test_any_answers_of_one_sample_round_trip(answers):
    assert same(through_bytes(SMALL, answers), answers)


@settings(max_examples=60, deadline=None)
@given(answer_sets(SAMPLED))
def test_any_answers_of_several_samples_and_wide_ids_round_trip(answers):
    assert same(through_bytes(SAMPLED, answers), answers)


def test_ids_take_two_bytes_up_to_65536_and_four_above():
    for vocab_size, size in ((2**16, 2), (2**16 + 1, 4)):
        column = replace(SMALL, vocab_size=vocab_size)
        largest = vocab_size - 1
        answers = [[answer([largest, 0], "ab")]]
        assert same(through_bytes(column, answers), answers)
        block = column.encode_rows(pack_answers(answers), np.ones(1, dtype=np.int64))[0]
        assert len(block) == HEADER.itemsize + 2 * size + 2


def test_the_layout_is_header_ids_texts():
    samples = [answer([1, 2], "é"), answer([], ""), answer([96] * LIMIT, "b", finish="length")]
    block = replace(SMALL, num_samples=3).encode_rows(pack_answers([samples]), np.ones(1, dtype=np.int64))[0]
    sizes = b"\0" + bytes([2, 0, 0, 0, 2, 0, 0, 0]), b"\0" + bytes(8), b"\1" + bytes([6, 0, 0, 0, 1, 0, 0, 0])
    ids = bytes([1, 0, 2, 0]) + bytes([96, 0]) * LIMIT
    assert block == b"".join(sizes) + ids + "éb".encode()


def test_padding_of_the_tensors_is_not_stored():
    tensors = pack_answers([[answer([1, 2], "ab")]])
    wider = {
        **tensors,
        "ids_NKL": torch.nn.functional.pad(tensors["ids_NKL"], (0, 3), value=-1),
        "text_NKM": torch.nn.functional.pad(tensors["text_NKM"], (0, 9)),
    }
    counts = np.ones(1, dtype=np.int64)
    assert SMALL.encode_rows(wider, counts) == SMALL.encode_rows(tensors, counts)


def test_tensors_are_padded_with_minus_one_and_zero():
    tensors = pack_answers([[answer([5, 0], "ab")], [answer([], "a")]])
    assert tensors["ids_NKL"].tolist() == [[[5, 0]], [[-1, -1]]]
    assert tensors["text_NKM"].tolist() == [[[97, 98]], [[97, 0]]]
    assert tensors["text_bytes_NK"].tolist() == [[2], [1]]
    assert tensors["finish_NK"].tolist() == [[0], [0]]


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("ids_NKL", [1, 97], "outside of"),
        ("ids_NKL", [-1, 1], "outside of"),
        ("ids_NKL", [-2, 1], "outside of"),
        ("ids_NKL", [1] * (LIMIT + 1), "more than max_new_tokens = 6"),
        ("finish_NK", 2, "finish reason 2"),
        ("finish_NK", -1, "finish reason -1"),
        ("finish_NK", 1, "said to be cut at max_new_tokens = 6"),
        ("text_NKM", [0xC3, 0x28], "not UTF-8"),
        ("text_bytes_NK", 3, "not as long"),
        ("text_bytes_NK", -1, "not as long"),
    ],
)
def test_what_cannot_be_an_answer_is_refused(tmp_path: Path, name, value, reason):
    good = pack_answers([[answer([1, 2], "ab")], [answer([1, 2], "ab")]])
    changed = good[name].tolist()
    changed[1][0] = value
    if name == "ids_NKL":
        changed[0][0] += [-1] * (len(value) - 2)
    tensors = {**good, name: torch.tensor(changed, dtype=good[name].dtype)}
    rows = prompt_rows(2)
    with pytest.raises(NumericsError, match=reason) as caught:
        ShardWriter(tmp_path, TEACHER, SMALL).write_shard(rows, tensors)
    assert rows[1].key.hex() in str(caught.value)
    assert not list(tmp_path.rglob("payload.bin"))


def prompt_rows(count: int) -> list[TeacherRow]:
    return [TeacherRow(row.ids, SMALL.positions_of(row)) for row in random_rows(count)]


def test_answers_are_written_and_read_by_the_prompts_key(tmp_path: Path):
    rows = prompt_rows(6)
    writer = ShardWriter(tmp_path, TEACHER, SMALL)
    for start in (0, 3):
        writer.write_shard(rows[start : start + 3], pack_answers(ODD_ANSWERS[start : start + 3]))
    assert verify_cache(tmp_path, TEACHER) == []
    reader = CacheReader(tmp_path, TEACHER, SMALL)
    order = [4, 0, 5, 2]
    found = reader.read([rows[number].key for number in order], [np.array([0])] * len(order))
    assert same(unpack_answers(found), [ODD_ANSWERS[number] for number in order])
    assert unpack_answers(reader.read([], [])) == []
    parts = bytes_per_position(tmp_path, TEACHER, SMALL)
    assert 6 * parts["ids"] == pytest.approx(2 * sum(row[0].ids.size for row in ODD_ANSWERS))
    assert 6 * parts["text"] == pytest.approx(sum(len(row[0].text.encode()) for row in ODD_ANSWERS))
    assert parts["lengths"] == HEADER.itemsize


@pytest.mark.parametrize("column", [SMALL, SAMPLED])
def test_a_spec_gives_the_column_back(column):
    assert column_from_spec(column.spec) == column


def test_every_setting_is_part_of_the_name():
    changes = [
        {"vocab_size": 98}, {"max_new_tokens": 7}, {"num_samples": 2}, {"do_sample": True}, {"temperature": 0.5},
        {"top_p": 0.5}, {"seed": 1}, {"stop_ids": (1,)}, {"stop_strings": ("x",)}, {"template": "ffff0000"},
    ]  # fmt: skip
    columns = [SMALL, *(replace(SMALL, **change) for change in changes)]
    assert len({column.name for column in columns}) == len(columns)
    assert not any(other.serves(SMALL) for other in columns[1:])
    assert SMALL.name.startswith("sequences-greedy-n1-m6-")
    assert SAMPLED.name.startswith("sequences-sampled-n3-m6-")


def test_the_forecast_covers_an_answer_at_the_limit():
    full = [[answer([96] * LIMIT, "eleven chars" * LIMIT, finish="length")]]
    block = SMALL.encode_rows(pack_answers(full), np.ones(1, dtype=np.int64))[0]
    assert len(block) <= SMALL.max_bytes


def test_a_block_too_short_for_its_header_and_a_second_position_do_not_fit():
    one = np.ones(1, dtype=np.int64)
    assert SAMPLED.fits(np.array([3 * HEADER.itemsize]), one)
    assert not SAMPLED.fits(np.array([3 * HEADER.itemsize - 1]), one)
    assert not SAMPLED.fits(np.array([1000]), 2 * one)
