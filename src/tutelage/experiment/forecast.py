"""What a recipe will cost, as far as that is known without loading a model.

In: the recipe, the prepared rows, the runs that are finished. Out: figures for the screen, each with how it was found.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from tutelage.config import Recipe
from tutelage.experiment.identity import Folders
from tutelage.store import read_manifest

BYTES_PER_TOKEN = 4.2  # English text under the tokenizers of the last years; a forecast, not a count
TRAINED_COPIES = 16  # bytes per fully trained parameter: float32 weight, gradient and two moments


def forecast(recipe: Recipe, folders: Folders, waiting: Sequence[str]) -> dict[str, str]:
    """Return tokens, cache bytes and time as far as they can be told.

    Args:
        recipe: The recipe.
        folders: Its folders.
        waiting: Ids of the runs that are still to do.
    """
    found = {}
    rows, text_bytes = _prepared(recipe, folders)
    if rows:
        tokens = text_bytes / BYTES_PER_TOKEN
        found["rows"] = (
            f"{rows:,} in all splits, about {tokens:,.0f} tokens ({BYTES_PER_TOKEN} bytes of text per token)"
        )
    facts = [path for path in folders.root.glob("teach/*/teach.json") if read_manifest(path.parent) is not None]
    for path in facts:
        taught = json.loads(path.read_text(encoding="utf-8"))
        stored = taught.get("stored_positions", {})  # missing where the stage ran before it was recorded
        num_bytes = sum(
            sum(parts.values()) * stored.get(column, taught["num_positions"])
            for column, parts in taught["bytes_per_position"].items()
        )
        found[f"cache of {path.parent.name}"] = (
            f"{taught['num_rows']:,} rows, {taught['num_tokens']:,} tokens, at most {num_bytes / 2**20:,.1f} MiB"
        )
    records = [json.loads(path.read_text(encoding="utf-8")) for path in _finished(folders)]
    full = [record["parameters"] for record in records if record["seed"] is not None]
    if full:
        found["memory"] = (
            f"about {max(full) * TRAINED_COPIES / 2**30:.1f} GiB for a fully trained student, plus activations"
        )
    seconds = [
        _seconds(path.parent)
        for path, record in zip(_finished(folders), records, strict=True)
        if record["seed"] is not None
    ]
    if seconds:
        found["time"] = f"{len(waiting)} runs to do at {mean(seconds):,.0f} s each (mean of the finished ones)"
    return found


def _prepared(recipe: Recipe, folders: Folders) -> tuple[int, int]:
    """Count rows and bytes of text of the prepared splits."""
    rows = text_bytes = 0
    for task in recipe.tasks:
        folder = folders.prepared(task)
        if read_manifest(folder) is None:
            continue
        for path in sorted(folder.glob("*.jsonl")):
            with path.open(encoding="utf-8") as stream:
                for line in stream:
                    rows += 1
                    text_bytes += sum(len(text.encode()) for text in _texts(json.loads(line)))
    return rows, text_bytes


def _texts(item: dict[str, Any]) -> list[str]:
    """Return what a model reads of an item: its fields, or the turns of a text."""
    return [turn["content"] for turn in item["turns"]] if "turns" in item else list(item["fields"].values())


def _finished(folders: Folders) -> list[Path]:
    return [path for path in sorted(folders.root.glob("*/run.json")) if read_manifest(path.parent) is not None]


def _seconds(folder: Path) -> float:
    provenance = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    return float(sum(provenance["seconds"].values()))
