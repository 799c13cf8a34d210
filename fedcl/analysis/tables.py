"""The table of a comparison: its columns, in CSV, markdown and LaTeX."""

import re
from collections.abc import Callable, Sequence

from fedcl.analysis.columns import Column, number, piped
from fedcl.analysis.statistics import Difference, Line

HELP = {
    "avg": ("AVG", "mean score of the sites seen, after the last stage"),
    "ravg": ("RAVG", "AVG relative to joint training, site by site"),
    "bwt": ("BWT", "change of earlier sites since they last trained; below 0 is forgetting"),
    "rbwt": ("RBWT", "BWT relative to the score when a site last trained, site by site"),
    "forgetting": ("forgetting", "best earlier score less the last one (Chaudhry)"),
    "fwt": ("FWT", "gain of a site over an untrained model just before it arrives"),
    "plasticity": ("plasticity", "score of a site when it last trained"),
    "worst_site": ("worst site", "least score of the last row"),
    "std_site": ("std of sites", "standard deviation between the sites of the last row"),
}
"""Of every figure: its title, and what it says."""
SPREAD = "sample standard deviation over runs (seeds and orders)"


def _figure(name: str) -> list[Column]:
    """Return the columns of a figure: its mean over runs and its standard deviation."""
    title, text = HELP[name]
    short = name in ("avg", "bwt", "worst_site")
    return [
        Column(name, title, lambda line: number(line.mean[name]), text, short),
        Column(
            f"{name}_std", f"± {title}", lambda line: number(line.std[name]), SPREAD, name == "avg"
        ),
    ]


def _interval(index: int) -> Callable[[Line], str]:
    """Return what writes the lower (0) or upper (1) end of AVG's interval."""
    return lambda line: number(line.interval[index] if line.interval else None)


def difference(index: int) -> Callable[[Line], str]:
    """Return what writes a line's difference (0), or the lower (1) or upper (2) end of it."""
    return lambda line: number(line.difference[index] if line.difference else None)


def _bwt_difference(index: int) -> Callable[[Line], str]:
    """Likewise of BWT."""
    return lambda line: number(line.bwt_difference[index] if line.bwt_difference else None)


def _closed(index: int) -> Callable[[Line], str]:
    """Likewise of the share that it closes."""
    return lambda line: number(line.closed[index] if line.closed else None)


def told(found: Difference | None, dash: str) -> str:
    """Return a difference with its interval, or a dash."""
    return dash if found is None else "{:+.3f} [{:+.3f}, {:+.3f}]".format(*found)


def significance(p: float | None, dash: str) -> str:
    """Return p, or a dash; what is below a thousandth is not told apart."""
    return dash if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def portion(found: Difference | None, dash: str) -> str:
    """Return a share with its interval, or a dash."""
    return (
        dash
        if found is None
        else "{:.0%} [{:.0f}, {:.0f}]".format(found[0], *(100 * end for end in found[1:]))
    )


COLUMNS = [
    Column("strategy", "strategy", lambda line: line.name, "the method", short=True),
    Column("runs", "runs", lambda line: str(line.runs), "completed runs", short=True),
    Column("seeds", "seeds", lambda line: str(line.seeds), "different seeds among them"),
    Column("orders", "orders", lambda line: str(line.orders), "orders of arrival among them"),
    *(column for name in HELP for column in _figure(name)),
    Column(
        "avg_spread", "AVG by order", lambda line: number(line.spread["avg"]),
        "range over orders of arrival of the mean over the seeds run in all of them",
    ),
    Column("bwt_spread", "BWT by order", lambda line: number(line.spread["bwt"]), "likewise"),
    Column("avg_low", "AVG from", _interval(0), "95 % interval of AVG over seeds (Student's t)"),
    Column("avg_high", "AVG to", _interval(1), "its upper end"),
    Column(
        "closed", "closed", _closed(0),
        "share of the distance in AVG from finetune to joint; none where that distance may be 0",
        short=True,
    ),
    Column("closed_low", "closed from", _closed(1), "95 % interval of it, over seeds (Fieller)"),
    Column("closed_high", "closed to", _closed(2), "its upper end"),
    Column(
        "difference", "difference", difference(0), "AVG less the reference's, over shared runs",
        short=True,
    ),
    Column(
        "difference_low", "95 % from", difference(1),
        "95 % interval of the difference, over seeds", short=True,
    ),
    Column("difference_high", "95 % to", difference(2), "its upper end", short=True),
    Column(
        "bwt_difference", "difference in BWT", _bwt_difference(0),
        "BWT less the reference's, over shared runs; above 0 is less forgetting",
    ),
    Column("bwt_difference_low", "BWT from", _bwt_difference(1), "95 % interval, over seeds"),
    Column("bwt_difference_high", "BWT to", _bwt_difference(2), "its upper end"),
    Column(
        "p_holm", "p (Holm)", lambda line: number(line.p, ".3g"),
        "Wilcoxon signed-rank test over test cases against the reference, corrected; it takes "
        "the trained models as given", short=True,
    ),
    Column("words", "in words", lambda line: line.words, "where p and the interval seem at odds"),
    Column("bytes", "bytes sent", lambda line: f"{line.bytes:.0f}", "both ways, mean over runs"),
    Column("stored", "slices kept", lambda line: f"{line.stored:g}", "training data kept at sites"),
    Column("seconds", "seconds", lambda line: f"{line.seconds:.1f}", "of training, all sites"),
]  # fmt: skip
PAPER = ("avg", "closed", "ravg", "bwt", "rbwt", "forgetting", "fwt", "plasticity", "worst_site")
"""The figures of table.md, as mean ± standard deviation."""
WIDTH = ("strategy", "runs", "AVG", "RAVG", "BWT", "RBWT", "worst site")
"""The columns of table.tex, with the difference to the reference and p: what a page holds."""


def markdown(lines: Sequence[Line], reference: str) -> str:
    """Return the table for a README."""
    return piped(*paper(lines, reference, "-"))


def latex(lines: Sequence[Line], reference: str) -> str:
    """Return the table for a paper, as wide as a page; it needs the package booktabs."""
    whole, cells = paper(lines, reference, "--")
    header = [*WIDTH, f"AVG - {reference} [95 %]", f"p ({reference})"]
    rows = [[row[whole.index(title)] for title in header] for row in cells]
    remarks = [
        "interval: Student's t over seeds",
        f"p: Wilcoxon signed-rank over test patients against {reference}, Holm",
        *(f"{line.name}: {line.words}" for line in lines if line.words),
    ]
    return tabular(header, rows, remarks)


def tabular(header: Sequence[str], rows: Sequence[Sequence[str]], remarks: Sequence[str]) -> str:
    """Return a table in LaTeX, with remarks as comments after it; it needs booktabs."""
    escaped = [[_escape(cell) for cell in row] for row in (header, *rows)]
    body = [" & ".join(row) + r" \\" for row in escaped]
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
            r"\toprule",
            body[0],
            r"\midrule",
            *body[1:],
            r"\bottomrule",
            r"\end{tabular}",
            *(f"% {_escape(remark)}" for remark in remarks),
            "",
        ]
    )


def _escape(text: str) -> str:
    """Return text of one line, in which nothing is a command."""
    line = " ".join(text.split())
    return re.sub(r"[&%#_${}~^\\±]", lambda mark: _LATEX.get(mark[0], rf"\{mark[0]}"), line)


_LATEX = {
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
    "±": r"$\pm$",
}


def paper(lines: Sequence[Line], reference: str, dash: str) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the short table, as mean ± standard deviation."""
    titles = [HELP[name][0] if name in HELP else "closed" for name in PAPER]
    header = ["strategy", "runs", *titles, f"AVG - {reference} [95 %]", f"p ({reference})"]
    header += [f"BWT - {reference} [95 %]", "MB sent", "slices kept", "s"]
    if any(line.words for line in lines):
        header.append("in words")

    def cell(line: Line, name: str) -> str:
        if name == "closed":
            return portion(line.closed, dash)
        mean, std = line.mean[name], line.std[name]
        if mean is None:
            return dash
        sign = "+" if name in ("bwt", "rbwt", "fwt") else ""
        return f"{mean:{sign}.3f}" + ("" if std is None else f" ± {std:.3f}")

    rows = [
        [
            line.name,
            str(line.runs),
            *(cell(line, name) for name in PAPER),
            told(line.difference, dash),
            significance(line.p, dash),
            told(line.bwt_difference, dash),
            f"{line.bytes / 1e6:.1f}",
            f"{line.stored:g}",
            f"{line.seconds:.0f}",
            *([line.words] if header[-1] == "in words" else []),
        ]
        for line in lines
    ]
    return header, rows
