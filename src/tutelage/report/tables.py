"""Define the tables of the report: which numbers, in which columns, under which heading.

In: one group of the summary. Out: :class:`Table` records with raw values; ``table_formats`` and ``latex`` write them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tutelage.report import numerals
from tutelage.report.answer import difference_interval
from tutelage.report.numerals import unsigned_zero

SEED_NOTE = (
    "sd: standard deviation over seeds (n - 1). t interval: 95 %, over seeds, n - 1 degrees of freedom; it asks about "
    "new seeds, the bootstrap above about new items."
)
Cell = str | int | float | bool | None | Mapping[str, float]


@dataclass(frozen=True)
class Column:
    """A column: key of its values, heading, and how a value is shown to people."""

    key: str
    title: str
    show: Callable[[Any], str] = str
    numeric: bool = True


@dataclass(frozen=True)
class Table:
    """A table of raw values; an interval is a mapping with estimate, low and high."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[dict[str, Cell], ...]
    note: str
    marked: frozenset[int] = frozenset()  # rows to set off: the method, the chosen trial

    def shown(self, row: dict[str, Cell], column: Column) -> str:
        """Return one cell as people read it; missing values as ``-``."""
        value = row.get(column.key)
        return numerals.MISSING if value is None else column.show(value)


def text_column(key: str, title: str) -> Column:
    """Return a left-aligned column of text."""
    return Column(key, title, str, numeric=False)


def share_with_interval(value: Mapping[str, int | float]) -> str:
    """Return ``83.1 [81.5, 84.6]``; what is certain (the teacher against itself) has no interval."""
    if value["low"] == value["high"]:
        return numerals.percent(value["estimate"])
    return f"{numerals.percent(value['estimate'])} {numerals.percent_interval(value)}"


def points_with_interval(value: Mapping[str, int | float]) -> str:
    """Return ``+1.9 [0.6, 3.2]``."""
    return f"{numerals.points(value['estimate'])} {difference_interval(dict(value))}"


def group_tables(group: dict[str, Any]) -> list[Table]:
    """Return all tables of one task and student that have at least one row."""
    return [table for make in TABLES if (table := make(group)).rows]


def main_table(group: dict[str, Any]) -> Table:
    """One row per arm."""
    columns = (
        text_column("label", "Arm"),
        Column("parameters", "Parameters", numerals.millions),
        Column("parameters_share", "Size, % of teacher", numerals.percent),
        Column("score", f"{group['score_name'].capitalize()} %", share_with_interval),
        Column("share_kept", "Teacher's kept, %", share_with_interval),
        *_task_columns(group),
        Column("kl_to_teacher", "KL to teacher (nats)", numerals.decimal),
        Column("top1_agreement", "Top-1 agreement %", numerals.percent),
        Column("num_seeds", "Seeds", numerals.count),
    )
    rows = tuple({**arm, "num_seeds": len(arm["seeds"]) or None} for arm in group["arms"])
    note = (
        f"{group['num_items']:,} test items, scored once. In brackets: 95 % bootstrap interval over items, seeds "
        "averaged within an item. Other columns: mean over seeds."
    )
    marked = frozenset(i for i, arm in enumerate(group["arms"]) if arm["label"] == group["answer"]["method"])
    return Table("main", "Main result", columns, rows, note, marked)


def _task_columns(group: dict[str, Any]) -> tuple[Column, ...]:
    """Return the further metrics of classes, of written answers, or of texts."""
    valid = Column("valid_ratio", "Valid %", numerals.percent)
    if any(arm.get("exact_match") is not None for arm in group["arms"]):
        return (*_other_scores(group, {"f1": "F1 %", "exact_match": "Exact match %"}), valid)
    if any(arm.get("bits_per_byte") is not None for arm in group["arms"]):
        shown = {"token_accuracy": "Token accuracy %", "token_probability": "Token probability %"}
        plain = {"nll": "Nats per token", "perplexity": "Perplexity", "bits_per_byte": "Bits per byte"}
        return (*_other_scores(group, shown), *(Column(key, title, numerals.decimal) for key, title in plain.items()))
    return (Column("macro_f1", "Macro-F1 %", numerals.percent), valid, Column("ece", "ECE", numerals.decimal))


def _other_scores(group: dict[str, Any], titles: Mapping[str, str]) -> list[Column]:
    """Return the scores that the items could have been judged by and were not."""
    own = f"{group['score_name']} %".lower()
    return [Column(key, title, numerals.percent) for key, title in titles.items() if title.lower() != own]


def comparison_table(group: dict[str, Any]) -> Table:
    """One row per method and rival."""
    columns = (
        text_column("comparison", "Comparison"),
        Column("difference", "Difference, points", points_with_interval),
        Column("p_value", "p (bootstrap)", numerals.p_value),
        Column("p_holm", "p (Holm)", numerals.p_value),
        Column("cohens_d", "Cohen's d", lambda value: numerals.decimal(value, digits=2)),
        text_column("effect", "Effect"),
        Column("wins", "Only first right", numerals.count),
        Column("losses", "Only second right", numerals.count),
        Column("p_mcnemar", "p (McNemar, pooled)", numerals.p_value),
        Column("num_seeds", "Seeds", numerals.count),
    )
    rows = tuple(
        {
            **comparison,
            "comparison": f"{comparison['method']} minus {comparison['rival']}",
            "wins": (comparison["mcnemar"] or {}).get("wins"),
            "losses": (comparison["mcnemar"] or {}).get("losses"),
            "p_mcnemar": (comparison["mcnemar"] or {}).get("p_value"),
            "num_seeds": len(comparison["per_seed"]),
        }
        for comparison in group["comparisons"]
    )
    note = (
        "Paired by item and seed; in brackets the 95 % bootstrap interval. McNemar's exact test is pooled over seeds, "
        "which counts an item once per seed: read it beside the bootstrap, and per seed below. Cohen's d is of the "
        "paired differences."
    )
    return Table("comparisons", "Paired comparisons", columns, rows, note)


def seed_table(group: dict[str, Any]) -> Table:
    """One row per trained arm, one column per seed."""
    arms = [arm for arm in group["arms"] if arm["seeds"]]
    columns = _seed_columns(arms, "Arm", numerals.percent)
    rows = tuple(
        {
            "name": arm["label"],
            **{f"seed_{run['seed']}": run["score"] for run in arm["per_seed"]},
            **_spread_cells(arm["seed_spread"]),
        }
        for arm in arms
    )
    title = f"{group['score_name'].capitalize()} % seed by seed"
    return Table("per_seed", title, columns, rows, SEED_NOTE)


def seed_difference_table(group: dict[str, Any]) -> Table:
    """One row per comparison, one column per seed, and McNemar's exact p per seed."""
    comparisons = group["comparisons"]
    seeds = _seeds(comparisons)
    columns = (
        *_seed_columns(comparisons, "Comparison", numerals.points),
        *(Column(f"p_{seed}", f"p (McNemar) {seed}", numerals.p_value) for seed in seeds),
    )
    rows = tuple(
        {
            "name": f"{comparison['method']} minus {comparison['rival']}",
            **{f"seed_{pair['seed']}": pair["difference"] for pair in comparison["per_seed"]},
            **{f"p_{pair['seed']}": (pair["mcnemar"] or {}).get("p_value") for pair in comparison["per_seed"]},
            **_spread_cells(comparison["seed_spread"]),
        }
        for comparison in comparisons
    )
    return Table("per_seed_differences", "Paired differences seed by seed, points", columns, rows, SEED_NOTE)


def _seeds(entries: list[dict[str, Any]]) -> list[Any]:
    return sorted({run["seed"] for entry in entries for run in entry["per_seed"]}, key=lambda seed: seed or 0)


def _seed_columns(entries: list[dict[str, Any]], heading: str, show: Callable[[Any], str]) -> tuple[Column, ...]:
    def interval(value: Mapping[str, int | float]) -> str:
        return f"[{unsigned_zero(numerals.percent(value['low']))}, {unsigned_zero(numerals.percent(value['high']))}]"

    return (
        text_column("name", heading),
        *(Column(f"seed_{seed}", f"Seed {seed}", show) for seed in _seeds(entries)),
        Column("mean", "Mean", show),
        Column("sd", "sd", lambda value: numerals.percent(value, digits=2)),
        Column("t_interval", "t interval", interval),
    )


def _spread_cells(spread: dict[str, Any]) -> dict[str, Cell]:
    interval = {"estimate": spread["mean"], "low": spread["low"], "high": spread["high"]}
    known = spread["low"] is not None
    return {"mean": spread["mean"], "sd": spread["sd"], "t_interval": interval if known else None}


def trial_table(group: dict[str, Any]) -> Table:
    """One row per trial of the search."""
    keys = sorted({key for trial in group["trials"] for key in trial["settings"]})
    columns = (
        text_column("method", "Method"),
        *(Column(key, _setting_title(key, keys), numerals.setting) for key in keys),
        Column("validation", f"Validation {group['validation_name']} %", numerals.percent),
        Column("seed", "Seed", str),
        Column("tokens", "Student tokens", numerals.count),
        Column("chosen", "Chosen", lambda value: "chosen" if value else "", numeric=False),
    )
    rows = tuple({**trial, **trial["settings"]} for trial in group["trials"])
    marked = frozenset(i for i, trial in enumerate(group["trials"]) if trial["chosen"])
    note = "Every trial of the search, all on validation rows; the test rows were not read."
    return Table("trials", "Trials", columns, rows, note, marked)


def _setting_title(key: str, keys: list[str]) -> str:
    short = numerals.short_key(key)
    return key if sum(numerals.short_key(other) == short for other in keys) > 1 else short.replace("_", " ")


def budget_table(group: dict[str, Any]) -> Table:
    """One row per arm: what its training consumed."""
    columns = (
        text_column("label", "Arm"),
        Column("num_runs", "Runs", numerals.count),
        Column("gold_labels", "Gold labels", numerals.count),
        Column("tokens", "Student tokens per run", numerals.count),
        Column("targets", "Supervised targets", numerals.count),
        Column("steps", "Steps", numerals.count),
        Column("teacher_tokens", "Teacher tokens", numerals.count),
        Column("num_trials", "Trials", numerals.count),
        text_column("settings", "Settings"),
    )
    rows = tuple(
        {
            "label": arm["label"],
            "num_runs": len(arm["run_ids"]),
            **arm["budget"],
            "num_trials": arm["num_trials"],
            "settings": numerals.settings(arm["settings"]) or None,
        }
        for arm in group["arms"]
    )
    note = "Means over an arm's runs. The budget of an arm is the student tokens that it processed."
    return Table("budget", "Budget", columns, rows, note)


# In the order of the page.
TABLES = (main_table, comparison_table, seed_table, seed_difference_table, trial_table, budget_table)
