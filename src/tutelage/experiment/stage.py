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
from tutelage.store import check_inputs, new_artifact, value_digest, write_json
from tutelage.train.overall import ARMS, RunProgress
from tutelage.train.signals import stop_if_requested

# Raise a stage's number when its meaning changes: finished work of the old meaning is then made anew.
STAGE_VERSIONS = {"prepare": 1, "adapt": 1, "teach": 2, "shrink": 1, "score": 2, "trials": 2, "train": 2}


@dataclass
class Context:
    """One run of one recipe: what every stage needs to know."""

    loaded: LoadedRecipe
    folders: Folders
    show: Callable[[str], None]
    command: str
    control: bool = False
    found: dict[tuple[str, str], Path] = field(default_factory=dict)  # (stage, subject) -> its finished folder
    cut: dict[str, Any] = field(default_factory=dict)  # task -> rows that the checks cut and no stage has written yet
    prepared: dict[Path, Any] = field(default_factory=dict)  # folder -> its prepared task, read once
    # (task, for training) -> examples and the rows written from them: every arm reads the same
    written: dict[tuple[str, bool], list[tuple[list[Any], Any]]] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)  # seconds per stage, in this process
    skipped: list[str] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)  # ids of the runs that this recipe stands for
    proven: set[str] = field(default_factory=set)  # models whose checklist was shown
    overall: RunProgress | None = None  # of everything that this process makes

    @property
    def recipe(self) -> Recipe:
        """The validated recipe."""
        return self.loaded.recipe

    @property
    def base_folder(self) -> Path:
        """Paths in a recipe are read from the recipe's own folder."""
        return self.loaded.folder

    @property
    def is_adapted(self) -> bool:
        """Whether the teacher that teaches was adapted by an earlier stage."""
        return any(stage == "adapt" for stage, _ in self.found)

    def input(self, stage: str, subject: str) -> Path:
        """Return the folder that an earlier stage made, after comparing its files with their manifest.

        Raises:
            IntegrityError: If a file is not what was committed.
        """
        folder = self.found[stage, subject]
        check_inputs(folder)
        return folder

    @contextmanager
    def timed(self, stage: str, subject: str) -> Iterator[None]:
        """Time a stage, and log its start and end to ``audit.jsonl``."""
        append_event(self.folders.root, {"event": "start", "stage": stage, "subject": subject})
        if self.overall is not None:
            self.overall.started(stage, subject)
            if stage in ARMS and not self.overall.is_live:
                self.show(self.overall.line())
        began = time.perf_counter()
        yield
        seconds = time.perf_counter() - began
        self.timings[stage] = self.timings.get(stage, 0.0) + seconds
        if self.overall is not None:
            self.overall.finished()
        append_event(
            self.folders.root,
            {"event": "end", "stage": stage, "subject": subject, "seconds": round(seconds, 3),
             "peak_memory_bytes": peak_memory_bytes()},
        )  # fmt: skip

    def progress(self, what: str, *, patience: float = 0.0) -> Callable[[int, int, float], None]:
        """Return a reporter of (done, of how many, tokens per second).

        A terminal shows every call in the run's own lines; elsewhere each quarter of the way is a line, unless less
        than ``patience`` seconds went by since the one before.
        """
        shown, last = 0, time.monotonic()

        def report(done: int, total: int, tokens_per_second: float) -> None:
            nonlocal shown, last
            line = f"{what}: {done:,}/{total:,} rows, {tokens_per_second:,.0f} tokens/s"
            if self.overall is not None and self.overall.is_live:
                (self.overall.describe if patience else self.overall.advance)(done / max(total, 1), line)
                return
            quarter = 4 * done // max(total, 1)
            if quarter > shown and time.monotonic() - last >= patience:
                shown, last = quarter, time.monotonic()
                self.show(f"  {line}")

        return report

    def discard_work(self, folder: Path) -> None:
        """Delete the checkpoints of something that is now committed."""
        shutil.rmtree(folder, ignore_errors=True)

    def skip(self, stage: str, subject: str) -> None:
        """Note that a stage was finished before."""
        self.skipped.append(f"{stage} {subject}")


def stage_key(stage: str, part: Mapping[str, Any], reads: Mapping[str, str]) -> str:
    """Address a stage's result: hash(stage version, its part of the recipe, digests of what it reads)."""
    return value_digest({"stage": stage, "version": STAGE_VERSIONS[stage], "part": part, "inputs": dict(reads)})


@dataclass(frozen=True)
class Target:
    """What a stage is to make: a folder, and the key under which it is finished."""

    stage: str
    subject: str
    folder: Path
    key: str
    made_of: Mapping[str, Any]  # the settings and the digests behind the key
    inputs: Mapping[str, str]  # stage and subject of every folder that it reads -> the folder's name


@contextmanager
def stage_artifact(
    context: Context,
    target: Target,
    *,
    seconds: Mapping[str, float] | None = None,
    fields: Mapping[str, Any] | None = None,
) -> Iterator[Path]:
    """Yield a folder to fill; commit it with its key, the manifest's further ``fields`` and a ``provenance.json``.

    Every stage passes here: a stop signal that something swallowed on its way acts before and after the filling.
    """
    stop_if_requested()
    began, started = time.perf_counter(), now()
    held = {"key": target.key, "made_of": dict(target.made_of), "inputs": dict(target.inputs), **(fields or {})}
    with new_artifact(target.folder, kind=target.stage, fields=held, point=target.stage) as temporary:
        yield temporary
        stop_if_requested()
        timings = {"stage": time.perf_counter() - began, **(seconds or {})}
        write_json(temporary / "provenance.json", provenance(context, target.key, started, timings))


def provenance(context: Context, key: str, started: str, seconds: Mapping[str, float]) -> dict[str, Any]:
    """Return what is needed to make an artifact again, and what its timings depended on."""
    return {
        "key": key,
        "command": context.command,
        "recipe": context.recipe.model_dump(mode="json"),
        "recipe_given": context.recipe.model_dump(mode="json", exclude_unset=True),  # loads again: no default is set
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
