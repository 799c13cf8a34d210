"""The command `fedcl inspect`: what a scenario's sites hold and what their models cost."""

from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedcl.config.schema import Config
from fedcl.data.cases import Case, alike
from fedcl.data.files import reading
from fedcl.data.samples import Samples
from fedcl.errors import DataError, some_of
from fedcl.registry import name_of
from fedcl.reporting.sheets import draw_sheet
from fedcl.reporting.terminal import MOST
from fedcl.server import settling
from fedcl.server.architecture import cost
from fedcl.server.outcome import cohorts, presence
from fedcl.server.telling import padded_otherwise


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
    job, timeline = config.job, config.timeline
    task, several = job.task, len(job.models) > 1
    rows: list[dict[str, str]] = []
    shown: dict[str, tuple[str, Samples]] = {}
    said += job.scenario.left_out()
    marked: dict[str, set[str]] = {}
    shapes: dict[str, Sequence[int]] = {}
    for number, stage in enumerate(timeline.stages, start=1):
        for site in stage:
            role = job.roles[site]
            with reading(site):
                data = job.scenario.load(site, job.scenario.location(site), job.seed)
            data = data.limited(role.data_fraction, job.seed, site)
            one = task.sized(data.train).samples(data.train[:1], torch.device("cpu"))
            shapes[site] = one.shape
            for model in role.models:
                shown.setdefault(model, (site, one))
            for case in (*data.train, *data.val, *data.test):
                if isinstance(case, Case):  # a field has no masks
                    marked[f"{site}/{case.name}"] = case.marked
            parts = {"train": data.train, "val": data.val, "test": data.test}
            counts = {name: str(len(cases)) for name, cases in parts.items()}
            own = {"model": role.model} if several else {}
            told = task.describe(data)
            looks = task.looks(data) if sheets is not None else []
            if sheets is not None and looks:
                draw_sheet(site, looks, sheets / f"{site}.png")
            rows.append({"site": site, "stage": str(number), **own, **counts, **told})
            said += [f"site {site}: {note}" for note in data.notes]
    for site, padded in padded_otherwise(shapes).items():
        said += [f"site {site}: {note}" for note in padded]
    twice: dict[tuple[str, ...], list[str]] = {}
    for names in alike(marked):
        sites = tuple(dict.fromkeys(name.partition("/")[0] for name in names))
        twice.setdefault(sites, []).append(" = ".join(names))
    for sites, cases in twice.items():
        if len(sites) > 1:
            said.append(f"the same images and masks at {' and '.join(sites)}: {some_of(cases)}")
    title = f"{name_of(job.scenario)}, seed {job.seed}: cases per part"
    lines = [[*rows[0]], *([*row.values()] for row in rows)]
    if len(rows) + 1 < len(rows[0]):  # few sites: one column each, which fits more terminals
        lines = [list(column) for column in zip(*lines, strict=True)]
    table = Table(*map(escape, lines[0]), title=escape(title), title_justify="left")
    for line in lines[1:]:
        table.add_row(*map(escape, line))
    console.print(table)
    if sheets is not None:
        drawn = sum((sheets / f"{row['site']}.png").is_file() for row in rows)
        what = f"{drawn} pictures in {sheets}" if drawn else f"{task.words} have no pictures"
        console.print(f"sheets: {what}", markup=False, soft_wrap=True)
    for note in said:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    console.print(_timeline(config))
    for model, (site, samples) in shown.items():
        network = job.network(model, timeline.sites)
        problem = task.problem(network, samples)
        if problem is not None:
            raise DataError(f"site {site}: {problem}")
        parameters, operations = cost(
            network, samples[torch.zeros(1, dtype=torch.int64)].inputs, site
        )
        console.print(
            f"model {model}: {parameters:,} parameters, {operations:,} multiply-accumulates per "
            "sample",
            soft_wrap=True,
        )


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
