"""Tables are text to whatever opens them: a spreadsheet, a browser, LaTeX."""

import csv
import io

import pytest

from fedcl.analysis.columns import csv_of, piped
from fedcl.analysis.tables import _escape

FORMULAS = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "-", "=HYPERLINK(1)"]


@pytest.mark.parametrize("cell", FORMULAS)
def test_no_cell_is_a_formula(cell: str):
    rows = list(csv.reader(io.StringIO(csv_of([cell], [[cell]]), newline="")))
    assert rows == [[f"'{cell.strip()}"]] * 2


@pytest.mark.parametrize("cell", ["-0.5", "+3", "1e-3", "-1e5", "", "BMC", "a=b", "nan"])
def test_numbers_and_plain_names_stay_as_they_are(cell: str):
    assert next(csv.reader(io.StringIO(csv_of([cell], [])))) == [cell]


def test_markdown_holds_neither_html_nor_further_cells():
    table = piped(["name"], [["<img src=x onerror=alert(1)> & a|b\n| c |"]])
    assert table.splitlines()[2:] == [r"| &lt;img src=x onerror=alert(1)&gt; &amp; a\|b \| c \| |"]


def test_latex_stays_in_its_line_and_runs_nothing():
    assert _escape("a\\input{x}\n%$&#_~^") == (
        r"a\textbackslash{}input\{x\} \%\$\&\#\_\textasciitilde{}\textasciicircum{}"
    )
