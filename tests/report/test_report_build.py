"""The report as an artifact: complete, reproducible to the byte, and left alone when nothing changed."""

import json
import shutil
from dataclasses import replace

import pytest
from synthetic_experiment import QUESTION, REPORT_COMMAND

from tutelage.report import terminal_table
from tutelage.report.build import build_report
from tutelage.report.collect import collect
from tutelage.report.summary import summarise
from tutelage.store import new_artifact, read_manifest, verify_artifact

FIGURES = ("quality_vs_size", "method_comparison", "training_curves", "trials")
TABLES = ("main", "comparisons", "pairs", "per_seed", "per_seed_differences", "trials", "budget")


def without_report(experiment_folder, target):
    shutil.copytree(experiment_folder, target, ignore=shutil.ignore_patterns("report"))
    return target


def test_report_is_a_committed_artifact_with_all_its_parts(built):
    manifest = verify_artifact(built.page.parent)
    expected = {"report.html", "summary.json", "provenance.json"}
    expected |= {f"figures/{name}.{suffix}" for name in FIGURES for suffix in ("svg", "pdf", "png")}
    expected |= {f"tables/{name}.{suffix}" for name in TABLES for suffix in ("csv", "tex", "md")}
    assert manifest.kind == "report"
    assert set(manifest.files) == expected


def test_summary_on_disk_holds_all_numbers(built, experiment_folder):
    on_disk = json.loads((built.page.parent / "summary.json").read_text())
    assert on_disk == built.summary
    assert on_disk == summarise(collect(experiment_folder), question=QUESTION, command=REPORT_COMMAND)


def test_times_and_nothing_else_are_in_the_provenance(built):
    provenance = json.loads((built.page.parent / "provenance.json").read_text())
    assert {"run_id": "KD1_sentiment_S1_seed42", "seconds": 301.5} in provenance["seconds"]
    assert "301.5" not in (built.page.parent / "summary.json").read_text()


def test_same_runs_give_the_same_bytes_whatever_they_took(built, experiment_folder, tmp_path):
    folder = without_report(experiment_folder, tmp_path / "reviews")
    slow = folder / "KD1_sentiment_S1_seed42"
    files = {path.name: path.read_bytes() for path in slow.iterdir() if path.name != "MANIFEST.json"}
    with new_artifact(slow, kind="train") as temporary:
        for name, content in files.items():
            changed = content.replace(b"301.5", b"999.9").replace(b"somewhere", b"elsewhere")
            (temporary / name).write_bytes(changed if name == "provenance.json" else content)
    again = build_report(folder, question=QUESTION, command=REPORT_COMMAND)
    first, second = read_manifest(built.page.parent), read_manifest(again.page.parent)
    assert first is not None
    assert second is not None
    assert {name: entry for name, entry in second.files.items() if name != "provenance.json"} == {
        name: entry for name, entry in first.files.items() if name != "provenance.json"
    }
    assert second.content_digest == first.content_digest


def test_a_report_that_is_up_to_date_is_not_written_again(built, experiment_folder):
    before = built.page.stat().st_mtime_ns, (built.page.parent / "MANIFEST.json").stat().st_ino
    again = build_report(experiment_folder, question=QUESTION, command=REPORT_COMMAND)
    assert (again.page.stat().st_mtime_ns, (again.page.parent / "MANIFEST.json").stat().st_ino) == before
    assert (again.summary, again.terminal) == (built.summary, built.terminal)


def test_fewer_runs_make_another_report_that_needs_no_missing_part(experiment_folder, tmp_path):
    folder = without_report(experiment_folder, tmp_path / "reviews")
    kept = [folder / "teacher_sentiment", folder / "untouched_sentiment"]
    built = build_report(folder, question="", command=REPORT_COMMAND, runs=kept)
    assert built.summary["groups"][0]["answer"]["verdict"] == "open"
    assert not (built.page.parent / "figures" / "trials.svg").exists()
    assert (built.page.parent / "figures" / "quality_vs_size.svg").exists()
    assert "No distillation method has finished" in built.page.read_text()


def test_students_get_files_of_their_own(experiment, tmp_path, monkeypatch):
    untrained = tuple(run for run in experiment.runs if run.seed is None)
    other = [replace(run, record=run.record | {"student": "S2", "run_id": "u2"}) for run in untrained if run.student]
    both = replace(experiment, runs=(*untrained, *other), trials=())
    monkeypatch.setattr("tutelage.report.build.collect", lambda folder, **_: both)
    built = build_report(tmp_path, question="q", command="c")
    names = {path.name for path in (built.page.parent / "tables").iterdir()}
    assert {"sentiment-S1-main.csv", "sentiment-S2-main.csv"} <= names
    html = built.page.read_text()
    assert 'id="sentiment-S1-main"' in html
    assert 'id="figure-sentiment-S2-quality_vs_size"' in html


# --- terminal


def test_terminal_table_fits_80_columns_and_shows_every_arm(built):
    lines = built.terminal.splitlines()
    assert max(map(len, lines)) <= 80
    for arm in built.summary["groups"][0]["arms"]:
        line = next(line for line in lines if line.startswith(arm["label"]))
        assert f"{100 * arm['score']['estimate']:.1f}" in line
        assert f"[{100 * arm['score']['low']:.1f}, {100 * arm['score']['high']:.1f}]" in line


def test_terminal_table_ends_with_the_answer(built):
    words = " ".join(built.terminal.split())
    assert built.summary["groups"][0]["answer"]["headline"] in words


def test_terminal_strips_what_would_move_the_cursor(built):
    summary = json.loads(json.dumps(built.summary))
    summary["groups"][0]["arms"][4]["label"] = "KD1\x1b[2J\x07" + "long" * 30
    summary["groups"][0]["answer"]["headline"] = "\x1b]0;title\x07 done"
    text = terminal_table(summary)
    assert not set("\x1b\x07") & set(text)
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("recorded", [True, False])
def test_question_of_the_recipe_is_asked_when_none_is_given(experiment, tmp_path, monkeypatch, recorded):
    recipe = {"report": {"question": "What is left?"}} if recorded else {}
    runs = tuple(
        replace(run, provenance={**run.provenance, "recipe": recipe}) for run in experiment.runs if run.seed is None
    )
    monkeypatch.setattr("tutelage.report.build.collect", lambda folder, **_: replace(experiment, runs=runs, trials=()))
    assert build_report(tmp_path, question="", command="c").summary["question"] == ("What is left?" if recorded else "")
