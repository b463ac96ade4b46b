"""Draw how the arms came about: training curves, and the search as heat maps.

In: one group of the summary. Out: :class:`FigureFile` records.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from tutelage.report import numerals
from tutelage.report.figure_style import (
    NARROW_INCHES,
    WIDTH_INCHES,
    FigureFile,
    arm_looks,
    legend_columns,
    light_grid,
    render,
    render_narrow,
)
from tutelage.report.tables import score_title

MAX_GRIDS = 4
LEGEND_LINE_INCHES = 0.22
CELL_INK = "#20242a"  # not the page's ink: a light cell stays light on a dark page
PANELS = (("loss", "Training loss", 1.0), ("validation", "Validation", 100.0))  # key, title, scale
MAX_MARKED_POINTS = 12  # more markers than this hide the line
HEAT = LinearSegmentedColormap.from_list("tutelage", ["#f4f8fb", "#7fb4d6", "#0b4f7d"])


def training_curves(group: dict[str, Any]) -> FigureFile | None:
    """Plot the loss per target and the validation metric by step."""
    curves = group["curves"]
    if not curves:
        return None
    panels = [panel for panel in PANELS if any(curve[panel[0]] is not None for curve in curves.values())]
    height = 2.6 + LEGEND_LINE_INCHES * -(-len(curves) // legend_columns(list(curves), WIDTH_INCHES))
    lines = -(-len(curves) // legend_columns(list(curves), NARROW_INCHES))
    narrow_height = 2.4 * len(panels) + LEGEND_LINE_INCHES * lines
    return FigureFile(
        "training_curves",
        "Training curves",
        "Lines: mean over seeds. Bands: smallest to largest seed. Each method minimises its own objective, so the "
        "losses are not comparable between methods"
        + ("; the validation metric is." if len(panels) > 1 else ". Validation was taken once, at the end."),
        f"Loss per target and validation {group['validation_name']} by step for {', '.join(curves)}.",
        render(lambda figure: _draw_curves(figure, curves, group, panels, narrow=False), height_inches=height),
        render_narrow(
            lambda figure: _draw_curves(figure, curves, group, panels, narrow=True), height_inches=narrow_height
        ),
    )


def _draw_curves(
    figure: Figure,
    curves: dict[str, Any],
    group: dict[str, Any],
    panels: Sequence[tuple[str, str, float]],
    *,
    narrow: bool,
) -> None:
    looks = arm_looks(group["arms"])
    axes_of_panels = figure.subplots(*((len(panels), 1) if narrow else (1, len(panels))), squeeze=False).ravel()
    for axes, (key, title, scale) in zip(axes_of_panels, panels, strict=True):
        for name, curve in curves.items():
            if curve[key] is not None:
                look = {"color": looks[name].colour, "linestyle": looks[name].dashes, "label": name}
                _draw_band(axes, curve[key], look, scale, marked=key == "validation")
        axes.set_title(title)
        axes.set_xlabel("Step")
        axes.set_ylabel("Loss per target (nats)" if key == "loss" else f"{score_title(group['validation_name'])} (%)")
        light_grid(axes, axis="y")
        if key == "loss":
            axes.set_ylim(bottom=0)
    handles, labels = axes_of_panels[0].get_legend_handles_labels()
    columns = legend_columns(labels, NARROW_INCHES if narrow else WIDTH_INCHES)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def _draw_band(axes: Axes, curve: dict[str, list[float]], look: dict[str, Any], scale: float, *, marked: bool) -> None:
    step = np.asarray(curve["step"])
    low, mean, high = (scale * np.asarray(curve[key]) for key in ("low", "mean", "high"))
    axes.fill_between(step, low, high, color=look["color"], alpha=0.15, linewidth=0)
    marker = "o" if marked and len(step) <= MAX_MARKED_POINTS else None
    axes.plot(step, mean, marker=marker, markersize=3.5, **look)


def trial_grids(group: dict[str, Any]) -> FigureFile | None:
    """Draw the validation metric of every trial as heat maps, one scale for all methods."""
    grids = group["heat_maps"][:MAX_GRIDS]
    if not grids:
        return None
    height = 1.3 + 0.42 * max(len(grid["rows"]) for grid in grids) + 0.2 * (len(grids) > 1)
    named = "; ".join(
        f"{grid['method']}: {_axis(grid['row_setting'])} x {_axis(grid['column_setting'])}" for grid in grids
    )
    return FigureFile(
        "trials",
        "The search",
        f"Validation {group['validation_name']} in % of every trial; the outlined cell was chosen. Darker is better, "
        "on one scale for all methods.",
        f"Heat maps of the trials. {named}.",
        render(lambda figure: _draw_grids(figure, grids, narrow=False), height_inches=height),
        render_narrow(lambda figure: _draw_grids(figure, grids, narrow=True), height_inches=height * len(grids)),
    )


def _axis(key: str) -> str:
    return numerals.short_key(key).replace("_", " ")


def _draw_grids(figure: Figure, grids: list[dict[str, Any]], *, narrow: bool) -> None:
    values = [value for grid in grids for row in grid["cells"] for value in row if value is not None]
    low, high = min(values), max(values)
    scale = {"vmin": low, "vmax": max(high, low + 1e-3)}  # all equal: any scale, but not an empty one
    middle = (low + high) / 2
    widths = [len(grid["columns"]) for grid in grids]
    if narrow:
        panels = figure.subplots(len(grids), 1, squeeze=False).ravel()
    else:
        panels = figure.subplots(1, len(grids), squeeze=False, width_ratios=widths)[0]
    for axes, grid in zip(panels, grids, strict=True):
        cells = np.asarray([[np.nan if value is None else value for value in row] for row in grid["cells"]])
        axes.pcolormesh(cells, cmap=HEAT, edgecolors="white", linewidth=2, **scale)
        for i, row in enumerate(grid["cells"]):
            for j, value in enumerate(row):
                colour = "white" if value is not None and value > middle else CELL_INK
                axes.text(j + 0.5, i + 0.5, numerals.percent(value), ha="center", va="center", color=colour, fontsize=9)
        if grid["chosen"] is not None:
            _outline(axes, *grid["chosen"])
        axes.set_yticks(np.arange(len(grid["rows"])) + 0.5, [numerals.setting(value) for value in grid["rows"]])
        axes.set_xticks(np.arange(len(grid["columns"])) + 0.5, [numerals.setting(value) for value in grid["columns"]])
        axes.set_xlabel(_axis(grid["column_setting"]))
        axes.set_ylabel(_axis(grid["row_setting"]))
        axes.set_title(grid["method"])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.invert_yaxis()


def _outline(axes: Axes, row: int, column: int) -> None:
    x, y = [column, column + 1, column + 1, column, column], [row, row, row + 1, row + 1, row]
    axes.plot(x, y, color="#d55e00", linewidth=2.2, clip_on=False, zorder=4, solid_joinstyle="miter")
