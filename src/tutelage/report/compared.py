"""Say what was compared: which teacher, students and rows, under which licences, and how the rows were cut.

In: the stages behind an experiment's runs, ``prepare/<task>/info.json`` and ``teach/<task>/teach.json``, and the
recipe that the runs record. Out: one record per task and student; what an earlier version did not write is None.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from tutelage.report.arms import Arm
from tutelage.report.collect import Run, read_stage_record

REASONS = {"limit": "beyond `limit`", "test_rows": "beyond `test_rows`"}  # the others are words as they are
SPLITS = ("train", "adapt", "validation", "test")


def stage_records(runs: Sequence[Run], experiment_folder: Path) -> dict[str, dict[str, Any]]:
    """Return what ``prepare`` and ``teach`` recorded for each task of the runs; empty where that is not known.

    A run names the folders that it was made from. Runs of an earlier version name none: theirs are the only ones.
    A task whose runs come from different folders has no record, since none is true of all of them.

    Raises:
        IntegrityError: If a record is not what was committed.
    """
    found: dict[str, dict[str, Any]] = {}
    for task in dict.fromkeys(run.record["task"] for run in runs):
        own = [run for run in runs if run.record["task"] == task]
        found[task] = {
            stage: read_stage_record(experiment_folder / stage / name, f"{file}.json") if name is not None else {}
            for stage, file in (("prepare", "info"), ("teach", "teach"))
            for name in [_only_name(own, f"{stage}/{task}", task)]
        }
    return found


def _only_name(runs: Sequence[Run], stage: str, default: str) -> str | None:
    names = {PurePosixPath(run.inputs[stage]).name for run in runs if stage in run.inputs}
    return (names.pop() if len(names) == 1 else None) if names else default


def describe_compared(arms: Sequence[Arm], records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return teacher, student and data of one task and student."""
    prepared, taught = records.get("prepare") or {}, records.get("teach") or {}
    students = [arm for arm in arms if arm.role != "teacher"] or list(arms)
    record = students[0].first.record
    recipe = next((run.provenance["recipe"] for arm in arms for run in arm.runs.values() if _recipe(run)), {})
    return {
        "teacher": _teacher(recipe, taught, record),
        "student": _student(recipe, record),
        "data": {name: prepared.get(name) for name in ("source", "revision", "licence")},
        "sources": [
            {name: part.get(name) for name in ("source", "subset", "revision", "licence")}
            for part in prepared.get("sources", ())
        ],
        "labels": prepared.get("labels"),
        "columns_not_read": prepared.get("columns_not_read") or [],
        "rows": {split: count for split in SPLITS if (count := (prepared.get("rows") or {}).get(split))},
        "classes": prepared.get("classes") or prepared.get("class_balance") or {},
        "rows_read": sum(prepared["rows_read"].values()) if prepared.get("rows_read") else None,
        "left_out": dict(prepared.get("dropped") or {}),
        "label_mass": taught.get("label_mass") or None,
        "notes": prepared.get("notes") or [],
    }


def _recipe(run: Run) -> dict[str, Any]:
    return run.provenance.get("recipe") or {}


def _teacher(recipe: Mapping[str, Any], taught: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    section = recipe.get("teacher") or {}
    return {
        "name": taught.get("teacher") or section.get("model"),
        "revision": section.get("revision"),
        "parameters": taught.get("parameters") or record.get("teacher_parameters"),
        "licence": taught.get("licence") or section.get("licence"),
    }


def _student(recipe: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    section = (recipe.get("students") or {}).get(record.get("student")) or {}
    shrink, adapter = section.get("shrink") or {}, section.get("adapter") or {}
    made = section.get("model") or ("the teacher" if section else None)
    if made and shrink.get("layers"):
        made += f" cut to {_layers(shrink['layers'])}" + (f" (by {shrink['by']})" if shrink.get("by") else "")
    if made and adapter.get("kind") not in (None, "none"):
        made += f", trained with {adapter['kind']}"
    return {"name": record.get("student") or None, "made_of": made, "parameters": record.get("parameters")}


def _layers(layers: Any) -> str:
    return f"{layers} layers" if isinstance(layers, int) else f"layers {', '.join(map(str, layers))}"


def compared_lines(compared: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the record as names and sentences, what is not known left out."""
    lines = [
        ("Teacher", _joined(compared["teacher"], "name")),
        ("Student", _joined(compared["student"], "name")),
    ]
    parts = compared["sources"] if len(compared["sources"]) > 1 else [compared["data"]]
    lines += [("Data", _joined(part, "source")) for part in parts]
    mapped = [each for each in compared["labels"] or () if len(set(each.split(" -> "))) > 1]
    if mapped:
        lines.append(("Labels", "; ".join(mapped)))
    if compared["columns_not_read"]:
        lines.append(("Columns not read", ", ".join(compared["columns_not_read"])))
    if compared["rows_read"] is not None:
        out = {reason: count for reason, count in compared["left_out"].items() if count}
        reasons = ", ".join(
            f"{count:,} {REASONS.get(reason, reason.replace('_', ' '))}" for reason, count in out.items()
        )
        text = f"{compared['rows_read']:,} read, {sum(out.values()):,} left out" + (f": {reasons}" if out else "")
        lines.append(("Rows", text))
    if compared["label_mass"]:
        shares = ", ".join(f"{label} {100 * share:.1f} %" for label, share in compared["label_mass"].items())
        lines.append(("Teacher's probability on the label words", shares))
    lines += [("Note", note) for note in compared["notes"]]
    return [(name, text) for name, text in lines if text]


def _joined(part: Mapping[str, Any], name: str) -> str:
    if not part.get(name):
        return ""
    words = [str(part[name])]
    if part.get("made_of"):
        words.append(part["made_of"])
    if part.get("subset"):
        words.append(f"subset {part['subset']}")
    if part.get("parameters"):
        words.append(f"{part['parameters']:,} parameters")
    if part.get("revision"):
        words.append(f"revision {part['revision']}")
    if "licence" in part:
        words.append(f"licence {part['licence'] or 'not recorded'}")
    return ", ".join(words)
