"""Read what an experiment left on disk.

In: ``<experiment>/<run_id>/{run.json, items.parquet, metrics.jsonl, evaluations.jsonl, provenance.json}``.
Out: an :class:`Experiment`. A folder without a valid manifest does not exist; a damaged file is an error.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tutelage.errors import DataError, IntegrityError
from tutelage.report.pairing import ItemScores, Seed
from tutelage.store import Manifest, read_manifest

RUN_FILE, ITEMS_FILE, PROVENANCE_FILE = "run.json", "items.parquet", "provenance.json"
STEPS_FILE, EVALUATIONS_FILE = "metrics.jsonl", "evaluations.jsonl"
ROLES = ("teacher", "untouched", "baseline", "pseudo", "method", "control", "trial")
REQUIRED_COLUMNS = ("item_key", "cluster_key", "gold", "prediction", "score")
LOGPROB_PREFIX = "logprob_"
SCORE_TOLERANCE = 1e-6  # run.json may round; anything beyond that is another set of items


@dataclass(frozen=True)
class Run:
    """One finished run: its record, and what lies beside it (empty when that part is optional and missing)."""

    record: dict[str, Any]
    items: dict[str, np.ndarray] | None  # columns of items.parquet, sorted by item key
    labels: tuple[str, ...]  # names behind the indices ``gold`` and ``prediction``
    steps: tuple[dict[str, Any], ...]  # lines of metrics.jsonl
    evaluations: tuple[dict[str, Any], ...]  # lines of evaluations.jsonl
    provenance: dict[str, Any]
    content_digest: str
    inputs: Mapping[str, str] = field(default_factory=dict)  # "stage/subject" -> name of the folder that it reads

    @property
    def run_id(self) -> str:
        """What ``run.json`` calls the run; its folder may say more, the key of its settings."""
        return self.record["run_id"]

    @property
    def role(self) -> str:
        """What the run is for: one of ``ROLES``."""
        return "trial" if self.record.get("trial") else self.record["role"]

    @property
    def seed(self) -> Seed:
        """Training seed; None for what is not trained."""
        return self.record.get("seed")

    @property
    def student(self) -> str | None:
        """Name of the student; None for a teacher."""
        return self.record.get("student") or None

    @property
    def seconds(self) -> float | None:
        """Wall time of training, or of the whole stage; kept in the provenance, since it is never the same twice."""
        seconds = self.provenance.get("seconds")
        return seconds.get("train", seconds.get("stage")) if isinstance(seconds, dict) else seconds

    @property
    def test(self) -> dict[str, float | None]:
        """Metrics on the test items."""
        return (self.record.get("metrics") or {}).get("test") or {}

    @property
    def score_name(self) -> str:
        """The metric that is the mean of the items' scores."""
        return "accuracy" if "accuracy" in self.test else self.record.get("primary_metric", "accuracy")

    @property
    def scores(self) -> ItemScores:
        """Per-item scores.

        Raises:
            DataError: If the run has no items.
        """
        if self.items is None:
            raise DataError(f"Run {self.run_id} has no {ITEMS_FILE}. Evaluate it again: delete its folder and run.")
        return ItemScores(self.items["item_key"], self.items["cluster_key"], self.items["score"].astype(float))


@dataclass(frozen=True)
class Experiment:
    """The finished runs of one experiment; ``trials`` searched, ``runs`` are reported."""

    name: str
    runs: tuple[Run, ...]
    trials: tuple[Run, ...]
    folder: Path | None = None  # of its stages, where they are known


def collect(
    experiment_folder: Path,
    *,
    runs: Sequence[Path] | None = None,
    search_folder: Path | None = None,
) -> Experiment:
    """Read the finished runs of an experiment.

    Args:
        experiment_folder: Holds one folder per run.
        runs: The folders of exactly these runs, trials among them; default all in ``experiment_folder``.
        search_folder: Another experiment, whose trials chose the settings of this one.

    Raises:
        DataError: If there is no finished run to report, or two runs stand for the same arm and seed.
        IntegrityError: If a file differs from its manifest, a run in ``runs`` is not finished, or items differ from
            the run's own metrics.
    """
    found = _read_all(experiment_folder) if runs is None else _read_named(runs)
    reported = tuple(run for run in found if run.role != "trial")
    if not reported:
        raise DataError(
            f"{experiment_folder} holds no finished run to report, only {len(found)} trials. Run the recipe first: "
            "`tutelage run RECIPE`."
        )
    _refuse_duplicates(reported)
    searched = _read_all(search_folder) if search_folder is not None else []
    trials = tuple(run for run in (*searched, *found) if run.role == "trial")
    if search_folder is not None and not any(run.role == "trial" for run in searched):
        raise DataError(
            f"{search_folder} holds no finished trial, but `report.search` names it. Run its recipe first, with "
            "`--until trials`, in the same workspace; or remove the key."
        )
    return Experiment(experiment_folder.name, reported, trials, experiment_folder)


def _read_all(experiment_folder: Path) -> list[Run]:
    """Read every folder with a valid manifest; others, as a run that was stopped left them, do not exist."""
    folders = [path.parent for path in experiment_folder.glob(f"*/{RUN_FILE}") if ".tmp." not in path.parent.name]
    manifests = [(folder, read_manifest(folder)) for folder in sorted(folders)]
    found = [_read_run(folder, manifest) for folder, manifest in manifests if manifest is not None]
    return _in_order(found)


def _read_named(folders: Sequence[Path]) -> list[Run]:
    found = []
    for folder in folders:
        manifest = read_manifest(folder)
        if manifest is None or RUN_FILE not in manifest.files:
            raise IntegrityError(
                f"{folder} is no finished run, or it is damaged. Delete it and run the recipe again; only it is remade."
            )
        found.append(_read_run(folder, manifest))
    return _in_order(found)


def _in_order(runs: Iterable[Run]) -> list[Run]:
    """Sort by what the runs are, so that the names of their folders change nothing in the report."""
    return sorted(runs, key=lambda run: (run.run_id, run.content_digest))


def _read_run(folder: Path, manifest: Manifest) -> Run:
    record = _parse_json(folder / RUN_FILE, _verified_bytes(folder, RUN_FILE, manifest))
    missing = [key for key in ("run_id", "role", "method", "task") if key not in record]
    if missing or record["role"] not in ROLES:
        found = f"lacks {', '.join(missing)}" if missing else f"has role {record['role']!r}"
        raise DataError(
            f"{folder / RUN_FILE} {found}; expected one of {', '.join(ROLES)} as `role`. Make the run again."
        )
    items, labels, provenance = None, (), {}
    if ITEMS_FILE in manifest.files:
        items, labels = _parse_items(folder / ITEMS_FILE, _verified_bytes(folder, ITEMS_FILE, manifest))
    if PROVENANCE_FILE in manifest.files:
        provenance = _parse_json(folder / PROVENANCE_FILE, _verified_bytes(folder, PROVENANCE_FILE, manifest))
    steps, evaluations = (_read_lines(folder, name, manifest) for name in (STEPS_FILE, EVALUATIONS_FILE))
    inputs = manifest.fields.get("inputs") or {}
    run = Run(record, items, labels, steps, evaluations, provenance, manifest.content_digest, inputs)
    _check_items(folder, run)
    return run


def read_stage_record(folder: Path, name: str) -> dict[str, Any]:
    """Return a JSON file of a finished stage; empty where there is no such stage.

    Raises:
        IntegrityError: If it is not what was committed.
    """
    manifest = read_manifest(folder)
    if manifest is None or name not in manifest.files:
        return {}
    return _parse_json(folder / name, _verified_bytes(folder, name, manifest))


def _read_lines(folder: Path, name: str, manifest: Manifest) -> tuple[dict[str, Any], ...]:
    if name not in manifest.files:
        return ()
    lines = _verified_bytes(folder, name, manifest).splitlines()
    return tuple(_parse_json(folder / name, line) for line in lines if line.strip())


def _verified_bytes(folder: Path, name: str, manifest: Manifest) -> bytes:
    content = (folder / name).read_bytes()
    if name not in manifest.files or hashlib.sha256(content).hexdigest() != manifest.files[name]["sha256"]:
        raise IntegrityError(
            f"{folder / name} is not what was committed. Delete {folder} and run again; only it is remade."
        )
    return content


def _parse_json(path: Path, content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}. Delete its folder and run again.") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} holds a {type(value).__name__}, expected an object. Delete its folder and run again.")
    return value


def _parse_items(path: Path, content: bytes) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    try:
        table = pq.read_table(io.BytesIO(content))
    except (pa.ArrowException, OSError) as error:
        raise IntegrityError(f"{path} is not readable as Parquet: {error}. Delete its folder and run again.") from error
    missing = [name for name in REQUIRED_COLUMNS if name not in table.column_names]
    if missing or table.num_rows == 0:
        raise DataError(
            f"{path} has {table.num_rows} rows and lacks {missing}; expected {', '.join(REQUIRED_COLUMNS)}."
        )
    columns = {
        name: np.asarray(table[name].to_pylist(), dtype=_column_type(table[name].type)) for name in table.column_names
    }
    order = np.argsort(columns["item_key"], kind="stable")
    return {name: column[order] for name, column in columns.items()}, _label_names(table.schema)


def _label_names(schema: pa.Schema) -> tuple[str, ...]:
    header = json.loads((schema.metadata or {}).get(b"tutelage", b"{}"))
    logprobs = [name.removeprefix(LOGPROB_PREFIX) for name in schema.names if name.startswith(LOGPROB_PREFIX)]
    return tuple(header.get("labels") or logprobs)


def _column_type(arrow_type: pa.DataType) -> type | None:
    return str if pa.types.is_string(arrow_type) or pa.types.is_large_string(arrow_type) else None


def _check_items(folder: Path, run: Run) -> None:
    expected = run.test.get(run.score_name)
    if run.items is None or expected is None:
        return
    found = float(run.scores.scores.mean())
    if abs(found - expected) > SCORE_TOLERANCE:
        raise IntegrityError(
            f"{folder}: the items give {run.score_name} {found:.6f}, run.json says {expected:.6f}; they are from "
            "different evaluations. Delete the folder and run again."
        )


def _refuse_duplicates(runs: tuple[Run, ...]) -> None:
    seen: dict[tuple, Run] = {}
    for run in runs:
        arm = (run.record["task"], run.student, run.role, run.record["method"], run.seed)
        if arm in seen:
            other = seen[arm]
            pair = f"{other.run_id} and {run.run_id}" if other.run_id != run.run_id else f"Two runs {run.run_id}"
            raise DataError(
                f"{pair} both stand for {run.record['method']} with seed {run.seed}: they were made with different "
                "settings. `tutelage report RECIPE` reports those that a recipe stands for, "
                "`tutelage compare` sets experiments side by side; or delete the folder that you do not want."
            )
        seen[arm] = run
