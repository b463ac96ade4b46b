"""Draw how good the arms are: quality against size, and the arms side by side.

In: one group of the summary. Out: :class:`FigureFile` records.
"""

import textwrap
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tutelage.report import numerals
from tutelage.report.answer import difference_interval
from tutelage.report.figure_style import (
    INK,
    MUTED,
    RULE,
    FigureFile,
    Look,
    arm_looks,
    light_grid,
    render,
    render_narrow,
    spread,
)
from tutelage.report.tables import score_title

LABEL_INCHES = 0.17  # height of a line of labels
NARROW_TITLE = 24  # characters
LETTER_INCHES = 0.085  # width of a letter of 9 points
AXIS_INCHES = 0.8  # what stands left of the axes


def quality_vs_size(group: dict[str, Any]) -> FigureFile | None:
    """Plot score over parameters, one point per arm with its interval."""
    arms = [arm for arm in group["arms"] if arm["parameters"]]
    if not arms:
        return None
    readings = "; ".join(
        f"{arm['label']} {numerals.percent(arm['score']['estimate'])} % at {numerals.millions(arm['parameters'])}"
        for arm in arms
    )
    height = max(3.6, 1.0 + LABEL_INCHES * len(arms))
    return FigureFile(
        "quality_vs_size",
        "Quality against size",
        "Points: mean over seeds, at their true size. Bars: 95 % interval over items; those of one size lie on one "
        "another, and stand apart in the next figure.",
        f"{group['score_name']} against parameters: {readings}.",
        render(lambda figure: _draw_quality(figure.subplots(), arms, group, height, 0.42), height_inches=height),
        render_narrow(lambda figure: _draw_quality(figure.subplots(), arms, group, height, 0.95), height_inches=height),
    )


def _draw_quality(axes: Axes, arms: list[dict[str, Any]], group: dict[str, Any], height: float, margin: float) -> None:
    looks = arm_looks(group["arms"])
    sizes = [arm["parameters"] / 1e6 for arm in arms]
    span = max(max(sizes) - min(sizes), 0.2 * max(sizes))
    axes.set_xlim(min(sizes) - 0.08 * span, max(sizes) + margin * span)
    low, high = (100 * pick(arm["score"][key] for arm in arms) for pick, key in ((min, "low"), (max, "high")))
    gap = max(high - low, 1.0) * LABEL_INCHES / (height - 0.9)
    shown = [low, high]
    inches = axes.figure.get_figwidth() - AXIS_INCHES  # pyright: ignore[reportAttributeAccessIssue]
    longest = max(len(arm["label"]) for arm in arms) + len("  100.0")
    widest = (1.08 + margin) * span * (0.3 + LETTER_INCHES * longest) / inches
    for members in _near(arms, widest):
        heights = spread([100 * arm["score"]["estimate"] for arm in members], gap=gap)
        label_x = max(arm["parameters"] / 1e6 for arm in members) + 0.12 * margin * span
        shown += heights
        for arm, label_y in zip(members, heights, strict=True):
            look, score, x = looks[arm["label"]], arm["score"], arm["parameters"] / 1e6
            axes.plot([x, x], [100 * score["low"], 100 * score["high"]], color=look.colour, linewidth=1.3, alpha=0.5)
            ends = [x, label_x], [100 * score["estimate"], label_y]
            axes.plot(*ends, color=RULE, linewidth=0.8, zorder=1)
            _mark(axes, x, 100 * score["estimate"], look)
            _mark(axes, label_x, label_y, look, size=4.5)
            text = f"{arm['label']}  {numerals.percent(score['estimate'])}"
            axes.annotate(text, (label_x, label_y), (6, 0), textcoords="offset points", va="center")
    axes.set_ylim(min(shown) - gap / 2, max(shown) + gap / 2)
    axes.set_xlabel("Parameters (millions)")
    axes.set_ylabel(f"Test {group['score_name']} (%)")
    light_grid(axes, axis="y")


def _near(arms: list[dict[str, Any]], widest: float) -> list[list[dict[str, Any]]]:
    """Gather arms whose labels would meet if each size had its own column of labels."""
    columns: list[list[dict[str, Any]]] = []
    for arm in sorted(arms, key=lambda arm: arm["parameters"]):
        if columns and (arm["parameters"] - columns[-1][-1]["parameters"]) / 1e6 < widest:
            columns[-1].append(arm)
        else:
            columns.append([arm])
    return columns


def _mark(axes: Axes, x: int | float, y: int | float, look: Look, *, size: float = 7) -> None:
    fill = "white" if look.is_hollow else look.colour
    axes.plot(x, y, marker=look.marker, markersize=size, color=look.colour, markerfacecolor=fill, zorder=3)


def method_comparison(group: dict[str, Any]) -> FigureFile | None:
    """Plot every arm's score, and the paired difference of the method to it, row by row."""
    arms, method = group["arms"], group["answer"]["method"]
    own = {c["rival"]: c for c in group["comparisons"] if c["method"] == method}
    own |= {c["rival"]: c for c in group["pairs"] if c["method"] == method and c["rival"] not in own}
    own |= {c["method"]: _turned(c) for c in group["pairs"] if c["rival"] == method and c["method"] not in own}
    if len(arms) < 2:
        return None
    caption = "Mean with 95 % interval; small dots are seeds."
    if own:
        caption += (
            f" Beside it: {method} minus the arm, paired by item and seed; filled where it is measurably not zero."
        )
    readings = "; ".join(
        f"{method} minus {rival} {numerals.points(c['difference']['estimate'])} points" for rival, c in own.items()
    )
    height = 1.1 + 0.36 * len(arms)
    return FigureFile(
        "method_comparison",
        "Arms compared",
        caption,
        f"{group['score_name']} of each arm. {readings}.",
        render(lambda figure: _draw_comparison(figure, arms, own, group, narrow=False), height_inches=height),
        render_narrow(
            lambda figure: _draw_comparison(figure, arms, own, group, narrow=True),
            height_inches=height * (2 if own else 1),
        ),
    )


def _turned(comparison: dict[str, Any]) -> dict[str, Any]:
    found = comparison["difference"]
    turned = {"estimate": -found["estimate"], "low": -found["high"], "high": -found["low"]}
    return {**comparison, "difference": turned}


def _draw_comparison(
    figure: Figure, arms: list[dict[str, Any]], own: dict[str, Any], group: dict[str, Any], *, narrow: bool
) -> None:
    looks = arm_looks(arms)
    shape = ((2, 1) if narrow else (1, 2)) if own else (1, 1)
    panels = figure.subplots(*shape, sharey=True, squeeze=False).ravel()
    for row, arm in enumerate(arms):
        look, score = looks[arm["label"]], arm["score"]
        panels[0].plot([100 * score["low"], 100 * score["high"]], [row, row], color=look.colour, linewidth=2)
        _mark(panels[0], 100 * score["estimate"], row, look)
        if len(arm["per_seed"]) > 1:
            seeds = [100 * run["score"] for run in arm["per_seed"]]
            style: dict[str, Any] = {"markersize": 2.6, "color": look.colour, "alpha": 0.75, "markeredgewidth": 0}
            panels[0].plot(seeds, [row + 0.26] * len(seeds), "o", **style)
    panels[0].set_ylim(len(arms) - 0.4, -0.6)
    panels[0].set_xlabel(f"Test {group['score_name']} (%)")
    panels[0].set_title(score_title(group["score_name"]))
    if own:
        _draw_differences(panels[1], arms, own, group["answer"]["method"])
        title = f"{group['answer']['method']} minus arm"
        panels[1].set_title(textwrap.fill(title, NARROW_TITLE) if narrow else title)
    for panel in panels:
        panel.set_yticks(range(len(arms)), [arm["label"] for arm in arms])
        light_grid(panel, axis="x")
        panel.tick_params(axis="y", length=0)
        panel.spines["left"].set_visible(False)


def _draw_differences(axes: Axes, arms: list[dict[str, Any]], own: dict[str, Any], method: str) -> None:
    axes.axvline(0, color=MUTED, linewidth=1)
    beside: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center", "fontsize": 8}
    for row, arm in enumerate(arms):
        if arm["label"] not in own:
            words = "reference" if arm["label"] == method else ""
            axes.text(1.03, row, words, color=MUTED, **beside)
            continue
        difference = own[arm["label"]]["difference"]
        clear = difference["low"] > 0 or difference["high"] < 0
        colour = INK if clear else MUTED
        axes.plot([100 * difference["low"], 100 * difference["high"]], [row, row], color=colour, linewidth=2)
        fill = colour if clear else "white"
        axes.plot(100 * difference["estimate"], row, "o", markersize=6, color=colour, markerfacecolor=fill, zorder=3)
        # Beside the panel, where no line runs through the numbers.
        text = f"{numerals.points(difference['estimate'])} {difference_interval(difference)}"
        axes.text(1.03, row, text.replace("-", "\N{MINUS SIGN}"), color=colour, **beside)
    axes.set_xlabel("Difference (percentage points)")
