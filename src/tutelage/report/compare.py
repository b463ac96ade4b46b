"""Set experiments side by side: every arm of each, and arms of one name paired over the same test items.

In: the folders of finished experiments. Out: a table for the terminal and, where asked for, a page with its tables.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tutelage.errors import ConfigError
from tutelage.report import numerals
from tutelage.report.answer import difference_interval
from tutelage.report.arms import Arm, group_arms
from tutelage.report.build import write_table
from tutelage.report.collect import Experiment, collect
from tutelage.report.comparisons import describe_pair, with_holm
from tutelage.report.page import page_environment, table_view
from tutelage.report.statistics import paired_difference
from tutelage.report.summary import summarise
from tutelage.report.tables import (
    Column,
    Table,
    comparisons_table,
    score_title,
    share_with_interval,
    text_column,
)
from tutelage.store import new_artifact, safe_name, value_digest, write_file, write_json

PAGE, SUMMARY, KIND = "compare.html", "summary.json", "compare"
FORMAT_VERSION = 1
NOTE = (
    "Later experiment minus earlier one, for arms of one name, paired by item and seed. Arms that were scored on other "
    "test items cannot be paired and are left out. Holm's rule runs over the rows of this table."
)


@dataclass(frozen=True)
class Comparison:
    """Experiments side by side; ``page`` where it was written."""

    summary: dict[str, Any]
    terminal: str
    page: Path | None


def build_comparison(
    folders: Sequence[Path],
    *,
    command: str,
    runs: Mapping[Path, Sequence[Path]] | None = None,
    out: Path | None = None,
) -> Comparison:
    """Compare finished experiments.

    Args:
        folders: Of two experiments or more; the first one is what the others are held against.
        command: How to make this comparison again.
        runs: The run folders of an experiment, for those that hold runs of several settings.
        out: A folder for page and tables; nothing is written without it.

    Raises:
        ConfigError: If there are fewer than two folders, or one of them twice.
        DataError: If an experiment has no finished run, or several for one arm and seed.
        IntegrityError: If a run's file is damaged.
        DiskError: If the disk is full.
    """
    if len({folder.resolve() for folder in folders}) < max(2, len(folders)):
        raise ConfigError(f"Found {len(folders)} folders, expected at least two different experiments to compare.")
    experiments = {
        name: collect(folder, runs=(runs or {}).get(folder))
        for name, folder in zip(_names(folders), folders, strict=True)
    }
    summary = {
        "format_version": FORMAT_VERSION,
        "command": command,
        "experiments": list(experiments),
        "tasks": _tasks(experiments, command),
    }
    tables = [table for task in summary["tasks"] for table in comparison_tables(task)]
    page = _write(out, summary, tables) if out is not None else None
    return Comparison(summary, _terminal(summary), page)


def _names(folders: Sequence[Path]) -> list[str]:
    """Name experiments by their folders, with as many folders above as it takes to tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    names = ["/".join(each[-1:]) for each in parts]
    for depth in range(2, max(map(len, parts)) + 1):
        if len(set(names)) == len(names):
            break
        names = ["/".join(each[-depth:]) for each in parts]
    return names


def _tasks(experiments: Mapping[str, Experiment], command: str) -> list[dict[str, Any]]:
    arms: dict[str, dict[str, dict[str, Arm]]] = {}  # task -> experiment -> label with student -> arm
    records: dict[str, list[dict[str, Any]]] = {}
    for name, experiment in experiments.items():
        students = {run.student for run in experiment.runs} - {None}
        by_group = group_arms(experiment.runs)
        for group in summarise(experiment, question="", command=command)["groups"]:
            task = group["task"]
            for record, arm in zip(group["arms"], by_group[task, group["student"]], strict=True):
                is_shared = arm.role == "teacher" or len(students) < 2
                label = arm.label if is_shared else f"{arm.label}, {group['student']}"
                if label in arms.setdefault(task, {}).setdefault(name, {}):
                    continue  # the teacher belongs to every student
                arms[task][name][label] = arm
                records.setdefault(task, []).append(
                    {**record, "label": label, "experiment": name, "score_name": group["score_name"]}
                )
    return [
        {"task": task, "score_name": own[0]["score_name"], "arms": _by_label(own), "pairs": _pairs(arms[task])}
        for task, own in records.items()
    ]


def _by_label(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put arms of one name beside each other, names in the order of their first experiment."""
    order = {label: index for index, label in reversed(list(enumerate(record["label"] for record in records)))}
    return sorted(records, key=lambda record: order[record["label"]])


def _pairs(arms: Mapping[str, Mapping[str, Arm]]) -> list[dict[str, Any]]:
    names, pairs = list(arms), []
    labels = dict.fromkeys(label for own in arms.values() for label in own)
    for label in labels:
        own = [name for name in names if label in arms[name]]
        for index, later in enumerate(own):
            for earlier in own[:index]:
                first, second = arms[later][label], arms[earlier][label]
                if _can_be_paired(first, second):
                    pair = describe_pair(first, second, paired_difference(first.scores, second.scores))
                    pairs.append({**pair, "method": f"{label} in {later}", "rival": f"in {earlier}"})
    return with_holm(pairs)


def _can_be_paired(first: Arm, second: Arm) -> bool:
    if first.first.score_name != second.first.score_name or (first.seeds and not set(first.seeds) & set(second.seeds)):
        return False
    if bool(first.seeds) != bool(second.seeds):
        return False
    one, other = first.first.scores, second.first.scores
    items = [sorted(zip(each.item_keys.tolist(), each.cluster_keys.tolist(), strict=True)) for each in (one, other)]
    return items[0] == items[1]


def comparison_tables(task: dict[str, Any]) -> list[Table]:
    """Return the arms of all experiments on one task, and their differences where the test items are the same."""
    columns = (
        text_column("label", "Arm"),
        text_column("experiment", "Experiment"),
        Column("parameters", "Parameters", numerals.millions),
        Column("score", f"{score_title(task['score_name'])} %", share_with_interval, best=max),
        Column("share_kept", "Teacher's kept, %", share_with_interval, best=max),
        Column("kl_to_teacher", "KL to teacher (nats)", numerals.decimal, best=min),
        Column("num_seeds", "Seeds", numerals.count),
        text_column("method_words", "Settings"),
    )
    rows = tuple({**arm, "num_seeds": len(arm["seeds"]) or None} for arm in task["arms"])
    ranked = frozenset(i for i, arm in enumerate(task["arms"]) if arm["role"] in ("baseline", "pseudo", "method"))
    note = (
        "In brackets: 95 % interval over test items. Bold: the best of the trained arms. KL is to each one's teacher."
    )
    arms = Table("arms", "Arms side by side", columns, rows, note, ranked=ranked, place=task["task"])
    pairs = replace(comparisons_table("differences", "Differences", task["pairs"], NOTE), place=task["task"])
    return [arms, *([pairs] if pairs.rows else [])]


def _terminal(summary: dict[str, Any]) -> str:
    """Return one line per arm and one per difference, none above 80 columns where the names allow it."""
    lines = []
    for task in summary["tasks"]:
        lines += [f"{task['task']}, {task['score_name']} %", ""]
        rows = [
            (arm["label"], arm["experiment"], numerals.percent(arm["score"]["estimate"]), _interval(arm["score"]))
            for arm in task["arms"]
        ]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines += [
            f"{a.ljust(widths[0])}  {b.ljust(widths[1])}  {c.rjust(5)}  {d.rjust(widths[3])}".rstrip()
            for a, b, c, d in rows
        ]
        lines.append("")
        for pair in task["pairs"]:
            size, p_value = numerals.points(pair["difference"]["estimate"]), numerals.p_value(pair["p_holm"])
            interval = difference_interval(pair["difference"])
            lines.append(f"{pair['method']} minus {pair['rival']}: {size} points {interval}, p (Holm) {p_value}")
        if not task["pairs"]:
            lines.append("No arm was scored on the same test items in two experiments: nothing can be paired.")
        lines.append("")
    return "\n".join(lines)


def _interval(score: dict[str, float]) -> str:
    return numerals.percent_interval(score)


def _write(out: Path, summary: dict[str, Any], tables: Sequence[Table]) -> Path:
    environment, style = page_environment()
    views = [
        table_view(table, f"{_stem(table)}-", summary["command"]) | {"title": f"{table.place}: {table.title}"}
        for table in tables
    ]
    page = environment.get_template("compare.html.j2").render(summary=summary, style=style, tables=views)
    with new_artifact(out, kind=KIND, fields={"key": value_digest(summary)}, point="report") as temporary:
        write_file(temporary / PAGE, page.rstrip() + "\n")
        write_json(temporary / SUMMARY, summary)
        for table in tables:
            write_table(temporary, f"{_stem(table)}-", table, summary["command"])
    return out / PAGE


def _stem(table: Table) -> str:
    return safe_name(table.place, what="task")
