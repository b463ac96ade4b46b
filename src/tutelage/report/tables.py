"""Define the tables of the report: which numbers, in which columns, under which heading.

In: one group of the summary. Out: :class:`Table` records with raw values; ``table_formats`` and ``latex`` write them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tutelage.report import numerals
from tutelage.report.answer import difference_interval
from tutelage.report.comparisons import TRAINED_ROLES
from tutelage.report.numerals import unsigned_zero

SEED_NOTE = (
    "sd: sample standard deviation over seeds. t interval: 95 %, over seeds; it asks about new seeds, the bootstrap "
    "above about new items. Seeds that are all equal have none."
)
JUDGED_NOTE = "the method that validation prefers, which the headline judges."
SPLIT_WORDS = {"train": "Training", "adapt": "Adapting the teacher", "validation": "Validation", "test": "Test"}
Cell = str | int | float | bool | None | Mapping[str, float]


@dataclass(frozen=True)
class Column:
    """A column: key of its values, heading, and how a value is shown to people."""

    key: str
    title: str
    show: Callable[[Any], str] = str
    numeric: bool = True
    best: Callable[..., float] | None = None  # max or min, where one value is the best


@dataclass(frozen=True)
class Table:
    """A table of raw values; an interval is a mapping with estimate, low and high."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[dict[str, Cell], ...]
    note: str
    marked: frozenset[int] = frozenset()  # rows to set off: the judged method, the chosen trial
    marked_note: str = ""  # what a marked row is; then its first cell has a dagger where there is no colour
    ranked: frozenset[int] = frozenset()  # rows of which the best value is bold
    place: str = ""  # task, and student where a task has several: names of two tables must not be the same

    def shown(self, row: dict[str, Cell], column: Column) -> str:
        """Return one cell as people read it; missing values as ``-``."""
        value = row.get(column.key)
        return numerals.MISSING if value is None else column.show(value)

    def is_best(self, index: int, column: Column) -> bool:
        """Tell whether a cell shows the best value of its column; there is none where all of them show the same."""
        if column.best is None or index not in self.ranked or (own := _raw(self.rows[index], column)) is None:
            return False
        values = {i: value for i in self.ranked if (value := _raw(self.rows[i], column)) is not None}
        shown = {i: column.show(self.rows[i][column.key]).partition(" [")[0] for i in values}
        best = next(i for i, value in values.items() if value == column.best(values.values()))
        return len(set(shown.values())) > 1 and (shown[index] == shown[best] or own == values[best])


def _raw(row: Mapping[str, Cell], column: Column) -> float | None:
    value = row.get(column.key)
    return value["estimate"] if isinstance(value, Mapping) else value  # pyright: ignore[reportReturnType]


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
    """Return all tables of one task and student that say something: with a row, and seeds with a second seed."""
    several = any(len(arm["seeds"]) > 1 for arm in group["arms"])
    makers = [make for make in TABLES if several or make not in (seed_table, seed_difference_table)]
    return [replace(table, place=group["place"]) for make in makers if (table := make(group)).rows]


def main_table(group: dict[str, Any]) -> Table:
    """One row per arm."""
    columns = (
        text_column("label", "Arm"),
        Column("parameters", "Parameters", numerals.millions),
        Column("parameters_share", "Size, % of teacher", numerals.percent),
        Column("score", f"{score_title(group['score_name'])} %", share_with_interval, best=max),
        Column("share_kept", "Teacher's kept, %", share_with_interval, best=max),
        *_task_columns(group),
        Column("kl_to_teacher", "KL to teacher (nats)", numerals.decimal, best=min),
        Column("top1_agreement", "Top-1 agreement %", numerals.percent, best=max),
        Column("num_seeds", "Seeds", numerals.count),
    )
    rows = tuple({**arm, "num_seeds": len(arm["seeds"]) or None} for arm in group["arms"])
    note = (
        f"{group['num_items']:,} test items, scored once. In brackets: 95 % bootstrap interval over items, seeds "
        "averaged within an item; exact where all items say the same. Other columns: mean over seeds. Bold: the best "
        "of the trained arms."
    )
    marked = frozenset(i for i, arm in enumerate(group["arms"]) if arm["label"] == group["answer"]["method"])
    ranked = frozenset(i for i, arm in enumerate(group["arms"]) if arm["role"] in TRAINED_ROLES)
    return Table("main", "Main result", columns, rows, note, marked, JUDGED_NOTE, ranked)


def _task_columns(group: dict[str, Any]) -> tuple[Column, ...]:
    """Return the further metrics of classes, of written answers, or of texts."""
    valid = Column("valid_ratio", "Valid %", numerals.percent, best=max)
    if any(arm.get("exact_match") is not None for arm in group["arms"]):
        return (*_other_scores(group, {"f1": "F1 %", "exact_match": "Exact match %"}), valid)
    if any(arm.get("bits_per_byte") is not None for arm in group["arms"]):
        shown = {"token_accuracy": "Token accuracy %", "token_probability": "Token probability %"}
        plain = {"nll": "Nats per token", "perplexity": "Perplexity", "bits_per_byte": "Bits per byte"}
        return (*_other_scores(group, shown), *_small_is_best(plain), *_empty(group))
    return (Column("macro_f1", "Macro-F1 %", numerals.percent, best=max), valid, *_small_is_best({"ece": "ECE"}))


def _small_is_best(titles: Mapping[str, str]) -> list[Column]:
    return [Column(key, title, numerals.decimal, best=min) for key, title in titles.items()]


def _empty(group: dict[str, Any]) -> list[Column]:
    """Return the share of empty answers, where it was measured."""
    known = any(arm.get("answers_empty") is not None for arm in group["arms"])
    return [Column("answers_empty", "Empty answers %", numerals.percent, best=min)] if known else []


def score_title(name: str) -> str:
    """Return a metric's name with a capital at its start, and ``F1`` as it is."""
    return name[0].upper() + name[1:]


def _other_scores(group: dict[str, Any], titles: Mapping[str, str]) -> list[Column]:
    """Return the scores that the items could have been judged by and were not."""
    own = f"{group['score_name']} %".lower()
    return [Column(key, title, numerals.percent, best=max) for key, title in titles.items() if title.lower() != own]


def comparison_table(group: dict[str, Any]) -> Table:
    """One row per method and rival."""
    note = (
        "Paired by item and seed; in brackets the 95 % bootstrap interval, exact where fewer than six items differ. "
        "McNemar's exact test is pooled over seeds, which counts an item once per seed: read it beside the bootstrap, "
        "and per seed below. Cohen's d is of the paired differences. Holm's rule runs over the rows of this table."
    )
    return comparisons_table("comparisons", "Paired comparisons", group["comparisons"], note)


def pair_table(group: dict[str, Any]) -> Table:
    """One row per pair of trained arms."""
    note = "Every trained arm against every other, on the same items. Holm's rule runs over all of these pairs."
    is_more = any(arm["role"] == "method" for arm in group["arms"]) and len(group["pairs"]) > 1
    return comparisons_table("pairs", "All pairs of arms", group["pairs"] if is_more else (), note)


def comparisons_table(name: str, title: str, comparisons: Sequence[dict[str, Any]], note: str) -> Table:
    """One row per paired difference."""
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
        for comparison in comparisons
    )
    return Table(name, title, columns, rows, note)


def across_table(across: dict[str, Any], *, place: str) -> Table:
    """One row per arm, one column per task, and the mean rank over the tasks."""
    tasks = across["tasks"]
    columns = (
        text_column("label", "Arm"),
        *(
            Column(f"score_{index}", f"{each['task']}: {each['score_name']} %", share_with_interval, best=max)
            for index, each in enumerate(tasks)
        ),
        Column("mean_rank", "Mean rank", lambda value: numerals.decimal(value, digits=2), best=min),
    )
    rows = tuple(
        {
            "label": arm["label"],
            "mean_rank": arm["mean_rank"],
            **{f"score_{index}": arm["scores"][each["task"]] for index, each in enumerate(tasks)},
        }
        for arm in across["arms"]
    )
    ranked = frozenset(i for i, arm in enumerate(across["arms"]) if arm["role"] in TRAINED_ROLES)
    note = (
        "Rank 1 is the best trained arm of a task, equal scores share a rank; the mean is over all tasks. Ranks say "
        "nothing of size: see the paired comparisons of each task. Bold: the best of the trained arms."
    )
    return Table("tasks", "All tasks", columns, rows, note, ranked=ranked, place=place)


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
    title = f"{score_title(group['score_name'])} % seed by seed"
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
    note = "Every trial of the search, all on validation rows; the test rows were not read. Shaded: chosen."
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
            "settings": arm["method_words"] or numerals.settings(arm["settings"]) or None,
        }
        for arm in group["arms"]
    )
    note = "Means over an arm's runs. The budget of an arm is the student tokens that it processed."
    return Table("budget", "Budget", columns, rows, note)


def splits_table(group: dict[str, Any]) -> Table:
    """One row per split: rows, and rows of each class."""
    rows, classes = group["compared"]["rows"], group["compared"]["classes"]
    names = list(dict.fromkeys(name for counts in classes.values() for name in counts))
    columns = (
        text_column("split", "Split"),
        Column("rows", "Rows", numerals.count),
        *(Column(f"class_{index}", name, numerals.count) for index, name in enumerate(names)),
    )
    lines = tuple(
        {
            "split": SPLIT_WORDS[split],
            "rows": count,
            **{f"class_{index}": (classes.get(split) or {}).get(name) for index, name in enumerate(names)},
        }
        for split, count in rows.items()
    )
    note = "Rows of each split" + (", and of each class in it." if names else ".")
    return Table("splits", "Rows by split", columns, lines, note)


# In the order of the page.
TABLES = (
    splits_table,
    main_table,
    comparison_table,
    pair_table,
    seed_table,
    seed_difference_table,
    trial_table,
    budget_table,
)
