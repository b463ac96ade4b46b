"""Show the result on a terminal of 80 columns.

In: the summary. Out: plain text that a pipe and a log can keep.
"""

import re
import textwrap
from typing import Any

from tutelage.report import numerals
from tutelage.report.answer import difference_interval

WIDTH = 80
MAX_LABEL = 16
# Escape sequences in a name could rewrite the screen.
CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def terminal_table(summary: dict[str, Any]) -> str:
    """Return the main table and the answer as plain text, no line above 80 columns."""
    return "\n\n".join(_group_text(group, len(summary["groups"]) > 1) for group in summary["groups"]) + "\n"


def _group_text(group: dict[str, Any], is_one_of_many: bool) -> str:
    differences = {
        c["rival"]: c["difference"] for c in group["comparisons"] if c["method"] == group["answer"]["method"]
    }
    method = group["answer"]["method"]
    header = ("arm", "params", group["score_name"], "95 % interval", "kept", f"{method} minus arm" if method else "")
    rows = [header, *(_row(arm, differences.get(arm["label"])) for arm in group["arms"])]
    rows = [tuple(_fit(cell, MAX_LABEL if index == 0 else WIDTH) for index, cell in enumerate(row)) for row in rows]
    widths = [max(len(row[index]) for row in rows) for index in range(len(header))]
    lines = [_line(row, widths) for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths)[:WIDTH])
    heading = [f"{group['task']} {group['student'] or ''}".strip()] if is_one_of_many else []
    answer = textwrap.wrap(_fit(group["answer"]["headline"], 10_000), WIDTH)
    more = [line for sentence in group["answer"]["sentences"] for line in textwrap.wrap(_fit(sentence, 10_000), WIDTH)]
    return "\n".join([*heading, *lines, "", *answer, *more])


def _row(arm: dict[str, Any], difference: dict[str, float] | None) -> tuple[str, ...]:
    score, kept = arm["score"], arm["share_kept"]
    return (
        arm["label"],
        numerals.millions(arm["parameters"]),
        numerals.percent(score["estimate"]),
        numerals.percent_interval(score),
        numerals.percent(kept["estimate"] if kept else None),
        f"{numerals.points(difference['estimate'])} {difference_interval(difference)}" if difference else "",
    )


def _fit(text: str, width: int) -> str:
    text = CONTROL_CHARACTERS.sub("", text)
    return text if len(text) <= width else text[: width - 1] + "~"


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    first, *others = (
        cell.ljust(width) if index == 0 else cell.rjust(width)
        for index, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return "  ".join([first, *others]).rstrip()[:WIDTH]
