"""The command `fedcl compare`: runs to tables, tests and a report."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Column as Shown
from rich.table import Table

from fedcl.analysis import architectures, classes
from fedcl.analysis.columns import Column, as_csv
from fedcl.analysis.runs import Group, chosen, differences, example, group
from fedcl.analysis.sources import Collection, collect, is_folder
from fedcl.analysis.statistics import FIGURES, Line, by_seed, gap, table
from fedcl.analysis.tables import COLUMNS, latex, markdown, paper
from fedcl.errors import ConfigError, some_of
from fedcl.files import write_atomically
from fedcl.reporting.console import console
from fedcl.server.metrics import title_of

WIDE = 120
"""Columns of a terminal from which on more of the table is printed."""


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

    Where runs have several architectures, also models.csv and models.md; see
    `fedcl.analysis.architectures`. Where there are several classes, also classes.csv.

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
    from fedcl.analysis.report import report

    found = collect(sources, uri)
    found = Collection(chosen(found.runs, where), found.left_out)
    groups, notes = _checked(found, strict, mix)
    against = _reference(groups, reference)
    if against != (reference or "ted"):
        notes.append(f"there is no 'ted' among the runs: tests are against the best, {against}")
    with console.status("testing"):
        lines = table(groups, against)
        models, alone = architectures.table(groups, against)
    ranking = {one.name: one for one in groups}
    single = classes.table([ranking[line.name] for line in lines])
    if models:
        notes.append(f"models are tested against {alone}")
    notes += [*_not_given(groups, lines)]
    notes += [f"{line.name}: {line.words}" for line in lines if line.words]
    if groups[0].runs[0].results.case == "frame":
        notes.append("cases are frames, not patients: p says nothing about other volumes")
    seeds = {seed for one in groups for seed, _ in one.blocks}
    if len(seeds) < 2:
        notes.append(f"one seed only ({next(iter(seeds))}): no intervals and no p-values")
    with console.status("drawing"):
        page = report(lines, groups, against, notes, models, alone, single)
    files = {
        "table.csv": as_csv(COLUMNS, lines),
        "table.md": markdown(lines, against),
        "table.tex": latex(lines, against),
        "report.html": page,
    }
    if models:
        files["models.csv"] = as_csv(architectures.COLUMNS, models)
        files["models.md"] = architectures.markdown(models)
    if single:
        files["classes.csv"] = as_csv(classes.COLUMNS, single)
    try:
        for name, content in files.items():
            write_atomically(out / name, content.encode())
    except OSError as error:
        raise ConfigError(f"compare --out: {out} cannot be written to ({error})") from None
    _print(lines, against, notes)
    if models:
        names = "strategy", "model", "avg", "parameters", "milliseconds", "p_holm", "way"
        title = "every model on the test cases of all sites"
        _print_rows(title, architectures.COLUMNS, names, models)
    if single:
        title = f"{title_of(groups[0].runs[0].results.score)} of each class"
        own = "class", "strategy", "avg", "avg_std", "bwt", "bwt_std"
        _print_rows(title, classes.COLUMNS, own, single)
    console.print(f"written to {out}: {', '.join(files)}", soft_wrap=True, markup=False)
    for source in sources:
        if not is_folder(source):
            from fedcl.analysis.tracking import log_comparison

            log_comparison(uri, source, out, lines, files)


def _not_given(groups: Sequence[Group], lines: Sequence[Line]) -> Iterator[str]:
    """Yield which figures of the table cannot be given, and why."""
    lacking = [name for name in ("finetune", "joint") if name not in {g.name for g in groups}]
    for name in lacking:
        lost = "RAVG and closed" if name == "joint" else "closed"
        yield f"no {name}: {lost} cannot be given"
    without = [line.name for line in lines if line.mean["ravg"] is None]
    if without and "joint" not in lacking:
        yield (
            f"RAVG of {some_of(without)} cannot be given: not every run has a joint one on its "
            "data with all its scores"
        )
    for one in groups:
        for figure in FIGURES:
            known = sum(run.results.metrics.get(figure) is not None for run in one.runs)
            if 0 < known < len(one.runs):
                yield f"{one.name}: no {figure}, which {known} of {len(one.runs)} runs have"
    distance = gap(groups)
    if distance is not None and distance[1] <= 0:
        told = "{:+.3f} [{:+.3f}, {:+.3f}]".format(*distance)
        yield f"closed cannot be given: joint - finetune is {told}, which may be 0 or less"
    elif distance is None and not lacking:
        yield "closed cannot be given: finetune and joint share fewer than two seeds"


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
    notes += [
        f"{run.place}: {one['setting']} was {one['from']} up to round {one['round']}"
        for run in found.runs
        for one in run.results.changed
    ]
    counts = {name: set(g.blocks) for g in groups for name in [g.name]}
    if len({frozenset(blocks) for blocks in counts.values()}) > 1:
        notes.append(
            "not every method was run with every seed and order; tests and `closed` use those "
            "in common, the means all"
        )
    uneven = [name for name, blocks in counts.items() if not _even(blocks)]
    if uneven:
        notes.append(
            f"{some_of(uneven)}: some seeds were run in more orders than others; means and "
            "intervals are over seeds, where each counts once, ± is over runs"
        )
    return groups, notes


def _even(blocks: Iterable[tuple[int, str]]) -> bool:
    """Return whether every seed was run in as many orders."""
    return len(set(Counter(seed for seed, _ in blocks).values())) == 1


def _reference(groups: Sequence[Group], asked: str | None) -> str:
    """Return the method to test against: the one asked for, TED, or else the best."""
    names = [group.name for group in groups]
    if asked is not None and asked not in names:
        raise ConfigError(
            f"compare --reference: there is no {asked!r}; there are {', '.join(names)}"
        )
    if asked is None and "ted" not in names:
        return max(groups, key=_avg).name
    return asked or "ted"


def _avg(group: Group) -> float:
    return by_seed(group.runs, [run.results.avg for run in group.runs])


def _print_rows(
    title: str, columns: Sequence[Column], names: Sequence[str], rows: Sequence[Any]
) -> None:
    """Print the columns of some names."""
    shown = [column for column in columns if column.name in names]
    view = Table(title=title, title_justify="left")
    for column in shown:
        named = column.name == "strategy"
        view.add_column(escape(column.title), overflow="fold", no_wrap=not named)
    for row in rows:
        view.add_row(*(escape(column.text(row)) for column in shown))
    console.print(view)


def _print(lines: Sequence[Line], reference: str, notes: Sequence[str]) -> None:
    header, rows = paper(lines, reference, "-")
    shown = {  # in a heading, a long reference would leave no room
        "AVG": "AVG",
        "closed": "closed",
        "difference [95 %]": f"AVG - {reference} [95 %]",
        "p": f"p ({reference})",
    }
    if console.width >= WIDE:
        shown |= {"BWT": "BWT", "worst site": "worst site"}
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
