"""Recipes that the tests of ``config`` and ``cli`` share."""

from collections.abc import Mapping
from pathlib import Path

from tutelage.config import LoadedRecipe, RecipeError, load_recipe

# The recipe in which every name was fixed; it must load for ever.
FROZEN = """\
name: reviews
mode: full                                   # picks from {fast: .., full: ..}
seeds: {selection: 7, report: [42, 123, 456]}
workspace: runs

teacher:
  model: sample:smollm2-135m-instruct        # hub id | folder | file.gguf | sample:NAME | served: {url: .., model: ..}
  dtype: auto
  adapt: {task: sentiment, rows: 2000, adapter: {kind: lora, r: 16, alpha: 32}, learning_rate: 1e-3, max_steps: 60}

students:
  S1: {shrink: {layers: 15, by: influence}, adapter: {kind: none}}

tasks:
  sentiment:
    kind: classification                     # classification | reading | text
    data: {source: sample:movie-reviews, limit: {fast: 1000, full: null}}
    template: "Review: {text}\\nSentiment:"
    verbalisers: {negative: " negative", positive: " positive"}

signals:
  - {kind: final_hidden}
  - {kind: topk, k: 64, temperatures: [1]}

methods:
  B0:     {kind: baseline, grid: {train.learning_rate: [5e-5, 1e-4, 2e-4], train.num_train_epochs: [1, 2]}}
  PSEUDO: {kind: pseudo,   grid: {train.learning_rate: [5e-5, 1e-4, 2e-4], train.num_train_epochs: [1, 2]}}
  KD1:    {kind: logit, signal: final_hidden, grid: {temperature: [1, 2, 4], alpha: [0.1, 0.3]}}

train:    {learning_rate: 1e-4, per_device_train_batch_size: 32, lr_scheduler_type: cosine, warmup_ratio: 0.1}
evaluate: {select_by: accuracy}
report:   {question: "How much of the teacher survives at 60 % of the size?"}
"""

# A user's own file in at most 15 lines.
OWN_FILE = """\
name: tickets
teacher: {model: sample:smollm2-135m-instruct}
students:
  S1: {shrink: {layers: 20}}
tasks:
  urgency:
    kind: classification
    data: {source: tickets.jsonl, text: body, label: priority, labels: {0: low, 1: high}}
    template: "Ticket: {body}\\nUrgency:"
    verbalisers: {low: " low", high: " high"}
methods:
  B0: {kind: baseline}
  KD1: {kind: logit, temperature: 2, alpha: 0.3}
"""


def load(
    text: str = OWN_FILE, *overrides: str, environment: Mapping[str, str] | None = None, mode: str | None = None
) -> LoadedRecipe:
    """Load a recipe from text, in the current folder, with nothing of the process's environment."""
    path = Path("recipe.yaml")
    path.write_text(text, encoding="utf-8")
    return load_recipe(path, overrides, environment=environment or {}, mode=mode)


def problems(text: str = OWN_FILE, *overrides: str, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Load a recipe that is not valid; return {"line or place: path": message}."""
    try:
        load(text, *overrides, environment=environment)
    except RecipeError as error:
        return {f"{problem.place}: {'.'.join(map(str, problem.path))}": problem.message for problem in error.problems}
    raise AssertionError("the recipe is valid")
