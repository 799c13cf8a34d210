"""Published tables: what a paper runs, what it reports of it, and our runs set beside that."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean, stdev

import yaml

from fedcl.analysis.columns import Column, as_csv, number, piped
from fedcl.analysis.runs import Group, Run
from fedcl.analysis.statistics import Line, by_seed, table
from fedcl.analysis.tables import HELP, tabular, told
from fedcl.config.hydra import CONF
from fedcl.errors import ConfigError, some_of
from fedcl.server.metrics import title_of
from fedcl.settings import closest, parse, setting

TABLES = CONF / "tables"
FIGURES = ("avg", "ravg", "bwt", "rbwt")
"""The figures of a table, beside distances and the scores of single sites."""
DISTANCE = "hd95"
OTHERWISE = (
    "HD95 is the larger directed 95th percentile, of whole volumes, in mm where the files say how "
    "large a voxel is; pooled over both directions, slice by slice and in pixels, as in the code "
    "of TED, it is another number"
)
"""What is said below a table with distances."""
FURTHER = {DISTANCE: "HD95", "ssim": "SSIM", "dice": "Dice"}
"""Scores that are shown beside the one that runs are judged by, where they are known."""


@dataclass
class Row:
    """One row of a table.

    Attributes:
        title: the paper's name for it.
        overrides: what makes it, on top of the protocol.
        published: by figure, what the paper reports.
        teacher: the row whose model teaches it, which is run before; of one stage, and named like
            its architecture.
        variant: of which one it is a row; see `Paper`.
    """

    title: str
    overrides: list[str] = setting(factory=list)
    published: dict[str, float] = setting(factory=dict)
    teacher: str = ""
    variant: str = ""


@dataclass
class Paper:
    """A published table.

    Attributes:
        title: what it is about.
        source: where it is published.
        protocol: the set-up that all of its rows share.
        seeds: with which it is run.
        reference: the row that others are tested against.
        holds_for: settings that the published numbers are of, where there are others.
        sites: that they are of; empty where there are none.
        notes: what a reader must know to compare.
        rows: by their names; RAVG refers to `joint`.
        variants: such as networks that are compared; each has the rows of `each` and is a table of
            its own: reference and `joint` are its own.
        each: the rows of every variant; NAME of VARIANT is the row VARIANT-NAME.
    """

    title: str
    source: str
    protocol: str
    seeds: list[int] = setting(factory=list, low=0)
    reference: str = ""
    holds_for: list[str] = setting(factory=list)
    sites: list[str] = setting(factory=list)
    notes: list[str] = setting(factory=list)
    rows: dict[str, Row] = setting(factory=dict)
    variants: dict[str, Row] = setting(factory=dict)
    each: dict[str, Row] = setting(factory=dict)

    def whole(self) -> "Paper":
        """Return the table with the rows of its variants among its rows."""
        rows = {name: row for name, row in self.rows.items() if not row.variant}
        for variant, shared in self.variants.items():
            for name, row in self.each.items():
                title, overrides = f"{shared.title} {row.title}", shared.overrides + row.overrides
                rows[f"{variant}-{name}"] = replace(
                    row, title=title, overrides=overrides, variant=variant
                )
            rows |= {name: row for name, row in self.rows.items() if row.variant == variant}
        return replace(self, rows=rows, variants={}, each={})

    def run_with(self, overrides: Sequence[str]) -> "Paper":
        """Return the table as it is when its runs have further settings, which it then tells.

        Published numbers that are of another setting are left out.
        """
        if not overrides:
            return self
        held = dict(one.split("=", 1) for one in self.holds_for)
        given = dict(one.partition("=")[::2] for one in overrides)
        other = [key for key, value in held.items() if given.get(key, value) != value]
        notes = [*self.notes, f"run with {', '.join(overrides)}"]
        told = replace(self, notes=notes)
        return told._alone(", ".join(self.holds_for)) if other else told

    def run_at(self, sites: Collection[str]) -> "Paper":
        """Return the table as it is when its runs have these sites, likewise."""
        if not self.sites or {*sites} == {*self.sites}:
            return self
        return self._alone(f"{some_of(self.sites)}; these runs are of {some_of(sorted(sites))}")

    def _alone(self, held: str) -> "Paper":
        """Return the table without the published numbers, which are of something else."""
        if not any(row.published for row in self.rows.values()):
            return self
        notes = [*self.notes, f"published numbers are left out: they are of {held}"]
        rows = {name: replace(row, published={}) for name, row in self.rows.items()}
        return replace(self, notes=notes, rows=rows)


def names() -> list[str]:
    """Return the names of the tables there are."""
    return sorted(file.stem for file in TABLES.glob("*.yaml"))


def paper(name: str) -> Paper:
    """Return a published table by its name.

    Raises:
        ConfigError: there is none.
    """
    if name not in names():
        raise ConfigError(
            f"reproduce: there is no table {name!r}{closest(name, names())}; there are: "
            f"{', '.join(names())}"
        )
    values = yaml.safe_load((TABLES / f"{name}.yaml").read_text(encoding="utf-8"))
    return parse(Paper, values, f"tables.{name}").whole()


@dataclass(frozen=True)
class Entry:
    """A row with the runs that were made of it."""

    row: Row
    line: Line
    runs: Sequence[Run]


def entries(one: Paper, groups: Sequence[Group]) -> list[Entry]:
    """Return the rows of which there are runs, in the paper's order.

    Args:
        one: the published table.
        groups: the runs of its rows, by their names.
    """
    runs = {group.name: group.runs for group in groups}
    lines = {
        name: line
        for variant in dict.fromkeys(row.variant for row in one.rows.values())
        for name, line in _lines(one, variant, groups)
    }
    return [Entry(row, lines[name], runs[name]) for name, row in one.rows.items() if name in runs]


def _lines(one: Paper, variant: str, groups: Sequence[Group]) -> list[tuple[str, Line]]:
    """Return the lines of a variant's rows, compared with one another, by the rows' names."""
    own = [group for group in groups if one.rows[group.name].variant == variant]
    names = {group.name.removeprefix(f"{variant}-"): group.name for group in own}
    if not own:
        return []
    known = one.reference in names
    short = [replace(group, name=name) for name, group in zip(names, own, strict=True)]
    lines = table(short, one.reference if known else short[0].name)
    for line in () if known else lines:  # nothing to be tested against
        line.difference = line.bwt_difference = line.p = None
    return [(names[line.name], replace(line, name=names[line.name])) for line in lines]


@dataclass(frozen=True)
class Measure:
    """What is shown of every row.

    Attributes:
        name: in the CSV file.
        title: for readers.
        spread: mean and sample standard deviation over runs; None where there is none.
    """

    name: str
    title: str
    spread: Callable[[Entry], tuple[float | None, float | None]]


def measures(found: Sequence[Entry]) -> list[Measure]:
    """Return the figures, then the scores at every site after the last stage."""
    results = found[-1].runs[0].results
    shown = [Measure(name, HELP[name][0], partial(_figure, name)) for name in FIGURES]
    further = {name: title for name, title in FURTHER.items() if name in results.secondary}
    shown += [Measure(name, title, partial(_at_end, name, "")) for name, title in further.items()]
    for score, title in {results.score: title_of(results.score), **further}.items():
        for site in results.sites if len(results.sites) > 1 else ():
            at_site = partial(_at_end, score, site)
            shown.append(Measure(f"{score}_{site}", f"{title} {site}", at_site))
    return shown


def _figure(name: str, entry: Entry) -> tuple[float | None, float | None]:
    return entry.line.mean[name], entry.line.std[name]


def _at_end(score: str, site: str, entry: Entry) -> tuple[float | None, float | None]:
    """Return a score after the last stage: at a site, or the mean over all if it is empty.

    Sites that never have it, such as those of a mask for PSNR, are left out of the mean.
    """
    values, runs = [], []
    for run in entry.runs:
        own = run.results
        matrix = own.matrix if score == own.score else own.secondary[score].matrix
        last = [
            column[-1]
            for name, column in zip(own.sites, zip(*matrix, strict=True), strict=True)
            if site in ("", name) and any(value is not None for value in column)
        ]
        if last and None not in last:
            values.append(fmean(value for value in last if value is not None))
            runs.append(run)
    return by_seed(runs, values) if values else None, stdev(values) if len(values) > 1 else None


def known(found: Sequence[Entry]) -> list[Measure]:
    """Return the measures that a row has or the paper reports."""
    return [
        measure
        for measure in measures(found)
        if _published(measure, found) or any(measure.spread(e)[0] is not None for e in found)
    ]


def files(one: Paper, found: Sequence[Entry], notes: Sequence[str]) -> dict[str, str]:
    """Return `table.csv`, `table.md` and `table.tex`, by their names.

    Args:
        one: the published table.
        found: its rows; see `entries`.
        notes: what a reader must know besides those of the table.
    """
    measured = [OTHERWISE] * any(measure.name == DISTANCE for measure in measures(found))
    told = [*measured, *one.notes, *notes]
    shown = _columns(one, found, "-")
    header = [column.title for column in shown]
    rows = [[column.text(entry) for column in shown] for entry in found]
    marks = "".join(f"- {note}\n" for note in told)
    return {
        "table.csv": as_csv(_numbers(found), found),
        "table.md": f"# {one.title}\n\n{one.source}\n\n{piped(header, rows)}\n{marks}",
        "table.tex": tabular(header, rows, [one.source, *told]),
    }


def _columns(one: Paper, found: Sequence[Entry], dash: str) -> list[Column]:
    """Return the columns for readers: published before measured, mean ± standard deviation."""
    columns = [Column("method", "method", lambda entry: entry.row.title, "")]
    if len({_parameters(entry) for entry in found}) > 1:
        columns.append(Column("", "parameters", lambda entry: f"{_parameters(entry):,}", ""))
    for measure in known(found):
        if _published(measure, found):
            text = partial(_reported, measure.name, dash)
            columns.append(Column("", f"{measure.title} published", text, ""))
        columns.append(Column("", measure.title, partial(_read, measure, dash), ""))
    if any(entry.line.difference for entry in found):
        columns += [
            Column(
                "",
                f"AVG - {one.reference} [95 %]",
                lambda entry: told(entry.line.difference, dash),
                "",
            ),
            Column("", f"p ({one.reference})", lambda entry: number(entry.line.p, ".3g"), ""),
        ]
    return columns


def _numbers(found: Sequence[Entry]) -> list[Column]:
    """Return the columns for programs: every number in a cell of its own."""
    columns = [
        Column("method", "", lambda entry: entry.row.title, ""),
        Column("row", "", lambda entry: entry.line.name, ""),
        Column("runs", "", lambda entry: str(len(entry.runs)), ""),
    ]
    for measure in measures(found):
        if _published(measure, found):
            text = partial(_reported, measure.name, "")
            columns.append(Column(f"{measure.name}_published", "", text, ""))
        for index, name in enumerate((measure.name, f"{measure.name}_std")):
            columns.append(Column(name, "", partial(_number, measure, index), ""))
    return [*columns, Column("parameters", "", lambda entry: str(_parameters(entry)), "")]


def _parameters(entry: Entry) -> int:
    """Return those of the networks that the sites train, a teacher's left out."""
    every = entry.runs[0].results.architectures.values()
    return sum(one.parameters for one in every if one.sites)


def _published(measure: Measure, found: Sequence[Entry]) -> bool:
    return any(measure.name in entry.row.published for entry in found)


def _reported(name: str, dash: str, entry: Entry) -> str:
    return number(entry.row.published.get(name), ".3f") or dash


def _number(measure: Measure, index: int, entry: Entry) -> str:
    return number(measure.spread(entry)[index])


def _read(measure: Measure, dash: str, entry: Entry) -> str:
    mean, std = measure.spread(entry)
    if mean is None:
        return dash
    form = "+.3f" if "bwt" in measure.name else ".2f" if DISTANCE in measure.name else ".3f"
    return format(mean, form) + ("" if std is None else f" ± {std:{form.lstrip('+')}}")
