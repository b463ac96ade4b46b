"""Tables: every digit in the CSV, and nothing in a cell that a reader's program would run."""

import csv
import io
import re

import pytest
from hostile_table import HOSTILE, hostile_table

from tutelage.report.collect import Experiment
from tutelage.report.numerals import decimal, p_value, percent, points, setting
from tutelage.report.summary import summarise
from tutelage.report.table_formats import guard_formula, to_csv, to_markdown
from tutelage.report.tables import Column, Table, group_tables, text_column


@pytest.fixture(scope="module")
def tables(group):
    return {table.name: table for table in group_tables(group)}


def rows_of(table):
    return list(csv.DictReader(io.StringIO(to_csv(table))))


def test_all_tables_are_made(tables):
    assert list(tables) == ["main", "comparisons", "pairs", "per_seed", "per_seed_differences", "trials", "budget"]


def test_csv_keeps_every_digit(tables, group):
    for row, arm in zip(rows_of(tables["main"]), group["arms"], strict=True):
        assert row["label"] == arm["label"]
        assert float(row["score"]) == arm["score"]["estimate"]
        assert float(row["score_low"]) == arm["score"]["low"]
        assert float(row["ece"]) == arm["ece"]
    first = rows_of(tables["comparisons"])[0]
    assert float(first["p_value"]) == group["comparisons"][0]["p_value"]
    assert int(first["wins"]) == group["comparisons"][0]["mcnemar"]["wins"]


def test_csv_lists_every_trial_with_its_settings(tables):
    rows = rows_of(tables["trials"])
    assert len(rows) == 18
    assert sum(row["chosen"] == "True" for row in rows) == 3
    assert {row["temperature"] for row in rows if row["method"] == "KD1"} == {"1", "2", "4"}


def test_budget_names_labels_tokens_and_trials(tables):
    row = next(row for row in rows_of(tables["budget"]) if row["label"] == "PSEUDO")
    assert (row["gold_labels"], row["num_trials"]) == ("0.0", "6")
    assert float(row["tokens"]) == 512_384
    assert float(row["teacher_tokens"]) == 256_192


def test_no_table_holds_a_time(tables):
    assert not any("seconds" in column.key for table in tables.values() for column in table.columns)


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_text_that_looks_like_a_formula_is_quoted(text):
    assert guard_formula(text) == "'" + text


def test_formula_guard_reaches_cells_and_headings_but_not_numbers():
    (row,) = csv.DictReader(io.StringIO(to_csv(hostile_table())))
    assert row["name"] == "'" + HOSTILE
    assert row["score"] == "-0.5"
    columns = (text_column("@x", "x"),)
    assert to_csv(Table("t", "t", columns, ({"@x": "1"},), "")).startswith("'@x")


def test_markdown_keeps_its_columns_whatever_a_cell_holds(tables):
    for table in (*tables.values(), hostile_table()):
        lines = to_markdown(table, command="c").splitlines()
        body = [line for line in lines if line.startswith("|")]
        assert len(body) == len(table.rows) + 2
        assert {len(re.findall(r"(?<!\\)\|", line)) for line in body} == {len(table.columns) + 1}
    assert "<b>" not in re.sub(r"\\<b\\>", "", to_markdown(hostile_table(), command="c"))


def test_markdown_command_cannot_leave_its_code():
    assert "Command: ``` a``b ```" in to_markdown(hostile_table(), command="a``b")


def test_bold_is_the_best_of_the_trained_arms_and_a_dagger_the_judged_method(tables):
    lines = {line.split(" | ")[0].strip("| "): line for line in to_markdown(tables["main"], command="c").splitlines()}
    assert "| KD1 † |" in lines["KD1 †"]
    assert re.search(r"\| \*\*[0-9.]+\*\* \\\[", lines["KD1 †"])
    assert all("**" not in lines[name] for name in ("Teacher", "B0", "Untouched", "KD1-permuted"))


def test_equal_values_are_not_bold():
    column = Column("score", "Score", percent, best=max)
    rows = ({"score": 0.5}, {"score": 0.5}, {"score": 0.9})
    table = Table("t", "t", (column,), rows, "", ranked=frozenset((0, 1)))
    assert not any(table.is_best(index, column) for index in range(3))
    other = Table("t", "t", (column,), rows, "", ranked=frozenset((0, 2)))
    assert [other.is_best(index, column) for index in range(3)] == [False, False, True]


def test_one_seed_has_no_table_of_seeds(experiment):
    runs = tuple(run for run in experiment.runs if run.seed in (None, 42))
    (one,) = summarise(Experiment("x", runs, ()), question="", command="c")["groups"]
    assert [table.name for table in group_tables(one)] == ["main", "comparisons", "pairs", "budget"]


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (percent(0.9534), "95.3"),
        (percent(None), "-"),
        (points(0.019), "+1.9"),
        (points(-0.0001), "0.0"),
        (points(-0.012), "-1.2"),
        (decimal(-0.0001), "0.000"),
        (p_value(0.0004), "< 0.001"),
        (p_value(0.04), "0.040"),
        (setting(5e-5), "5e-5"),
        (setting(0.3), "0.3"),
        (setting(2), "2"),
    ],
)
def test_numbers_are_written_for_people(shown, expected):
    assert shown == expected
