"""A hospital withdraws: the model that would have been, had it never taken part."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from fedcl import arrays
from fedcl.app import entry, simulation
from fedcl.app.past import Beginning, Past, accounted, copied, plan, say, searched
from fedcl.app.resuming import changes
from fedcl.app.run_folder import claimed, claimed_new
from fedcl.config.groups import DEPLOYED
from fedcl.config.stored import stored
from fedcl.errors import ConfigError, RunError
from fedcl.hospital.store import SiteState
from fedcl.interruption import ToldError, reason
from fedcl.server.state import State


def forget(run: Path, site: str, out: Path, arguments: Sequence[str], console: Console) -> int:
    """Make the run that would have been without a hospital, and search it for what is left.

    The run as it was is not touched.

    Args:
        run: its folder.
        site: the hospital that withdraws.
        out: a new folder.
        arguments: what else is given on the command line, as to a run that is resumed.
        console: gets what is said.

    Returns:
        The exit status: 1, too, where something of the hospital was found in the new run.

    Raises:
        FedclError: nothing was begun, in one line.
    """
    values = stored(run, "forget")
    changes(arguments)(values)
    if values["engine"]["name"] == DEPLOYED:
        raise ConfigError(
            f"forget: {run} is a deployed run; ask for it by flwr run, "
            f"--run-config \"overrides='run.forget={run.name} run.site={site}'\""
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out: {out} holds something; give a new folder")
    if out.resolve().is_relative_to(run.resolve()):
        raise ConfigError(f"--out: {out} lies in the run that is to be left as it is")
    with claimed(run):
        past, kept = Past.of(run), Files(run, out)
        now, config = past.without(values, site)
        state, why = past.before(site, config, kept)
        for line in (plan(site, state, config, why), *accounted(config)):
            say(console, line)
        with claimed_new(out) as mine:
            beginning = Beginning(past, kept, site, mine)
            code = entry.told(
                mine, lambda: simulation.play(config, mine, state, now, watchers=[beginning])
            )
    try:
        return code or search(run, site, out, arguments, console)
    except KeyboardInterrupt:
        print(f"fedcl: {reason()}; {out} is complete, --search searches it", file=sys.stderr)
        raise ToldError from None


def search(run: Path, site: str, folder: Path, arguments: Sequence[str], console: Console) -> int:
    """Search a folder for what a hospital gave to a run, and say where else there is some of it.

    Args:
        run: folder of the run.
        site: the hospital.
        folder: to be searched.
        arguments: see `forget`.
        console: gets what is said.

    Returns:
        The exit status: 1 where something was found.

    Raises:
        FedclError: there is no such run, or it had no such hospital.
    """
    values = stored(run, "forget")
    changes(arguments)(values)
    lines, found = searched(Past.of(run), values, site, folder)
    for line in lines:
        say(console, line)
    return 1 if found else 0


@dataclass(frozen=True)
class Files:
    """What the hospitals of a simulation have kept, in its folder; see `Keepers`.

    Attributes:
        run: folder of the run.
        out: of the new one.
    """

    run: Path
    out: Path

    def check(self, state: State) -> None:
        """Raise `RunError` where a file is missing or damaged."""
        for site, version in state.versions.items():
            file = _kept(self.run, site).file(version)
            if arrays.digest(arrays.load_file(file)) != state.kept[site]:
                raise RunError(f"{file}: not what {site} had kept")

    def hand_over(self, state: State) -> None:
        """Copy the files."""
        for site in state.versions:
            for version in state.versions_at_ends(site):
                file = _kept(self.run, site).file(version)
                if file.is_file():
                    copied(file, _kept(self.out, site).file(version))


def _kept(folder: Path, site: str) -> SiteState:
    """Return what a site keeps in a run's folder, as `simulation.nodes_of` places it."""
    return SiteState(folder / "checkpoint" / "sites" / site)
