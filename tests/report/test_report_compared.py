"""What was compared: read from the stages behind the runs, and silent on what they do not say."""

import json
import shutil
from dataclasses import replace

import pytest
from synthetic_experiment import QUESTION

from tutelage.errors import IntegrityError
from tutelage.report.across import rank_over_tasks
from tutelage.report.build import build_report
from tutelage.report.collect import Experiment, collect
from tutelage.report.compared import compared_lines
from tutelage.report.method_words import DEFAULTS, method_words
from tutelage.report.summary import summarise
from tutelage.report.tables import across_table, group_tables
from tutelage.store import new_artifact, write_json

INFO = {
    "source": "hub/reviews", "revision": "abc1234", "licence": "cc-by-4.0", "rows_read": {"hub/reviews:train": 120},
    "rows": {"train": 60, "adapt": 0, "validation": 20, "test": 30},
    "dropped": {"duplicate": 7, "too_long": 3, "empty": 0},
    "classes": {"train": {"negative": 50, "positive": 10}, "test": {"negative": 15, "positive": 15}},
    "labels": ["0 (neg) -> negative", "1 (pos) -> positive"], "columns_not_read": ["id"],
}  # fmt: skip
TEACH = {"teacher": "Tiny, adapted to sentiment", "parameters": 4321, "licence": "apache-2.0",
         "label_mass": {"negative": 0.31, "positive": 0.029}}  # fmt: skip


def write_stages(root, *, suffix="", info=INFO, taught=TEACH):
    for stage, name, content in (("prepare", "info.json", info), ("teach", "teach.json", taught)):
        with new_artifact(root / stage / f"sentiment{suffix}", kind=stage) as temporary:
            write_json(temporary / name, content)


@pytest.fixture
def folder(experiment_folder, tmp_path):
    copy = tmp_path / "reviews"
    shutil.copytree(experiment_folder, copy, ignore=shutil.ignore_patterns("report", "*trial*", "*_seed*"))
    return copy


def group_of(folder):
    return summarise(collect(folder), question="", command="c")["groups"][0]


def test_teacher_data_licences_and_rows_left_out_are_told(folder):
    write_stages(folder)
    lines = dict(compared_lines(group_of(folder)["compared"]))
    assert lines["Teacher"] == "Tiny, adapted to sentiment, 4,321 parameters, licence apache-2.0"
    assert lines["Data"] == "hub/reviews, revision abc1234, licence cc-by-4.0"
    assert lines["Rows"] == "120 read, 10 left out: 7 duplicate, 3 too long"
    assert lines["Labels"] == "0 (neg) -> negative; 1 (pos) -> positive"
    assert lines["Columns not read"] == "id"
    assert lines["Teacher's probability on the label words"] == "negative 31.0 %, positive 2.9 %"
    page = build_report(folder, question=QUESTION, command="c").page.read_text()
    assert all(words in page for words in ("Tiny, adapted to sentiment", "cc-by-4.0", "7 duplicate"))


def test_rows_and_classes_of_each_split_are_a_table(folder):
    write_stages(folder)
    table = next(table for table in group_tables(group_of(folder)) if table.name == "splits")
    assert [column.title for column in table.columns] == ["Split", "Rows", "negative", "positive"]
    assert [tuple(row.values()) for row in table.rows] == [
        ("Training", 60, 50, 10), ("Validation", 20, None, None), ("Test", 30, 15, 15),
    ]  # fmt: skip


def test_an_older_experiment_says_what_it_knows(folder):
    assert dict(compared_lines(group_of(folder)["compared"])) == {
        "Teacher": "sample:smollm2-135m-instruct, 134,515,008 parameters, licence not recorded",
        "Student": "S1, 81,413,568 parameters",
    }
    old = {name: value for name, value in INFO.items() if name not in ("classes", "labels", "columns_not_read")}
    write_stages(folder, info={**old, "class_balance": INFO["classes"]}, taught={"teacher": "T"})
    group = group_of(folder)
    assert group["compared"]["classes"] == INFO["classes"]
    assert "Labels" not in dict(compared_lines(group["compared"]))


def test_the_folders_that_a_run_names_are_read_and_no_others(folder):
    write_stages(folder, suffix=".aaaa0000")
    write_stages(folder, suffix=".bbbb0000", info={**INFO, "source": "other"})
    runs = collect(folder).runs
    named = {f"{stage}/sentiment": f"reviews/{stage}/sentiment.aaaa0000" for stage in ("prepare", "teach")}
    same = Experiment("x", tuple(replace(run, inputs=named) for run in runs), (), folder)
    assert summarise(same, question="", command="")["groups"][0]["compared"]["data"]["source"] == "hub/reviews"
    others = {"prepare/sentiment": "reviews/prepare/sentiment.bbbb0000"}
    mixed = Experiment("x", (replace(runs[0], inputs=named), replace(runs[1], inputs=others)), (), folder)
    assert summarise(mixed, question="", command="")["groups"][0]["compared"]["data"]["source"] is None


def test_a_damaged_record_is_not_believed(folder):
    write_stages(folder)
    path = folder / "prepare" / "sentiment" / "info.json"
    path.write_text(path.read_text().replace("cc-by-4.0", "cc-by-9.0"))
    with pytest.raises(IntegrityError, match=r"info\.json is not what was committed"):
        group_of(folder)


# --- what an arm minimised


def test_a_divergence_is_told_with_its_own_parameter():
    jsd = {"kind": "logit", "divergence": "jsd", "beta": None, "skew": None, "temperature": 2.0, "alpha": 0.3,
           "signal": "topk", "grid": {"alpha": [0.3]}, "train": {}}  # fmt: skip
    assert method_words(jsd, {}) == "jsd (beta 0.5), alpha 0.3, temperature 2, from topk"
    assert (
        method_words({**jsd, "beta": 0.1}, {"temperature": 4}) == "jsd (beta 0.1), alpha 0.3, temperature 4, from topk"
    )
    skewed = {"kind": "logit", "divergence": "skew_kl", "skew": 0.2, "train": {}}
    assert method_words(skewed, {"train.learning_rate": 1e-4}) == "skew_kl (skew 0.2), train.learning_rate 1e-4"
    feature = {"kind": "feature", "lambda": 0.5, "loss": "cosine", "logit": {"divergence": "jsd", "alpha": 0.1}}
    assert method_words(feature, {"logit.beta": 0.9}) == "lambda 0.5, jsd (beta 0.9), alpha 0.1, loss cosine"
    custom = {"kind": "custom", "losses": [{"kind": "jsd", "weight": 0.5, "temperature": 1}, {"kind": "cross_entropy"}]}
    assert method_words(custom, {}) == "jsd (beta 0.5) temperature 1 weight 0.5, cross_entropy"


def test_defaults_are_those_of_the_configuration():
    losses = pytest.importorskip("tutelage.config.losses")
    assert DEFAULTS["jsd"]["beta"] == losses.DEFAULT_BETA
    assert DEFAULTS["skew_kl"]["skew"] == DEFAULTS["skew_reverse_kl"]["skew"] == losses.DEFAULT_SKEW


# --- over tasks


def test_arms_are_ranked_over_tasks_and_equal_scores_share_a_rank():
    def group(task, **scores):
        roles = {"Teacher": "teacher", "B0": "baseline"}
        arms = [{"label": name, "role": roles.get(name, "method"), "score": {"estimate": score, "low": 0, "high": 1}}
                for name, score in scores.items()]  # fmt: skip
        return {"task": task, "student": "S1", "score_name": "accuracy", "arms": arms}

    groups = [group("a", Teacher=0.9, B0=0.5, KD=0.7, FEAT=0.6), group("b", Teacher=0.9, B0=0.5, KD=0.5)]
    (found,) = rank_over_tasks(groups)
    ranks = {arm["label"]: arm["mean_rank"] for arm in found["arms"]}
    assert ranks == {"Teacher": None, "B0": (3 + 1.5) / 2, "KD": (1 + 1.5) / 2, "FEAT": None}
    table = across_table(found, place="")
    assert [column.title for column in table.columns] == ["Arm", "a: accuracy %", "b: accuracy %", "Mean rank"]
    assert [table.is_best(i, table.columns[-1]) for i in range(4)] == [False, False, True, False]
    assert rank_over_tasks(groups[:1]) == []


def test_two_tasks_have_a_table_over_tasks_and_a_way_to_each(experiment, tmp_path, monkeypatch):
    untrained = tuple(run for run in experiment.runs if run.seed in (None, 42))
    other = [replace(run, record=run.record | {"task": "news", "run_id": f"n{i}"}) for i, run in enumerate(untrained)]
    both = replace(experiment, runs=(*untrained, *other), trials=(), folder=tmp_path)
    monkeypatch.setattr("tutelage.report.build.collect", lambda folder, **_: both)
    built = build_report(tmp_path, question="q", command="c")
    html = built.page.read_text()
    assert 'id="tasks"' in html
    for group in ("sentiment-S1", "news-S1"):
        assert f'<li><a href="#{group}-top">' in html
    labels = {path.name: path.read_text() for path in (built.page.parent / "tables").glob("*.tex")}
    assert r"\label{tab:tasks}" in labels["tasks.tex"]
    assert r"\label{tab:main-news}" in labels["news-S1-main.tex"]
    assert json.loads((built.page.parent / "summary.json").read_text())["across"][0]["student"] == "S1"


def test_every_pair_of_trained_arms_is_compared_once(group):
    assert [(pair["method"], pair["rival"]) for pair in group["pairs"]] == [
        ("PSEUDO", "B0"), ("KD1", "B0"), ("KD1", "PSEUDO"),
    ]  # fmt: skip
    assert all(pair["p_holm"] >= pair["p_value"] for pair in group["pairs"])
