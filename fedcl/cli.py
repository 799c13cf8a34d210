"""The command `fedcl`: look at data and at runs, without training."""

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from fedcl.composition import compose
from fedcl.config import Config
from fedcl.errors import FedclError
from fedcl.plugins import name_of
from sites.base import SiteData

EXAMPLES = "e.g. fedcl compare outputs/2026-01-31/12-00-00 --out outputs/report"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = argparse.ArgumentParser(prog="fedcl", description=__doc__)
    parser.add_argument("--version", action="version", version=f"fedcl {version('fedcl')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    about = "check a scenario's data and say what it holds, without training"
    command = commands.add_parser("inspect", help=about, description=about)
    command.add_argument("overrides", nargs="*", help="as for simulate.py: scenario=NAME ...")
    command.set_defaults(run=inspect)
    about = "write table.csv, table.md, table.tex and report.html from finished runs"
    command = commands.add_parser("compare", help=about, description=about, epilog=EXAMPLES)
    command.add_argument(
        "sources", nargs="+", metavar="RUN_OR_EXPERIMENT",
        help="folders of runs or of sweeps, or names of MLflow experiments",
    )  # fmt: skip
    command.add_argument("--out", type=Path, required=True, help="folder to write into")
    command.add_argument("--uri", default="sqlite:///mlflow.db", help="where MLflow keeps them")
    command.add_argument("--reference", help="test against it; default ted, else the best")
    command.add_argument(
        "--where", action="append", default=[], metavar="KEY=VALUE",
        help="take only runs with this setting, e.g. timeline.rounds=8; may be repeated",
    )  # fmt: skip
    command.add_argument("--strict", action="store_true", help="refuse runs not completed")
    command.add_argument("--mix", action="store_true", help="compare what differs all the same")
    command.set_defaults(run=compare)
    given = parser.parse_args(arguments)
    try:
        given.run(given)
    except FedclError as error:
        print(f"fedcl: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def compare(given: argparse.Namespace) -> None:
    """Write tables and report; see `fedcl.compare.compare`."""
    from fedcl.compare import compare as write

    write(
        given.sources, given.out, given.uri, given.reference, given.where, given.strict, given.mix
    )


def inspect(given: argparse.Namespace) -> None:
    """Print what each site of a scenario holds, as a run with this seed would split it.

    Raises:
        FedclError: the configuration or the data of a site cannot be used.
    """
    config = Config.parse(compose(given.overrides))
    job, timeline = config.job, config.timeline
    table = Table(
        "site", "stage", "train", "val", "test", "slices", "size", "voxel", "labelled",
        title=f"{name_of(job.scenario)}, seed {job.seed}: cases per part",
        title_justify="left",
    )  # fmt: skip
    for number, stage in enumerate(timeline.stages, start=1):
        for site in stage:
            data = job.scenario.load(site, job.scenario.location(site), job.seed)
            table.add_row(site, str(number), *_describe(data))
    Console().print(table)


def _describe(data: SiteData) -> list[str]:
    cases = [*data.train, *data.val, *data.test]
    labels = torch.cat([case.labels.flatten() for case in cases])
    sizes = {"x".join(map(str, case.images.shape[-2:])) for case in cases}
    spacings = {"x".join(f"{s:.3g}" for s in case.spacing) for case in cases}
    return [
        str(len(data.train)),
        str(len(data.val)),
        str(len(data.test)),
        str(sum(len(case.images) for case in cases)),
        ", ".join(sorted(sizes)),
        next(iter(spacings)) if len(spacings) == 1 else f"{len(spacings)} different",
        f"{(labels > 0).float().mean():.1%}",
    ]
