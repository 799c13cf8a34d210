"""The command `fedcl compare`: runs to tables, tests and a report."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

from rich.markup import escape
from rich.table import Column as Shown
from rich.table import Table

from fedcl import model_table
from fedcl.errors import ConfigError
from fedcl.files import write_atomically
from fedcl.progress import console
from fedcl.runs import (
    Collection,
    Group,
    chosen,
    collect,
    differences,
    example,
    group,
    is_folder,
)
from fedcl.statistics import Line, gap, table
from fedcl.tables import Column, as_csv, number, piped


def _mean(figure: str) -> Callable[[Line], str]:
    return lambda line: number(line.mean[figure])


def _std(figure: str) -> Callable[[Line], str]:
    return lambda line: number(line.std[figure])


_HELP = {
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
COLUMNS = [
    Column("strategy", "strategy", lambda line: line.name, "the method", short=True),
    Column("runs", "runs", lambda line: str(line.runs), "completed runs", short=True),
    Column("seeds", "seeds", lambda line: str(line.seeds), "different seeds among them"),
    Column("orders", "orders", lambda line: str(line.orders), "orders of arrival among them"),
]
for _figure, (_title, _help) in _HELP.items():
    _short = _figure in ("avg", "bwt", "worst_site")
    _spread = "sample standard deviation over runs (seeds and orders)"
    COLUMNS += [
        Column(_figure, _title, _mean(_figure), _help, _short),
        Column(f"{_figure}_std", f"± {_title}", _std(_figure), _spread, _figure == "avg"),
    ]
COLUMNS += [
    Column(
        "avg_spread", "AVG by order", lambda line: number(line.spread["avg"]),
        "range over orders of arrival of the mean over the seeds run in all of them",
    ),
    Column("bwt_spread", "BWT by order", lambda line: number(line.spread["bwt"]), "likewise"),
    Column(
        "avg_low", "AVG from", lambda line: number(line.interval[0] if line.interval else None),
        "95 % interval of AVG over seeds (Student's t)",
    ),
    Column(
        "avg_high", "AVG to", lambda line: number(line.interval[1] if line.interval else None),
        "its upper end",
    ),
    Column(
        "closed", "closed", lambda line: number(line.closed),
        "share of the distance in AVG from finetune to joint; none where that distance may be 0",
        short=True,
    ),
    *(
        Column(
            name, title,
            lambda line, i=i: number(line.difference[i] if line.difference else None),  # type: ignore[misc]
            text, short=True,
        )
        for i, (name, title, text) in enumerate(
            (
                ("difference", "difference", "AVG less the reference's, over shared runs"),
                ("difference_low", "95 % from", "95 % interval of the difference, over seeds"),
                ("difference_high", "95 % to", "its upper end"),
            )
        )
    ),
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
"""The figures of table.md and table.tex, as mean ± standard deviation."""


def compare(
    sources: Sequence[str],
    out: Path,
    uri: str,
    reference: str | None = None,
    where: Sequence[str] = (),
    strict: bool = False,
    mix: bool = False,
) -> None:
    """Compare runs and write table.csv, table.md, table.tex and report.html.

    Where runs have several architectures, also models.csv and models.md (`fedcl.model_table`).

    Args:
        sources: folders, or names of MLflow experiments.
        out: the folder to write into.
        uri: where MLflow keeps experiments.
        reference: the method that others are tested against; None for TED where it was run,
            else the best.
        where: settings that runs must have, each "key=value".
        strict: refuse runs that are not completed instead of leaving them out.
        mix: compare runs of different scenarios, budgets, models or data all the same.

    Raises:
        ConfigError: nothing to compare, or what must not be mixed; nothing is written.
    """
    from fedcl.report import report

    found = collect(sources, uri)
    found = Collection(chosen(found.runs, where), found.left_out)
    groups, notes = _checked(found, strict, mix)
    against = _reference(groups, reference)
    if against != (reference or "ted"):
        notes.append(f"there is no 'ted' among the runs: tests are against the best, {against}")
    with console.status("testing"):
        lines = table(groups, against)
        models, alone = model_table.table(groups, against)
    if models:
        notes.append(f"models are tested against {alone}")
    lacking = [name for name in ("finetune", "joint") if name not in {g.name for g in groups}]
    if lacking:
        notes.append(f"no {' and no '.join(lacking)}: RAVG or closed cannot be given")
    distance = gap(groups)
    if distance is not None and distance[1] <= 0:
        told = "{:+.3f} [{:+.3f}, {:+.3f}]".format(*distance)
        notes.append(f"closed cannot be given: joint - finetune is {told}, which may be 0 or less")
    elif distance is None and not lacking:
        notes.append("closed cannot be given: finetune and joint share fewer than two seeds")
    notes += [f"{line.name}: {line.words}" for line in lines if line.words]
    if groups[0].runs[0].results.get("case") == "frame":
        notes.append("cases are frames, not patients: p says nothing about other volumes")
    seeds = {seed for one in groups for seed, _ in one.blocks}
    if len(seeds) < 2:
        notes.append(f"one seed only ({next(iter(seeds))}): no intervals and no p-values")
    with console.status("drawing"):
        page = report(lines, groups, against, notes, models, alone)
    files = {
        "table.csv": as_csv(COLUMNS, lines),
        "table.md": markdown(lines, against),
        "table.tex": latex(lines, against),
        "report.html": page,
    }
    if models:
        files["models.csv"] = as_csv(model_table.COLUMNS, models)
        files["models.md"] = model_table.markdown(models)
    try:
        for name, content in files.items():
            write_atomically(out / name, content.encode())
    except OSError as error:
        raise ConfigError(f"compare --out: {out} cannot be written to ({error})") from None
    _print(lines, against, notes)
    if models:
        _print_models(models)
    console.print(f"written to {out}: {', '.join(files)}", soft_wrap=True, markup=False)
    for source in sources:
        if not is_folder(source):
            from fedcl.tracking import log_comparison

            log_comparison(uri, source, out, lines, files)


def _checked(found: Collection, strict: bool, mix: bool) -> tuple[list[Group], list[str]]:
    """Return the groups and what a reader should know of what was left out or mixed."""
    if found.left_out and strict:
        raise ConfigError("compare --strict: not complete: " + "; ".join(found.left_out))
    if not found.runs:
        reasons = f" ({'; '.join(found.left_out)})" if found.left_out else ""
        raise ConfigError(f"compare: no completed runs found{reasons}")
    apart = differences(found.runs)
    if apart and not mix:
        more = f"; and {len(apart) - 3} more" if len(apart) > 3 else ""
        raise ConfigError(
            f"compare: these runs should not be compared, they differ in {'; '.join(apart[:3])}"
            f"{more}; take some of them ({example(found.runs)}), or --mix them all the same"
        )
    groups, notes = group(found.runs)
    notes += [f"left out: {reason}" for reason in found.left_out]
    notes += [f"mixed: {reason}" for reason in apart]
    counts = {name: set(g.blocks) for g in groups for name in [g.name]}
    if len({frozenset(blocks) for blocks in counts.values()}) > 1:
        notes.append(
            "not every method was run with every seed and order; tests and `closed` use those "
            "in common, the means all"
        )
    return groups, notes


def _reference(groups: Sequence[Group], asked: str | None) -> str:
    """Return the method to test against: the one asked for, TED, or else the best."""
    names = [group.name for group in groups]
    if asked is not None and asked not in names:
        raise ConfigError(
            f"compare --reference: there is no {asked!r}; there are {', '.join(names)}"
        )
    if asked is None and "ted" not in names:
        return max(
            groups, key=lambda group: fmean(r.results["metrics"]["avg"] for r in group.runs)
        ).name
    return asked or "ted"


def markdown(lines: Sequence[Line], reference: str) -> str:
    """Return the table for a README."""
    return piped(*_paper(lines, reference, "-"))


def latex(lines: Sequence[Line], reference: str) -> str:
    """Return the table for a paper; it needs the package booktabs."""
    header, rows = _paper(lines, reference, "--")
    if header[-1] == "in words":  # too long for a column
        header, rows = header[:-1], [row[:-1] for row in rows]
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
            "% interval: Student's t over seeds",
            f"% p: Wilcoxon signed-rank over test patients against {_escape(reference)}, Holm",
            *(f"% {_escape(line.name)}: {line.words}" for line in lines if line.words),
            "",
        ]
    )


def _escape(text: str) -> str:
    return re.sub(r"[&%#_${}~^\\±]", lambda mark: _LATEX.get(mark[0], rf"\{mark[0]}"), text)


_LATEX = {
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
    "±": r"$\pm$",
}


def _paper(lines: Sequence[Line], reference: str, dash: str) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the short table, as mean ± standard deviation."""
    titles = [_HELP[name][0] if name in _HELP else "closed" for name in PAPER]
    header = ["strategy", "runs", *titles, f"AVG - {reference} [95 %]", f"p ({reference})"]
    header += ["MB sent", "slices kept", "s"]
    if any(line.words for line in lines):
        header.append("in words")

    def cell(line: Line, name: str) -> str:
        if name == "closed":
            return dash if line.closed is None else f"{line.closed:.0%}"
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
            dash
            if line.difference is None
            else "{:+.3f} [{:+.3f}, {:+.3f}]".format(*line.difference),
            dash if line.p is None else f"{line.p:.1e}" if line.p < 0.001 else f"{line.p:.3f}",
            f"{line.bytes / 1e6:.1f}",
            f"{line.stored:g}",
            f"{line.seconds:.0f}",
            *([line.words] if header[-1] == "in words" else []),
        ]
        for line in lines
    ]
    return header, rows


def _print_models(rows: Sequence[model_table.Row]) -> None:
    names = ("strategy", "model", "avg", "parameters", "milliseconds", "p_holm", "way")
    shown = [column for column in model_table.COLUMNS if column.name in names]
    view = Table(title="every model on the test cases of all sites", title_justify="left")
    for column in shown:
        named = column.name == "strategy"
        view.add_column(escape(column.title), overflow="fold", no_wrap=not named)
    for row in rows:
        view.add_row(*(escape(column.text(row)) for column in shown))
    console.print(view)


def _print(lines: Sequence[Line], reference: str, notes: Sequence[str]) -> None:
    header, rows = _paper(lines, reference, "-")
    shown = {  # in a heading, a long reference would leave no room
        "AVG": "AVG",
        "closed": "closed",
        "difference [95 %]": f"AVG - {reference} [95 %]",
        "p": f"p ({reference})",
    }
    caption = escape(f"difference in AVG from, and p against: {reference}")
    view = Table(Shown("strategy", overflow="fold", min_width=8), caption=caption)
    for title in shown:
        view.add_column(escape(title), no_wrap=True)
    for row in rows:
        cells = dict(zip(header, row, strict=True))
        view.add_row(*(escape(cells[title]) for title in ("strategy", *shown.values())))
    console.print(view)
    for note in notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
