"""What the README shows works as it stands there."""

import re
from pathlib import Path

import pytest
from tiny_experiment import run_tiny, write_reviews, write_tiny_model

from tutelage.config import load_recipe

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RECIPE = next(block for block in re.findall(r"```yaml\n(.*?)```", README, re.S) if block.startswith("# mine.yaml"))
TSV_LINE = next(block for block in re.findall(r"```yaml\n(.*?)```", README, re.S) if "dev.tsv" in block)
# A tiny model in place of the sample, and as few rows as make a run.
SMALL = (
    "teacher.model=model", "teacher.dtype=fp32", "teacher.adapt.rows=16", "teacher.adapt.max_steps=2",
    "students.S1.dtype=fp32", "students.S1.shrink.layers=2", "tasks.mine.data.validation_rows=16",
    "tasks.mine.data.test_rows=16", "train.num_train_epochs=1", "seeds.report=[1]",
)  # fmt: skip


def write_own(folder: Path, recipe: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(f"workspace: {folder / 'runs'}\n{recipe}", encoding="utf-8")
    write_tiny_model(folder / "model")
    return path


def test_the_recipe_for_own_rows_is_at_most_15_lines():
    assert len([line for line in RECIPE.splitlines() if line.strip()]) <= 15


def test_own_jsonl_rows_work(tmp_path: Path):
    recipe = write_own(tmp_path, RECIPE)
    write_reviews(tmp_path / "rows.jsonl", count=120)
    done = run_tiny(recipe, *SMALL, report=True)
    assert "KD1" in done.outcome.table
    assert done.outcome.report is not None
    assert done.outcome.report.is_file()


def test_own_glue_tsv_rows_work_with_the_official_file_as_test_set(tmp_path: Path):
    recipe = write_own(tmp_path, re.sub(r"    data: .*\n", lambda _: TSV_LINE, RECIPE))
    write_reviews(tmp_path / "train.tsv", count=100)
    write_reviews(tmp_path / "dev.tsv", count=24, seed=1)
    done = run_tiny(recipe, *SMALL, "tasks.mine.data.test_rows=null", until="train")
    assert len(list((tmp_path / "runs" / "mine").glob("teacher_mine.*/items.parquet"))) == 1
    assert any("24 test rows" in line for line in done.lines)


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.name)
def test_every_recipe_loads(path: Path):
    assert load_recipe(path, environment={}).recipe.name == path.stem


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#]+)\)", README))))
def test_every_link_of_the_readme_leads_somewhere(link: str):
    assert (ROOT / link).exists()
