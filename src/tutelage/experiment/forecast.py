"""What a recipe will cost, as far as that is known without loading a model.

In: the recipe's graph. Out: figures for the screen, each with how it was found.
"""

import json
from pathlib import Path
from statistics import mean
from typing import Any

from tutelage.experiment.nodes import RecipeGraph
from tutelage.experiment.teach import FACTS_FILE
from tutelage.store import read_input

BYTES_PER_TOKEN = 4.2  # English text under the tokenizers of the last years; a forecast, not a count
TRAINED_COPIES = 16  # bytes per fully trained parameter: float32 weight, gradient and two moments


def forecast(graph: RecipeGraph, waiting: int) -> dict[str, str]:
    """Return tokens, cache bytes and time as far as they can be told.

    Args:
        graph: The recipe's graph.
        waiting: How many runs are still to do.
    """
    found = {}
    prepared, taught = (
        {node.subject: node.folder() for node in graph.of(stage) if node.manifest() is not None}
        for stage in ("prepare", "teach")
    )
    rows, text_bytes = _prepared(list(prepared.values()))
    if rows:
        tokens = text_bytes / BYTES_PER_TOKEN
        found["rows"] = (
            f"{rows:,} in all splits, about {tokens:,.0f} tokens ({BYTES_PER_TOKEN} bytes of text per token)"
        )
    for task, folder in taught.items():
        facts = json.loads(read_input(folder, FACTS_FILE))
        stored = facts["stored_positions"]
        num_bytes = sum(
            sum(parts.values()) * stored.get(column, facts["num_positions"])
            for column, parts in facts["bytes_per_position"].items()
        )
        found[f"cache of {task}"] = (
            f"{facts['num_rows']:,} rows, {facts['num_tokens']:,} tokens, at most {num_bytes / 2**20:,.1f} MiB"
        )
    trained = [node.folder() for node in graph.of("trials", "train") if node.manifest() is not None]
    if trained:
        largest = max(json.loads(read_input(folder, "run.json"))["parameters"] for folder in trained)
        found["memory"] = (
            f"about {largest * TRAINED_COPIES / 2**30:.1f} GiB for a fully trained student, plus activations"
        )
        seconds = mean(_seconds(folder) for folder in trained)
        found["time"] = f"{waiting} runs to do at {seconds:,.0f} s each (mean of the finished ones)"
    return found


def _prepared(folders: list[Path]) -> tuple[int, int]:
    """Count rows and bytes of text of the prepared splits."""
    rows = text_bytes = 0
    for folder in folders:
        for path in sorted(folder.glob("*.jsonl")):
            with path.open(encoding="utf-8") as stream:
                for line in stream:
                    rows += 1
                    text_bytes += sum(len(text.encode()) for text in _texts(json.loads(line)))
    return rows, text_bytes


def _texts(item: dict[str, Any]) -> list[str]:
    """Return what a model reads of an item: its fields, or the turns of a text."""
    return [turn["content"] for turn in item["turns"]] if "turns" in item else list(item["fields"].values())


def _seconds(folder: Path) -> float:
    return float(sum(json.loads(read_input(folder, "provenance.json"))["seconds"].values()))
