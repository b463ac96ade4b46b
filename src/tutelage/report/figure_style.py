"""The look of all figures, and how they are written: same numbers, same bytes.

In: a function that draws on a matplotlib figure. Out: SVG, PDF and PNG, and the words that go with them.
"""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

WIDTH_INCHES = 7.2  # the text width of the page and of a two-column paper
NARROW_INCHES = 3.6  # of a phone
PNG_DPI = 300
INK, MUTED, RULE = "#1f2328", "#656d76", "#d8dee4"
# Okabe and Ito 2008, Color Universal Design: told apart under every common colour blindness.
METHOD_COLOURS = ("#0072b2", "#009e73", "#56b4e9", "#b8a200", "#8250c4", "#8a5a3c")
ROLE_COLOURS = {
    "teacher": INK,
    "untouched": "#8c959f",
    "baseline": "#d55e00",
    "pseudo": "#cc79a7",
}
# The page has these colours in a light and a dark form, by these names.
COLOUR_NAMES = {
    **dict(zip(METHOD_COLOURS, ("blue", "green", "sky", "olive", "violet", "brown"), strict=True)),
    **{INK: "ink", MUTED: "muted", RULE: "rule", "#8c959f": "grey", "#d55e00": "red", "#cc79a7": "pink"},
}
DASHES = ("-", (0, (6, 1.5)), (0, (6, 1.5, 1, 1.5)))  # of further methods in the colours of the first ones
CONTROL_DASHES = (0, (2, 1.5))
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
    narrow: bytes = b""  # SVG for a narrow screen, where the figure has one


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
    return _render(draw, (WIDTH_INCHES, height_inches), METADATA)


def render_narrow(draw: Callable[[Figure], None], *, height_inches: float) -> bytes:
    """Draw for a narrow screen and return the SVG."""
    return _render(draw, (NARROW_INCHES, height_inches), {"svg": METADATA["svg"]})["svg"]


def _render(
    draw: Callable[[Figure], None], size: tuple[float, float], formats: Mapping[str, dict[str, None]]
) -> dict[str, bytes]:
    with house_style():
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # laid out once; each format would do it again
        written = {}
        for suffix, metadata in formats.items():
            stream = io.BytesIO()
            figure.savefig(stream, format=suffix, dpi=PNG_DPI, metadata=metadata)
            written[suffix] = stream.getvalue()
    return written


@dataclass(frozen=True)
class Look:
    """How an arm is drawn in every figure."""

    colour: str
    dashes: Any  # as matplotlib takes them
    marker: str
    is_hollow: bool


def arm_looks(arms: Sequence[Mapping[str, Any]]) -> dict[str, Look]:
    """Give every arm a look of its own: colour by role, methods by the palette, a control as its method but dashed."""
    methods = [arm["label"] for arm in arms if arm["role"] == "method"]
    looks = {}
    for arm in arms:
        label, role = arm["label"], arm["role"]
        colour, dashes = ROLE_COLOURS.get(role), DASHES[0]
        if colour is None:
            named = [name for name in methods if label == name or label.startswith(name)]
            place = methods.index(max(named, key=len)) if named else len(methods)
            colour = METHOD_COLOURS[place % len(METHOD_COLOURS)]
            dashes = CONTROL_DASHES if role == "control" else DASHES[place // len(METHOD_COLOURS) % len(DASHES)]
        looks[label] = Look(colour, dashes, ROLE_MARKERS[role], role in HOLLOW_ROLES)
    return looks


def legend_columns(labels: Sequence[str], width_inches: float) -> int:
    """Return how many labels stand side by side in a legend of this width."""
    widest = max(map(len, labels)) * 0.075 + 0.55  # inches: letters of 8.5 points, line and gap
    return max(1, min(len(labels), int(width_inches / widest)))


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
