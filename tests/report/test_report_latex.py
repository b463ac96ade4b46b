"""Tables as LaTeX: nothing in a cell that LaTeX would run, and nothing wider than the line."""

import re
import shutil
import subprocess

import pytest
from hostile_table import hostile_table

from tutelage.report.latex import cell, escape, heading, to_latex
from tutelage.report.numerals import percent
from tutelage.report.tables import Column, Table, group_tables, text_column

DOCUMENT = r"\documentclass{article}\usepackage{booktabs}\usepackage{graphicx}\begin{document}%s\end{document}"


@pytest.fixture(scope="module")
def tables(group):
    return {table.name: table for table in group_tables(group)}


def body_of(latex):
    return latex[latex.index(r"\midrule") : latex.index(r"\bottomrule")]


def test_everything_special_is_escaped():
    first, rest = to_latex(hostile_table(), command="run\n\\input{/etc/passwd}").split("\n", 1)
    assert first == "% run \\input{/etc/passwd}"
    assert rest.count(r"\end{table}") == 1
    assert r"\$x\_1\$ \& 100\% \textless{}b\textgreater{}" in rest
    assert escape(r"\%_{}~^") == r"\textbackslash{}\%\_\{\}\textasciitilde{}\textasciicircum{}"


def test_every_line_has_all_columns(tables):
    for table in tables.values():
        body = body_of(to_latex(table, command="c"))
        cells = {len(re.findall(r"(?<!\\)&", line)) for line in body.splitlines() if "&" in line}
        assert cells == {len(table.columns) - 1}


def test_numbers_have_a_minus_sign_and_text_keeps_its_hyphens():
    number, text = Column("score", "Score", percent), text_column("label", "Arm")
    assert cell("-0.4 [-1.2, 0.5]", number) == "$-$0.4 [$-$1.2, 0.5]"
    assert cell("KD1-permuted-2", text) == "KD1-permuted-2"
    assert cell("-", number) == "--"


def test_a_heading_is_wrapped_to_its_column():
    number = Column("score", "Top-1 agreement %", percent)
    assert heading(number, 5) == r"\begin{tabular}[b]{@{}r@{}}Top-1\\agreement \%\end{tabular}"
    assert heading(number, 30) == r"Top-1 agreement \%"


def test_the_best_is_bold_and_the_judged_method_has_a_dagger(tables):
    latex = to_latex(tables["main"], command="c")
    assert "KD1\\textsuperscript{\\textdagger} &" in latex
    assert re.search(r"KD1.*\\textbf\{[0-9.]+\} \[", latex)
    assert "Dagger: the method that validation prefers" in latex


def test_labels_name_their_task(tables):
    assert r"\label{tab:main-sentiment}" in to_latex(tables["main"], command="c")
    assert len({re.findall(r"label{(.*)}", to_latex(table, command="c"))[0] for table in tables.values()}) == len(
        tables
    )


def test_a_table_without_rows_keeps_its_heading():
    table = Table("none", "None", (text_column("name", "Name"),), (), "")
    assert r"Name \\" in to_latex(table, command="c")


@pytest.mark.engine
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_sets_every_table_within_the_line(tables, tmp_path):
    written = [to_latex(table, command="c") for table in (*tables.values(), hostile_table())]
    (tmp_path / "tables.tex").write_text(DOCUMENT % "\n".join(written))
    run = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "tables.tex"]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout
    assert (tmp_path / "tables.pdf").stat().st_size > 10_000
