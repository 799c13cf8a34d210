"""The command `fedcl inspect`: what a scenario's sites hold and what their models cost."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedcl.config.schema import Config
from fedcl.data.cases import Case, alike
from fedcl.data.files import reading
from fedcl.data.notes import Note
from fedcl.data.samples import Samples
from fedcl.errors import DataError, some_of
from fedcl.registry import name_of
from fedcl.reporting.sheets import draw_sheet
from fedcl.reporting.terminal import MOST
from fedcl.server import settling
from fedcl.server.architecture import cost
from fedcl.server.outcome import cohorts, presence
from fedcl.server.run_log import padded_otherwise


def inspect(config: Config, console: Console, sheets: Path | None = None) -> None:
    """Print what each site holds, as a run with this seed would split it, and the models.

    Args:
        config: the run.
        console: where to.
        sheets: a folder that gets a picture of some cases per site; None for none.

    Raises:
        FedclError: the data of a site cannot be used, or a model not take them.
    """
    said: list[str] = []
    name = config.job.scenario.measures
    if name:
        config = config.settled({name: settling.medians(_measured(config))})
        value = getattr(config.job.scenario, name)
        said.append(f"scenario.{name}: {value}, the median over the sites of the first stage")
    job, held = config.job, {}
    shown: dict[str, tuple[str, Samples]] = {}
    for site in config.timeline.sites:
        held[site], samples = _held(config, site, sheets)
        for model in job.roles[site].models:
            shown.setdefault(model, (site, samples))
    said += [*job.scenario.left_out(), *_notes(held)]
    console.print(_cases(f"{name_of(job.scenario)}, seed {job.seed}: cases per part", held))
    if sheets is not None:
        drawn = sum(one.drawn for one in held.values())
        what = f"{drawn} pictures in {sheets}" if drawn else f"{job.task.words} have no pictures"
        console.print(f"sheets: {what}", markup=False, soft_wrap=True)
    for note in said:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    console.print(_timeline(config))
    for model, (site, samples) in shown.items():
        console.print(f"model {model}: {_cost(config, model, site, samples)}", soft_wrap=True)


@dataclass(frozen=True)
class _Held:
    """What a site holds, as a run would split it.

    Attributes:
        row: what the table says of it.
        shape: of its samples.
        marked: what tells two cases apart, by their names; none of fields, which have no masks.
        notes: what was dropped, resampled or guessed.
        drawn: whether there is a sheet of it.
    """

    row: Mapping[str, str]
    shape: Sequence[int]
    marked: Mapping[str, set[str]]
    notes: Sequence[Note]
    drawn: bool


def _held(config: Config, site: str, sheets: Path | None) -> tuple[_Held, Samples]:
    """Return what a site holds, with the samples of its first case; draw its sheet if asked."""
    job, task, role = config.job, config.job.task, config.job.roles[site]
    with reading(site):
        data = job.scenario.load(site, job.scenario.location(site), job.seed)
    data = data.limited(role.data_fraction, job.seed, site)
    looks = task.looks(data) if sheets is not None else []
    if sheets is not None and looks:
        draw_sheet(site, looks, sheets / f"{site}.png")
    parts = {"train": data.train, "val": data.val, "test": data.test}
    cases = [case for part in parts.values() for case in part if isinstance(case, Case)]
    row = {"site": site, "stage": str(config.timeline.arrival(site) + 1)}
    row |= {"model": role.model} if len(job.models) > 1 else {}
    row |= {name: str(len(part)) for name, part in parts.items()} | task.describe(data)
    samples = task.sized(data.train).samples(data.train[:1], torch.device("cpu"))
    marked = {case.name: case.marked for case in cases}
    return _Held(row, samples.shape, marked, data.notes, bool(looks)), samples


def _notes(held: Mapping[str, _Held]) -> Iterator[str]:
    """Yield what is to be known about the sites' cases, each by itself and side by side."""
    for site, one in held.items():
        yield from (f"site {site}: {note}" for note in one.notes)
    for site, padded in padded_otherwise({s: one.shape for s, one in held.items()}).items():
        yield from (f"site {site}: {note}" for note in padded)
    marked = {f"{s}/{name}": what for s, one in held.items() for name, what in one.marked.items()}
    twice: dict[tuple[str, ...], list[str]] = {}
    for names in alike(marked):
        sites = tuple(dict.fromkeys(name.partition("/")[0] for name in names))
        twice.setdefault(sites, []).append(" = ".join(names))
    for sites, cases in twice.items():
        if len(sites) > 1:
            yield f"the same images and masks at {' and '.join(sites)}: {some_of(cases)}"


def _cases(title: str, held: Mapping[str, _Held]) -> Table:
    """Return how many cases each site has, and what they are like."""
    rows = [one.row for one in held.values()]
    lines = [[*rows[0]], *([*row.values()] for row in rows)]
    if len(rows) + 1 < len(rows[0]):  # few sites: one column each, which fits more terminals
        lines = [list(column) for column in zip(*lines, strict=True)]
    table = Table(*map(escape, lines[0]), title=escape(title), title_justify="left")
    for line in lines[1:]:
        table.add_row(*map(escape, line))
    return table


def _cost(config: Config, model: str, site: str, samples: Samples) -> str:
    """Return what a model costs, by a sample of a site.

    Raises:
        DataError: it cannot take the sample.
    """
    job = config.job
    network = job.network(model, config.timeline.sites)
    problem = job.task.problem(network, samples)
    if problem is not None:
        raise DataError(f"site {site}: {problem}")
    inputs = samples[torch.zeros(1, dtype=torch.int64)].inputs
    parameters, operations = cost(network, inputs, site)
    return f"{parameters:,} parameters, {operations:,} multiply-accumulates per sample"


def _measured(config: Config) -> dict[str, list[float]]:
    """Return what each site of the first stage would say of a setting that waits for it."""
    scenario, told = config.job.scenario, {}
    for site in config.timeline.present(0):
        with reading(site):
            told[site] = scenario.measure(site, scenario.location(site), config.job.seed)
    return told


def _timeline(config: Config) -> Table:
    """Return who is there and who trains, stage by stage."""
    title = "who trains, on which share of its training cases"
    trains, stages = cohorts(config), len(config.timeline.stages)
    if stages > MOST:
        table = Table("site", "trains in stages", "is there in stages", title=title)
        for site, shares in presence(config).items():
            there = [t for t, share in enumerate(shares, start=1) if share is not None]
            own = [t for t in there if site in trains[t - 1]]
            table.add_row(escape(site), _ranges(own), _ranges(there))
        return table
    table = Table(title=title, title_justify="left")
    table.add_column("site")
    for stage in range(1, stages + 1):
        table.add_column(f"stage {stage}", justify="right")
    for site, shares in presence(config).items():
        words = (
            "" if share is None else f"{share:.0%}" if site in trains[stage] else "is there"
            for stage, share in enumerate(shares)
        )
        table.add_row(escape(site), *words)
    return table


def _ranges(numbers: Sequence[int]) -> str:
    """Return rising numbers in short, such as 1-3, 7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ", ".join("-".join(map(str, run)) for run in runs)
