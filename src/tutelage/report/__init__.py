"""From finished runs to an answer: statistics, tables, figures and one HTML page."""

from tutelage.report.build import build_report
from tutelage.report.compare import build_comparison
from tutelage.report.terminal import terminal_table

__all__ = ["build_comparison", "build_report", "terminal_table"]
