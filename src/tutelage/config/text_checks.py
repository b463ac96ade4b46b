"""What a text task cannot be asked for: it has no answers apart from its texts.

In: a recipe whose sections are valid. Out: problems, each at its path.
"""

from collections.abc import Iterator
from typing import Any

from tutelage.config.grid import Path

NEEDS_ANSWERS = ("pseudo", "sequence")  # kinds of methods that learn what a teacher answers


def text_problems(recipe: Any) -> Iterator[tuple[Path, str]]:
    """Yield every method and signal that asks a text task for answers."""
    texts = [name for name, task in recipe.tasks.items() if task.kind == "text"]
    if not texts:
        return
    has_none = f"task {texts[0]!r} is a text task: every token of it is learnt, and it has no answers to replace"
    for name, method in recipe.methods.items():
        if method.kind in NEEDS_ANSWERS:
            yield ("methods", name, "kind"), f"{has_none}; use baseline, logit, feature or relation"
    for index, signal in enumerate(recipe.signals):
        if signal.kind == "sequences":
            yield ("signals", index, "kind"), f"{has_none}; keep final_hidden, topk or sampled"
