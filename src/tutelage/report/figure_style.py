"""The look of all figures, and how they are written: same numbers, same bytes.

In: a function that draws on a matplotlib figure. Out: SVG, PDF and PNG, and the words that go with them.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

WIDTH_INCHES = 7.2  # the text width of the page and of a two-column paper
PNG_DPI = 300
INK, MUTED, RULE = "#1f2328", "#656d76", "#d8dee4"
# Okabe and Ito 2008, Color Universal Design: told apart under every common colour blindness.
METHOD_COLOURS = ("#0072b2", "#009e73", "#56b4e9", "#b8a200")
ROLE_COLOURS = {
    "teacher": INK,
    "untouched": "#8c959f",
    "baseline": "#d55e00",
    "pseudo": "#cc79a7",
    "control": "#8c959f",
}
HOLLOW_ROLES = ("untouched", "control")
# Shape says the same as colour, for print without colour.
ROLE_MARKERS = {"teacher": "s", "untouched": "o", "baseline": "^", "pseudo": "D", "method": "o", "control": "X"}
STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.formatter.use_mathtext": False,
    "axes.grid": False,
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlepad": 10,
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",  # comes with matplotlib, so every machine draws the same
    "font.size": 9,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.8,
    "pdf.fonttype": 42,
    "savefig.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "tutelage",  # ids in an SVG are random without it
    "text.color": INK,
    "text.parse_math": False,  # a dollar sign in a method's name is a dollar sign
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 8.5,
}
# Dates and program versions would change the bytes without changing the figure.
METADATA: dict[str, dict[str, None]] = {
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
}


@dataclass(frozen=True)
class FigureFile:
    """A drawn figure with its words."""

    name: str
    title: str
    caption: str
    alternative: str  # for those who do not see it
    formats: dict[str, bytes]


@contextmanager
def house_style() -> Iterator[None]:
    """Draw in the house style, whatever the user's own matplotlib settings are."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        for name, value in STYLE.items():
            matplotlib.rcParams[name] = value  # type: ignore[index]
        yield


def render(draw: Callable[[Figure], None], *, height_inches: float) -> dict[str, bytes]:
    """Draw once and return the figure's bytes as ``svg``, ``pdf`` and ``png``."""
    with house_style():
        figure = Figure(figsize=(WIDTH_INCHES, height_inches), layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # laid out once; each format would do it again
        written = {}
        for suffix, metadata in METADATA.items():
            stream = io.BytesIO()
            figure.savefig(stream, format=suffix, dpi=PNG_DPI, metadata=metadata)
            written[suffix] = stream.getvalue()
    return written


def arm_colours(arms: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Give every arm its colour: by role, methods in the order of the palette."""
    methods = [arm["label"] for arm in arms if arm["role"] == "method"]
    return {
        arm["label"]: ROLE_COLOURS.get(arm["role"]) or METHOD_COLOURS[methods.index(arm["label"]) % len(METHOD_COLOURS)]
        for arm in arms
    }


def line_style(role: str) -> str:
    """Return dashes for the control, a full line for everything else."""
    return "--" if role == "control" else "-"


def light_grid(axes: Axes, *, axis: str) -> None:
    """Draw faint lines across one axis."""
    axes.grid(visible=True, axis=axis)  # pyright: ignore[reportArgumentType]


def spread(positions: Sequence[float], *, gap: float) -> list[float]:
    """Move positions apart until neighbours are at least ``gap`` away, keeping their order and centre."""
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    moved = [positions[i] for i in order]
    for _ in range(200):  # enough for the handful of labels of a figure; each pass halves the overlaps
        overlaps = [(i, gap - (moved[i + 1] - moved[i])) for i in range(len(moved) - 1)]
        overlaps = [(i, overlap) for i, overlap in overlaps if overlap > 1e-9]
        if not overlaps:
            break
        for i, overlap in overlaps:
            moved[i] -= overlap / 2
            moved[i + 1] += overlap / 2
    result = [0.0] * len(positions)
    for index, value in zip(order, moved, strict=True):
        result[index] = value
    return result
