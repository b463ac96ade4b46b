"""What a stage is: a key made of its inputs, and a committed folder that carries the key.

In: the stage's part of the recipe and the content digests of its inputs. Out: "finished" or "to do".
"""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tutelage.config import LoadedRecipe, Recipe
from tutelage.experiment.audit import append_event, code_commit, host_facts, now, peak_memory_bytes, versions
from tutelage.experiment.identity import Folders
from tutelage.store import Manifest, new_artifact, read_manifest, value_digest, write_json

# Raise a stage's number when its meaning changes: finished work of the old meaning is then made anew.
STAGE_VERSIONS = {"prepare": 1, "adapt": 1, "teach": 1, "shrink": 1, "train": 1, "evaluate": 1, "report": 1}


@dataclass
class Context:
    """One run of one recipe: what every stage needs to know."""

    loaded: LoadedRecipe
    folders: Folders
    show: Callable[[str], None]
    command: str
    control: bool = False
    adapted: Path | None = None  # the adapted teacher's folder, once there is one
    timings: dict[str, float] = field(default_factory=dict)  # seconds per stage, in this process
    skipped: list[str] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)  # ids of the runs that this recipe stands for
    proven: set[str] = field(default_factory=set)  # models whose checklist was shown

    @property
    def recipe(self) -> Recipe:
        """The validated recipe."""
        return self.loaded.recipe

    @property
    def base_folder(self) -> Path:
        """Paths in a recipe are read from the recipe's own folder."""
        return self.loaded.folder

    @contextmanager
    def timed(self, stage: str, subject: str) -> Iterator[None]:
        """Time a stage, and log its start and end to ``audit.jsonl``."""
        append_event(self.folders.root, {"event": "start", "stage": stage, "subject": subject})
        began = time.perf_counter()
        yield
        seconds = time.perf_counter() - began
        self.timings[stage] = self.timings.get(stage, 0.0) + seconds
        append_event(
            self.folders.root,
            {"event": "end", "stage": stage, "subject": subject, "seconds": round(seconds, 3),
             "peak_memory_bytes": peak_memory_bytes()},
        )  # fmt: skip

    def progress(self, what: str) -> Callable[[int, int, float], None]:
        """Return a reporter of (done, of how many, tokens per second) that shows each tenth of the way."""
        shown = -1

        def report(done: int, total: int, tokens_per_second: float) -> None:
            nonlocal shown
            tenth = 10 * done // max(total, 1)
            if tenth > shown:
                shown = tenth
                self.show(f"  {what}: {done:,}/{total:,} rows, {tokens_per_second:,.0f} tokens/s")

        return report

    def discard_work(self, folder: Path) -> None:
        """Delete the checkpoints of something that is now committed."""
        shutil.rmtree(folder, ignore_errors=True)

    def skip(self, stage: str, subject: str) -> None:
        """Note that a stage was finished before."""
        self.skipped.append(f"{stage} {subject}")


def stage_key(stage: str, part: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """Address a stage's result: hash(stage version, its part of the recipe, digests of its inputs)."""
    return value_digest({"stage": stage, "version": STAGE_VERSIONS[stage], "part": part, "inputs": dict(inputs)})


def finished(folder: Path, key: str) -> Manifest | None:
    """Return the manifest of ``folder`` if it was committed for exactly this key."""
    manifest = read_manifest(folder)
    return manifest if manifest is not None and manifest.fields.get("key") == key else None


@contextmanager
def stage_artifact(
    context: Context,
    folder: Path,
    *,
    stage: str,
    key: str,
    seconds: Mapping[str, float] | None = None,
    fields: Mapping[str, Any] | None = None,
) -> Iterator[Path]:
    """Yield a folder to fill; commit it with its key, the manifest's further ``fields`` and a ``provenance.json``."""
    began, started = time.perf_counter(), now()
    with new_artifact(folder, kind=stage, fields={"key": key, **(fields or {})}, point=stage) as temporary:
        yield temporary
        timings = {"stage": time.perf_counter() - began, **(seconds or {})}
        write_json(temporary / "provenance.json", provenance(context, key, started, timings))


def provenance(context: Context, key: str, started: str, seconds: Mapping[str, float]) -> dict[str, Any]:
    """Return what is needed to make an artifact again, and what its timings depended on."""
    return {
        "key": key,
        "command": context.command,
        "recipe": context.recipe.model_dump(mode="json"),
        "recipe_file": context.loaded.path.name,
        "overrides": [dict(item) for item in context.loaded.overrides_applied],
        "seeds": context.recipe.seeds.model_dump(mode="json"),
        "commit": code_commit(),
        "versions": versions(),
        "host": host_facts(),
        "started": started,
        "finished": now(),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "peak_memory_bytes": peak_memory_bytes(),
        "available_memory_bytes": psutil.virtual_memory().available,
    }
