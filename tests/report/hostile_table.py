"""A table whose cells a spreadsheet, LaTeX or a browser would run."""

from tutelage.report.numerals import percent
from tutelage.report.tables import Column, Table, text_column

HOSTILE = '=cmd|"/c calc"!A1 $x_1$ & 100% <b>\n| `x` \\end{table} # ~ ^ {'


def hostile_table():
    columns = (text_column("name", HOSTILE), Column("score", "Score", percent))
    return Table("hostile", "A_title", columns, ({"name": HOSTILE, "score": -0.5},), "50 % & more")
