"""List the figures of the report.

In: one group of the summary. Out: :class:`FigureFile` records; a figure that has nothing to show is left out.
"""

from typing import Any

from tutelage.report.figure_style import FigureFile
from tutelage.report.figures_scores import method_comparison, quality_vs_size
from tutelage.report.figures_training import training_curves, trial_grids


def group_figures(group: dict[str, Any]) -> list[FigureFile]:
    """Draw all figures of one task and student."""
    figures = [make(group) for make in (quality_vs_size, method_comparison, training_curves, trial_grids)]
    return [figure for figure in figures if figure is not None]
