"""The stage ``teach`` writes the teacher's answers, judges them, and refuses what a student must not learn."""

import json
from pathlib import Path

import pytest
from tiny_experiment import RECIPE, Finished, run_tiny, write_experiment

from tutelage.cache import CacheReader, column_from_spec
from tutelage.config import load_recipe
from tutelage.errors import DataError
from tutelage.teacher.sequence_quality import template_openers

SIGNALS = "signals: [{kind: final_hidden}, {kind: topk, k: 8, temperatures: [1, 2]}]"


def with_answers(folder: Path, settings: str) -> Path:
    """The tiny experiment, its teacher not adapted, with answers beside the other signals."""
    recipe = RECIPE.replace(SIGNALS, f"signals: [{{kind: final_hidden}}, {{kind: sequences, {settings}}}]")
    lines = [line for line in recipe.splitlines() if not line.strip().startswith("adapt:")]
    return write_experiment(folder, recipe="\n".join(lines) + "\n")


def facts(run: Finished) -> dict:
    return json.loads((run.at("teach/sentiment") / "teach.json").read_text(encoding="utf-8"))


def test_a_random_teacher_is_refused_with_numbers_and_what_it_wrote_is_kept(tmp_path: Path):
    recipe = with_answers(tmp_path, "max_new_tokens: 5")
    with pytest.raises(DataError, match=r"112 of 112 answers \(100\.0%, at most 10 % is expected\) are cut"):
        run_tiny(recipe, until="teach")
    assert not (tmp_path / "runs" / "tiny" / "teach").exists()
    again = run_tiny(recipe, "signals.1.allow_bad=true", until="teach")
    assert any("sequences: 0 prompts answered" in line for line in again.lines)
    assert any("allowed by the recipe: 112 of 112 answers" in line for line in again.lines)
    kept = facts(again)["sequences"]
    assert len(kept["allowed"]) == 1
    assert kept["quality"]["num_truncated"] == kept["quality"]["num_answers"] == 112
    assert 0 <= kept["quality"]["accuracy"] <= 1
    assert kept["column"]["template"] == "raw"
    assert kept["column"]["stop_ids"] == [1]
    assert run_tiny(recipe, "signals.1.allow_bad=true", until="teach").outcome.skipped


def test_answers_lie_beside_the_other_signals_of_the_same_teacher(tmp_path: Path):
    recipe = with_answers(tmp_path, "max_new_tokens: 5, do_sample: true, num_samples: 2, allow_bad: true")
    found = facts(run_tiny(recipe, until="teach"))
    column = column_from_spec(found["sequences"]["column"])
    reader = CacheReader(tmp_path / "runs" / "cache", found["fingerprint"], column)
    assert len(reader.keys()) == 112
    assert column.spec["num_samples"] == 2
    assert all(spec["kind"] != "sequences" for spec in found["columns"])


def test_without_the_signal_nothing_is_written(tmp_path: Path):
    recipe = write_experiment(tmp_path)
    assert load_recipe(recipe, (), environment={}).recipe.signals[-1].kind == "topk"
    run = run_tiny(recipe, "teacher.adapt=null", until="teach")
    assert "sequences" not in facts(run)


def test_a_raw_templates_own_beginning_marks_the_next_item():
    assert template_openers("Review: {text}\nSentiment:") == ("Review:",)
    assert template_openers("\nRead this.\nReview: {text}") == ("Read this.",)
    assert template_openers("{text}\nSentiment:") == ()
