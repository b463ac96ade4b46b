"""Draw what a stored signal costs against how far it turns the student's step.

In: the points of a frontier as records. Out: a :class:`FigureFile`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from tutelage.report.figure_style import INK, METHOD_COLOURS, MUTED, RULE, FigureFile, light_grid, render

MIN_DEGREES = 0.0  # the axis begins at the dense gradient itself
LABELS = {"final_hidden": "final hidden state", "topk": "top-k", "sampled": "sampled"}
MARKERS = {"final_hidden": "s", "topk": "o", "topk packed": "D", "sampled": "^"}
RECOMMENDED_COLOUR = "#d55e00"


def draw_frontier(
    points: Sequence[Mapping[str, Any]], *, recommended: str | None, max_degrees: float, facts: Mapping[str, Any]
) -> FigureFile:
    """Plot bytes per position (logarithmic) against the angle to the dense step, one line per family of signals."""
    named = "; ".join(f"{p['signal']}: {p['bytes_per_position']:.0f} bytes, {degrees(p):.1f} degrees" for p in points)
    return FigureFile(
        "frontier",
        "What a signal costs and what it keeps",
        f"Angle between the student's step from the stored signal and from the full distribution, over "
        f"{facts['positions']:,} positions of {facts['rows']:,} rows at T = {facts['temperature']:g}. Lower left is "
        f"better; the dashed line is the limit of {max_degrees:g} degrees"
        + (f", the ring is the recommended signal, {recommended}." if recommended else "."),
        f"Bytes per position against angle to the dense gradient. {named}.",
        render(lambda figure: _draw(figure, points, recommended, max_degrees), height_inches=3.8),
    )


def degrees(point: Mapping[str, Any]) -> float:
    """Return the angle of a point's step."""
    return float(point["step"]["degrees"])


def families(points: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Group the points by kind and layout, each sorted by size: ``topk 64 packed`` belongs to ``topk packed``."""
    grouped: dict[str, list[Mapping[str, Any]]] = {}
    for point in points:
        layout = point["signal"].split()[2:]
        grouped.setdefault(" ".join([point["kind"], *layout]), []).append(point)
    return {name: sorted(own, key=lambda p: p["bytes_per_position"]) for name, own in grouped.items()}


def _draw(figure: Figure, points: Sequence[Mapping[str, Any]], recommended: str | None, max_degrees: float) -> None:
    axes = figure.subplots()
    for (name, own), colour in zip(families(points).items(), METHOD_COLOURS * 4, strict=False):
        kind, _, layout = name.partition(" ")
        x, y = [p["bytes_per_position"] for p in own], [degrees(p) for p in own]
        marker = MARKERS.get(name) or MARKERS.get(kind, "o")
        label = f"{LABELS.get(kind, kind)}{', ' if layout else ''}{layout}"
        axes.plot(x, y, marker=marker, markersize=4.5, color=colour, label=label, clip_on=False)
        if kind != "final_hidden":
            for point in own:
                _name_point(axes, point)
    for point in points:
        if point["signal"] == recommended:
            at = (point["bytes_per_position"], degrees(point))
            look = {"fillstyle": "none", "color": RECOMMENDED_COLOUR, "label": "recommended", "clip_on": False}
            axes.plot(*at, "o", markersize=12, **look)
    axes.axhline(max_degrees, color=MUTED, linestyle="--", linewidth=1)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_ylim(bottom=MIN_DEGREES)
    axes.set_xlabel("Bytes per position")
    axes.set_ylabel("Angle to the dense step (degrees)")
    axes.tick_params(color=RULE)
    light_grid(axes, axis="both")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5)


def _name_point(axes: Axes, point: Mapping[str, Any]) -> None:
    """Write k or n beside a point."""
    at = (point["bytes_per_position"], degrees(point))
    axes.annotate(point["signal"].split()[1], at, xytext=(4, 4), textcoords="offset points", fontsize=7, color=INK)
