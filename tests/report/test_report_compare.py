"""Experiments side by side: paired where the test items are the same, told apart where they are not."""

import json
import shutil

import pytest
from synthetic_experiment import write_experiment

from tutelage.cli.compare import compare
from tutelage.errors import ConfigError, DataError
from tutelage.report import build_comparison
from tutelage.report.collect import collect
from tutelage.report.statistics import paired_difference


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("experiments")
    first = write_experiment(root / "first", num_items=60, texts=False)
    second = write_experiment(root / "second", num_items=60, texts=False, skills={"KD1": 0.2})
    for path in {*first.glob("*trial*"), *second.glob("*trial*"), *second.glob("PSEUDO*")}:
        shutil.rmtree(path)
    return first, second


@pytest.fixture(scope="module")
def built(folders):
    return build_comparison(folders, command="tutelage compare first second", out=folders[0].parent / "out")


def test_arms_of_one_name_stand_beside_each_other(built):
    (task,) = built.summary["tasks"]
    shown = [(arm["label"], arm["experiment"]) for arm in task["arms"]]
    assert shown[:4] == [("Teacher", "first"), ("Teacher", "second"), ("Untouched", "first"), ("Untouched", "second")]
    assert ("PSEUDO", "first") in shown
    assert ("PSEUDO", "second") not in shown


def test_later_minus_earlier_is_paired_by_item_and_seed(built, folders):
    first, second = (
        {run.seed: run.scores for run in collect(folder).runs if run.record["method"] == "KD1"} for folder in folders
    )
    expected = paired_difference(second, first)
    (pair,) = [pair for pair in built.summary["tasks"][0]["pairs"] if pair["method"].startswith("KD1 in")]
    assert (pair["method"], pair["rival"]) == ("KD1 in second", "in first")
    assert pair["difference"]["low"] == expected.interval.low
    assert pair["difference"]["high"] < 0
    assert pair["p_holm"] >= pair["p_value"] == expected.p_value


def test_terminal_and_page_show_both(built):
    assert "KD1 in second minus in first: -" in built.terminal
    page = built.page.read_text()
    assert "KD1 in second minus in first" in page
    assert "tutelage compare first second" in page
    assert {path.name for path in (built.page.parent / "tables").glob("*.csv")} == {
        "sentiment-arms.csv", "sentiment-differences.csv",
    }  # fmt: skip
    assert json.loads((built.page.parent / "summary.json").read_text()) == built.summary


def test_other_test_items_are_not_paired(folders, tmp_path):
    other = write_experiment(tmp_path / "other", num_items=59, texts=False)
    found = build_comparison([folders[1], other], command="c")
    assert found.page is None
    assert found.summary["tasks"][0]["pairs"] == []
    assert "nothing can be paired" in found.terminal


def test_experiments_of_one_name_are_told_apart_by_the_folders_above(folders, tmp_path):
    places = [tmp_path / name / "runs" / "first" for name in ("a", "b")]
    for place in places:
        shutil.copytree(folders[0], place)
    found = build_comparison(places, command="c")
    assert found.summary["experiments"] == ["a/runs/first", "b/runs/first"]
    assert len([arm for arm in found.summary["tasks"][0]["arms"] if arm["label"] == "KD1"]) == 2


def test_one_experiment_is_nothing_to_compare(folders):
    for chosen in (folders[:1], [folders[0], folders[0]]):
        with pytest.raises(ConfigError, match="at least two different experiments"):
            build_comparison(chosen, command="c")


def test_runs_of_several_settings_are_told_apart(folders, tmp_path):
    """A folder that holds one arm twice is refused, unless the runs are named."""
    first, second = folders
    both = tmp_path / "both"
    shutil.copytree(first, both)
    shutil.copytree(second / "KD1_sentiment_S1_seed42", both / "KD1_sentiment_S1_seed42.0000aaaa")
    with pytest.raises(DataError, match="both stand for KD1"):
        build_comparison([first, both], command="c")
    named = {both: [path for path in both.iterdir() if not path.name.endswith("aaaa")]}
    found = build_comparison([first, both], command="c", runs=named)
    assert all(pair["difference"]["estimate"] == 0 for pair in found.summary["tasks"][0]["pairs"])


def test_command_prints_and_writes(folders, tmp_path, capsys):
    compare(list(folders), out=tmp_path / "side")
    assert "KD1 in second minus in first" in capsys.readouterr().out
    assert (tmp_path / "side" / "compare.html").is_file()
    with pytest.raises(ConfigError, match="is no folder"):
        compare([folders[0], tmp_path / "absent"])
