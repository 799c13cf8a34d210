"""A hospital withdraws: the model that would have been, had it never taken part."""

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from fedcl import arrays
from fedcl.app import entry, simulation
from fedcl.app.leftovers import Search
from fedcl.app.resuming import changes
from fedcl.app.run_folder import claimed, claimed_new
from fedcl.config.groups import DEPLOYED
from fedcl.config.schema import Config
from fedcl.config.stored import stored
from fedcl.config.without import check_there, without
from fedcl.errors import ConfigError, FedclError, RunError
from fedcl.hospital.store import SiteState
from fedcl.registry import SCENARIO
from fedcl.server.checkpoint import Checkpoint
from fedcl.server.events import Watcher
from fedcl.server.results import Results
from fedcl.server.state import State
from fedcl.server.withdrawal import cleaned, obstacle
from fedcl.wire.answers import Hello


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
        past = Past.of(run)
        now = without(values, past.stages, site)
        try:
            config = Config.parse(now)
        except FedclError as error:
            raise type(error)(f"without {site} there can be no such run: {error}") from None
        state, why = past.before(site, config)
        console.print(
            _plan(site, state, len(config.timeline.stages), why),
            markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip
        with claimed_new(out) as mine:
            beginning = Beginning(past, state, config, site, mine)
            code = entry.told(
                mine, lambda: simulation.play(config, mine, state, now, watchers=[beginning])
            )
    return code or search(run, site, out, console)


def search(run: Path, site: str, folder: Path, console: Console) -> int:
    """Search a folder for what a hospital gave to a run, and say where else there is some of it.

    Args:
        run: folder of the run.
        site: the hospital.
        folder: to be searched.
        console: gets what is said.

    Returns:
        The exit status: 1 where something was found.

    Raises:
        FedclError: there is no such run, or it had no such hospital.
    """
    values, past = stored(run, "forget"), Past.of(run)
    wanted = past.given(values, site)
    found, count = wanted.through(folder)
    what = f"{site}, {len(wanted.cases)} names of its cases and the digest of its data"
    said = f"found in {len(found)} places, look at them" if found else "nothing of it is left"
    lines = [*map(str, found), f"searched {count} files in {folder} for {what}: {said}"]
    for line in (*lines, *past.remains(values, site)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 1 if found else 0


@dataclass(frozen=True)
class Past:
    """A run as it was.

    Attributes:
        folder: of the run.
        results: what it led to; None where it was killed.
        stages: the sites that arrived in each stage.
    """

    folder: Path
    results: Results | None
    stages: list[list[str]]

    @classmethod
    def of(cls, folder: Path) -> "Past":
        """Read what a run has left.

        Raises:
            ConfigError: it has left nothing that says who took part.
        """
        results = Results.read(folder)
        if results is not None and results.arrivals:
            return cls(folder, results, results.arrivals)
        state = Checkpoint(folder / "checkpoint").load()
        if state is None:
            raise ConfigError(f"forget: {folder} holds no results.json and no checkpoint")
        return cls(folder, None, state.configuration["timeline.stages"])

    @property
    def checkpoint(self) -> Checkpoint:
        """Its snapshots."""
        return Checkpoint(self.folder / "checkpoint")

    def before(self, site: str, config: Config) -> tuple[State | None, str]:
        """Return the latest state in which nothing was of a site, and why there is no later one.

        Args:
            site: that is to be forgotten.
            config: of the run without it.

        Returns:
            None where the run must begin anew; the reason is empty where the state is the one
            that the stage of the site's arrival began with.
        """
        arrival = next(n for n, stage in enumerate(self.stages) if site in stage)
        why = "" if arrival else f"{site} was there from the first stage on"
        for stages in range(arrival, 0, -1):
            try:
                state = self._ended(stages)
            except RunError as error:
                why = why or str(error)
                continue
            problem = obstacle(state, config, site)
            if problem is not None:
                return None, problem
            return cleaned(state, config, site), why
        return None, why

    def _ended(self, stages: int) -> State:
        """Return the state after so many stages, when hospitals still have what they had then.

        Raises:
            RunError: it is not there, or damaged.
        """
        state = self.checkpoint.ended(stages)
        if state is None:
            raise RunError(f"{self.checkpoint.folder} has no snapshot of the end of stage {stages}")
        for site, version in state.versions.items():
            file = self.kept(site, version)
            if arrays.digest(arrays.load_file(file)) != state.kept[site]:
                raise RunError(f"{file}: not what {site} had kept")
        return state

    def kept(self, site: str, version: int) -> Path:
        """Return the file of what a site kept for itself."""
        return SiteState(self.checkpoint.folder / "sites" / site).file(version)

    def given(self, values: dict[str, Any], site: str) -> Search:
        """Return what to look for in a run without a site.

        Raises:
            ConfigError: it had none of this name.
        """
        check_there(site, self.stages)
        cases: dict[str, set[str]] = {one: set() for stage in self.stages for one in stage}
        scenario = SCENARIO.make(values["scenario"])
        for one, names in cases.items():
            names.update(self.results.cases.get(one, ()) if self.results else ())
            try:
                names.update(scenario.names(one))
            except FedclError:  # its files are gone already
                continue
        own = cases.pop(site, set()).difference(*cases.values())
        digest = self.results.data_sha256.get(site) if self.results else None
        return Search(site, sorted(own), [digest] if digest else [])

    def remains(self, values: dict[str, Any], site: str) -> list[str]:
        """Return where else there is still what a site gave, and how to delete it."""
        lines = [f"{self.folder} still holds what {site} gave: delete it"]
        run = self.results.tracking.get("run") if self.results else None
        if run:
            program, uri = Path(sys.executable).with_name("mlflow"), values["tracking"]["uri"]
            lines += [
                f"MLflow's record of it does too, run {run} at {uri}; to delete it:",
                f"  MLFLOW_TRACKING_URI={uri} {program} runs delete --run-id {run}",
                f"  {program} gc --backend-store-uri {uri} --run-ids {run}",
            ]
        if values["scenario"].get("cache") == "disk":
            lines.append(f"prepared images of {site} may lie in FEDCL_CACHE (~/.cache/fedcl)")
        return lines


@dataclass
class Beginning(Watcher):
    """Puts into a new run's folder what it goes on from, once nothing is wrong with its data.

    Attributes:
        past: the run as it was.
        state: to go on from; None, and it begins anew.
        config: of the new run.
        site: that it does not have.
        folder: of the new run.
    """

    past: Past
    state: State | None
    config: Config
    site: str
    folder: Path

    def started(self, config: Config, state: State, about: dict[str, Hello]) -> None:
        """Take over the stages before the first one that is played again."""
        state.forgot = {
            "from_stage": state.stage + 1,
            "stages_replayed": len(config.timeline.stages) - state.stage,
        }
        target = Checkpoint(self.folder / "checkpoint")
        for number in range(1, state.stage + 1):
            weights = f"stage-{number}.safetensors"
            if (self.past.checkpoint.folder / weights).is_file():
                _copy(self.past.checkpoint.folder / weights, target.folder / weights)
        for versions in state.ended:
            for site, version in versions.items():
                file = self.past.kept(site, version)
                if file.is_file():
                    _copy(file, target.folder / "sites" / site / file.name)
        for number in range(1, state.stage):  # so that others can be forgotten, too
            try:
                earlier = self.past.checkpoint.ended(number)
            except RunError:
                continue
            if earlier is not None:
                target.save(cleaned(earlier, self.config, self.site))


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _plan(site: str, state: State | None, stages: int, why: str) -> str:
    """Say what stays and what is played again."""
    if state is None:
        return f"forgetting {site}: all {stages} stages are played from the beginning ({why})"
    kept = "stage 1 stays" if state.stage == 1 else f"stages 1 to {state.stage} stay"
    left = stages - state.stage
    rest = (
        f"{left} of {stages} {'is' if left == 1 else 'are'} played again"
        if left
        else "none is left"
    )
    return f"forgetting {site}: {kept} as before it came, {rest}" + f" ({why})" * bool(why)
