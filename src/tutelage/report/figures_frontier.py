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
NAME_OFFSETS = {"topk packed": (-4, -11)}  # below its line: the raw top-k of the same angle runs just to the right
NAME_OFFSET, RINGED_OFFSET = (4, 4), (9, 6)  # points of a font; beside the ring there is less room


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
        f"better. Numbers are the k of a top-k and the draws of a sample; the dashed line is the limit of "
        f"{max_degrees:g} degrees" + (f", the ring is the recommended signal, {recommended}." if recommended else "."),
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
        look: dict[str, Any] = {"marker": MARKERS.get(name) or MARKERS.get(kind, "o"), "markersize": 4.5}
        look |= {"color": colour, "clip_on": False, "zorder": 3, "linestyle": "-" if len(own) > 1 else "none"}
        axes.plot(x, y, label=f"{LABELS.get(kind, kind)}{', ' if layout else ''}{layout}", **look)
        if kind != "final_hidden":
            for point in own:
                offset = RINGED_OFFSET if point["signal"] == recommended else NAME_OFFSETS.get(name, NAME_OFFSET)
                _name_point(axes, point, offset)
    for point in points:
        if point["signal"] == recommended:
            at = (point["bytes_per_position"], degrees(point))
            ring: dict[str, Any] = {"marker": "o", "markersize": 12, "fillstyle": "none", "linestyle": "none"}
            axes.plot(*at, color=RECOMMENDED_COLOUR, label="recommended", clip_on=False, **ring)
    axes.axhline(max_degrees, color=MUTED, linestyle="--", linewidth=1)
    at_right = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points", "ha": "right"}
    axes.annotate(f"limit {max_degrees:g}\u00b0", (1, max_degrees), xytext=(0, 3), fontsize=7, color=MUTED, **at_right)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_ylim(bottom=MIN_DEGREES)
    axes.set_xlabel("Bytes per position")
    axes.set_ylabel("Angle to the dense step (degrees)")
    axes.tick_params(color=RULE)
    light_grid(axes, axis="both")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5)


def _name_point(axes: Axes, point: Mapping[str, Any], offset: tuple[float, float]) -> None:
    """Write k or n beside a point."""
    at = (point["bytes_per_position"], degrees(point))
    side = "right" if offset[0] < 0 else "left"
    style: dict[str, Any] = {"textcoords": "offset points", "fontsize": 7, "color": INK, "ha": side}
    axes.annotate(point["signal"].split()[1], at, xytext=offset, **style)
