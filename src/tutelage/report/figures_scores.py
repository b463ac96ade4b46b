"""Draw how good the arms are: quality against size, and the arms side by side.

In: one group of the summary. Out: :class:`FigureFile` records.
"""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tutelage.report import numerals
from tutelage.report.figure_style import (
    HOLLOW_ROLES,
    INK,
    MUTED,
    ROLE_MARKERS,
    RULE,
    FigureFile,
    arm_colours,
    light_grid,
    render,
    spread,
)


def quality_vs_size(group: dict[str, Any]) -> FigureFile | None:
    """Plot score over parameters, one point per arm with its interval."""
    arms = [arm for arm in group["arms"] if arm["parameters"]]
    if not arms:
        return None
    readings = "; ".join(
        f"{arm['label']} {numerals.percent(arm['score']['estimate'])} % at {numerals.millions(arm['parameters'])}"
        for arm in arms
    )
    return FigureFile(
        "quality_vs_size",
        "Quality against size",
        "Points: mean over seeds. Bars: 95 % bootstrap interval over items. Arms of one size stand side by side.",
        f"{group['score_name']} against parameters: {readings}.",
        render(lambda figure: _draw_quality(figure.subplots(), arms, group), height_inches=3.6),
    )


def _draw_quality(axes: Axes, arms: list[dict[str, Any]], group: dict[str, Any]) -> None:
    colours = arm_colours(group["arms"])
    sizes = [arm["parameters"] / 1e6 for arm in arms]
    left, right = min(sizes), max(sizes)
    span = max(right - left, 0.2 * right)
    axes.set_xlim(left - 0.22 * span, right + 0.3 * span)
    by_size: dict[float, list[dict[str, Any]]] = {}
    for arm, size in zip(arms, sizes, strict=True):
        by_size.setdefault(size, []).append(arm)
    low = min(arm["score"]["low"] for arm in arms)
    high = max(arm["score"]["high"] for arm in arms)
    gap = 100 * (high - low) / 15
    for size, members in by_size.items():
        members.sort(key=lambda arm: arm["score"]["estimate"])
        heights = spread([100 * arm["score"]["estimate"] for arm in members], gap=gap)
        for index, (arm, height) in enumerate(zip(members, heights, strict=True)):
            x = size + 0.028 * span * (index - (len(members) - 1) / 2)
            colour, score = colours[arm["label"]], arm["score"]
            axes.plot([x, x], [100 * score["low"], 100 * score["high"]], color=colour, linewidth=1.6, zorder=2)
            _mark(axes, x, 100 * score["estimate"], arm, colour)
            label_x = size + 0.028 * span * (len(members) / 2 + 0.6)
            text = f"{arm['label']}  {numerals.percent(arm['score']['estimate'])}"
            axes.plot(
                [x, label_x - 0.004 * span],
                [100 * arm["score"]["estimate"], height],
                color=RULE,
                linewidth=0.8,
                zorder=1,
            )
            weight = "bold" if arm["role"] == "method" else "normal"
            axes.text(label_x, height, text, va="center", fontsize=9, fontweight=weight)
    axes.set_xlabel("Parameters (millions)")
    axes.set_ylabel(f"Test {group['score_name']} (%)")
    light_grid(axes, axis="y")


def _mark(axes: Axes, x: int | float, y: int | float, arm: dict[str, Any], colour: str) -> None:
    fill = "white" if arm["role"] in HOLLOW_ROLES else colour
    axes.plot(x, y, marker=ROLE_MARKERS[arm["role"]], markersize=7, color=colour, markerfacecolor=fill, zorder=3)


def method_comparison(group: dict[str, Any]) -> FigureFile | None:
    """Plot every arm's score, and the paired difference of the method to it, row by row."""
    arms, method = group["arms"], group["answer"]["method"]
    own = {c["rival"]: c for c in group["comparisons"] if c["method"] == method}
    if len(arms) < 2:
        return None
    caption = "Left: mean with 95 % interval; small dots are seeds."
    if own:
        caption += f" Right: {method} minus the arm, paired by item and seed; clear of zero means a real difference."
    readings = "; ".join(
        f"{method} minus {rival} {numerals.points(c['difference']['estimate'])} points" for rival, c in own.items()
    )
    return FigureFile(
        "method_comparison",
        "Arms compared",
        caption,
        f"{group['score_name']} of each arm. {readings}.",
        render(lambda figure: _draw_comparison(figure, arms, own, group), height_inches=1.1 + 0.42 * len(arms)),
    )


def _draw_comparison(figure: Figure, arms: list[dict[str, Any]], own: dict[str, Any], group: dict[str, Any]) -> None:
    colours = arm_colours(arms)
    panels = figure.subplots(1, 2 if own else 1, sharey=True, squeeze=False)[0]
    rows = range(len(arms))
    for row, arm in zip(rows, arms, strict=True):
        colour, score = colours[arm["label"]], arm["score"]
        panels[0].plot([100 * score["low"], 100 * score["high"]], [row, row], color=colour, linewidth=2)
        _mark(panels[0], 100 * score["estimate"], row, arm, colour)
        if len(arm["per_seed"]) > 1:
            seeds = [100 * run["score"] for run in arm["per_seed"]]
            panels[0].plot(
                seeds, [row + 0.26] * len(seeds), "o", markersize=2.6, color=colour, alpha=0.75, markeredgewidth=0
            )
    panels[0].set_yticks(list(rows), [arm["label"] for arm in arms])
    panels[0].set_ylim(len(arms) - 0.4, -0.6)
    panels[0].set_xlabel(f"Test {group['score_name']} (%)")
    panels[0].set_title(f"{group['score_name'].capitalize()}")
    if own:
        _draw_differences(panels[1], arms, own, group["answer"]["method"])
    for panel in panels:
        light_grid(panel, axis="x")
        panel.tick_params(axis="y", length=0)
        panel.spines["left"].set_visible(False)


def _draw_differences(axes: Axes, arms: list[dict[str, Any]], own: dict[str, Any], method: str) -> None:
    axes.axvline(0, color=MUTED, linewidth=1)
    for row, arm in enumerate(arms):
        if arm["label"] == method:
            axes.text(0, row, " reference", va="center", ha="left", fontsize=8.5, color=MUTED)
        if arm["label"] not in own:
            continue
        difference = own[arm["label"]]["difference"]
        clear = difference["low"] > 0 or difference["high"] < 0
        colour = INK if clear else MUTED
        axes.plot([100 * difference["low"], 100 * difference["high"]], [row, row], color=colour, linewidth=2)
        fill = colour if clear else "white"
        axes.plot(100 * difference["estimate"], row, "o", markersize=6, color=colour, markerfacecolor=fill, zorder=3)
        text = numerals.points(difference["estimate"]).replace("-", "\N{MINUS SIGN}")
        axes.text(100 * difference["estimate"], row - 0.24, text, ha="center", va="bottom", fontsize=8.5)
    axes.set_xlabel("Difference (percentage points)")
    axes.set_title(f"{method} minus arm")
