"""The published page of the conformance table.

In: what ``conformance.measure`` found. Out: Markdown.
"""

from typing import Any

Result = dict[str, Any]
COMMAND = "python -m benchmarks conformance --write"
ROUNDING = 1e-12  # what float64 explains is shown as 0

HEADER = """\
| loss | from | value against its own oracle | value, gradient against ours | angle to full KD (norm ratio) \
| gradient at equality | tail lowered / equal / lifted | 1x8 against 2x4 (told the count) | T = 64 over 32 \
| student's tail of e^-30 |
|---|---|---|---|---|---|---|---|---|---|"""
COLUMNS = """\
* *Value against its own oracle*: relative error at T = 1 and 2 (the larger) against a float64 formula of what the loss
  says it is.
* *Against ours*: largest relative difference of value and gradient at T = 1 and 2, where both mean the same; a missing
  T^2 is taken out first and shows in the last column.
* *Angle*: between the gradients with respect to the logits over all positions; full KD is forward KL over all ids.
* *Gradient at equality*: norm where the student is the teacher, relative to full KD's norm on the problem; 0: the
  teacher is a fixed point.
* *Tail*: slope of the loss along a common shift of all logits outside of the k ids, one nat below the teacher's, at
  them, one nat above. `- 0 +` holds the tail's mass, `0 0 0` does not see it, `+ + +` pushes it to 0.
* *1x8 against 2x4*: relative difference of the step's gradient between one batch and two micro-batches with uneven
  target counts, averaged as the loss reduces by default; in brackets when the call is told the step's count.
* *T = 64 over 32*: ratio of gradient norms: about 1 with T^2 in the loss, 0.25 without.
* *Student's tail of e^-30*: relative error of the value in float32 when the student gives that little to the rest."""
RELATION_HEADER = """\
| loss | value against its own oracle | value, gradient against ours, rescaled | factor | gradient at equality \
| 1x8 against 2x4, theirs | ours, groups of 4 |
|---|---|---|---|---|---|---|"""
RELATION_NOTES = """\
* Theirs averages over all B^2 pairs (B^3 triplets) of the batch, those of a row with itself included, which add 0; ours
  averages over distinct rows. The factor is (B - 1) / B, and (B - 1)(B - 2) / B^2 for angles: taken out, value and
  gradient agree.
* Theirs compares all rows of a micro-batch: half the rows are another loss (other pairs, another mean distance), so the
  step depends on the split. Ours compares fixed groups that no micro-batch cuts.
* Theirs takes distances from |x|^2 - 2xy + |y|^2, clamped at 1e-12; ours subtracts first."""


def to_markdown(found: Result) -> str:
    """Lay the numbers out as the published page."""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    noted = [row for row in found["rows"] if row["note"]]
    lines = [
        "# Conformance of peers",
        "",
        f"Written by `{COMMAND}`; do not edit. Versions: {versions}.",
        *(f"Absent: {line}." for line in found["absent"]),
        "",
        "The properties that our losses are tested for, measured in float64 on other projects' losses, called as they "
        f"are installed. One seeded problem: {found['problem']}, a student one nat of noise away. Rows from "
        '"plain torch" are recipes in wide use, in our own words.',
        "",
        HEADER,
        *map(_row, found["rows"]),
        "",
        COLUMNS,
        "",
        "## Where they differ, and why",
        "",
        *(f"* **{row['package']}, {row['loss']}**: {row['note']} {_evidence(row)}" for row in noted),
    ]
    if found["relation"]:
        lines += ["", "## Relation losses", "", RELATION_HEADER, *map(_relation_row, found["relation"])]
        lines += ["", RELATION_NOTES]
    return "\n".join(lines) + "\n"


def _row(row: Result) -> str:
    against = "-"
    if row["value_against_ours"] is not None:
        against = f"{_size(row['value_against_ours'])}, {_size(row['gradient_against_ours'])}"
    told = row["split_error_with_count"]
    return _line(
        row["loss"],
        row["package"],
        _size(row["value_error"]),
        against,
        f"{row['angle']:.1f} ({row['norm_ratio']:.2f})",
        _size(row["fixed_point"]),
        _tail(row),
        _size(row["split_error"]) + ("" if told is None else f" ({_size(told)})"),
        f"{row['scale']:.2f}",
        _size(row["small_tail_error"]),
    )


def _relation_row(row: Result) -> str:
    return _line(
        row["loss"],
        _size(row["value_error"]),
        f"{_size(row['value_against_ours'])}, {_size(row['gradient_against_ours'])}",
        f"{row['factor']:.4f}",
        _size(row["fixed_point"]),
        _size(row["split_error"]),
        _size(row["our_split_error"]),
    )


def _evidence(row: Result) -> str:
    return (
        f"(Here: {row['angle']:.1f} degrees, at equality {_size(row['fixed_point'])}, tail {_tail(row)}, "
        f"split {_size(row['split_error'])}.)"
    )


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _tail(row: Result) -> str:
    return " / ".join("0" if abs(slope) < ROUNDING else f"{slope:+.3f}" for slope in row["tail_push"])


def _size(value: float) -> str:
    """Show a relative size."""
    return "0" if abs(value) < ROUNDING else f"{value:.1e}" if abs(value) < 1e-3 else f"{value:.3f}"
