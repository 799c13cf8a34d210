"""What a run was, for the one that it would have been without one of its hospitals."""

import logging
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

from fedcl.app.leftovers import Search
from fedcl.config.groups import DEPLOYED
from fedcl.config.schema import Config
from fedcl.config.stored import stored
from fedcl.config.without import check_there, without
from fedcl.errors import ConfigError, DataError, FedclError, RunError, writing
from fedcl.registry import SCENARIO, name_of
from fedcl.server.architecture import architectures
from fedcl.server.begin import begun
from fedcl.server.checkpoint import Checkpoint
from fedcl.server.events import Watcher
from fedcl.server.results import Results
from fedcl.server.state import State
from fedcl.server.withdrawal import cleaned, obstacle
from fedcl.wire.answers import Hello

log = logging.getLogger("fedcl")


class Keepers(Protocol):
    """What hospitals have kept for themselves of a run: nobody but they can hand it over."""

    def check(self, state: State) -> None:
        """Raise `RunError` where something is missing or damaged of what there was by then."""

    def hand_over(self, state: State) -> None:
        """Let the new run have it; raises `RunError` where that cannot be."""


@dataclass(frozen=True)
class Past:
    """A run as it was.

    Attributes:
        folder: of the run.
        values: its configuration.
        stages: the sites that arrived in each stage.
        cases: of every site, names of cases.
        digests: of every site's data.
        tracking: its run in MLflow; None where it has none.
        begun: of every architecture that began with weights trained before, what was taken.
    """

    folder: Path
    values: Mapping[str, Any]
    stages: list[list[str]]
    cases: Mapping[str, Collection[str]]
    digests: Mapping[str, str]
    tracking: str | None
    begun: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(cls, folder: Path) -> "Past":
        """Read what a run has left.

        Raises:
            ConfigError: it has left nothing that says who took part.
        """
        values, results = stored(folder, "forget"), Results.read(folder)
        if results is not None and results.arrivals:
            known = results.data_sha256, results.tracking.get("run"), results.begun
            return cls(folder, values, results.arrivals, results.cases, *known)
        state = Checkpoint(folder / "checkpoint").load()  # of a run that was killed
        if state is None:
            raise ConfigError(f"forget: {folder} holds no results.json and no checkpoint")
        scores = {site: next(iter(one.values())) for site, one in (state.initial or {}).items()}
        stages = state.configuration["timeline.stages"]
        known = state.digests, state.tracking_run, state.begun
        return cls(folder, values, stages, scores, *known)

    def without(self, values: Mapping[str, Any], site: str) -> tuple[dict[str, Any], Config]:
        """Return the configuration of the run without a site, as it is stored and checked.

        Args:
            values: of the run as it was.
            site: to be forgotten.

        Raises:
            FedclError: there can be no such run, or the site took no part.
        """
        now = without(values, self.stages, site)
        try:
            return now, Config.parse(now, simulated=values["engine"]["name"] != DEPLOYED)
        except FedclError as error:
            raise type(error)(f"without {site} there can be no such run: {error}") from None

    @property
    def checkpoint(self) -> Checkpoint:
        """Its snapshots."""
        return Checkpoint(self.folder / "checkpoint")

    def before(self, site: str, config: Config, keepers: Keepers) -> tuple[State | None, str]:
        """Return the latest state in which nothing was of a site, and why there is no later one.

        Args:
            site: that is to be forgotten.
            config: of the run without it.
            keepers: say whether hospitals still have what they had then.

        Returns:
            None where the run must begin anew; the reason is empty where the state is the one
            that the stage of the site's arrival began with.
        """
        arrival = next(n for n, stage in enumerate(self.stages) if site in stage)
        why = "" if arrival else f"{site} was there from the first stage on"
        for stages in range(arrival, 0, -1):
            try:
                state = self._ended(stages)
                keepers.check(state)
            except RunError as error:
                why = why or str(error)
                continue
            problem = obstacle(state, config, site)
            if problem is None:
                return cleaned(state, config, site), why
            why = problem
            break
        self._check_begun(config)
        return None, why

    def _check_begun(self, config: Config) -> None:
        """Raise `ConfigError` where a run from the beginning would begin with other weights."""
        for name, one in architectures(config.job, config.timeline.seen(0)).items():
            before = self.begun.get(name, {}).get("sha256")
            if one.sites and before != begun(one, config.tracking.uri)[1].get("sha256"):
                raise ConfigError(
                    f"{one.key}.weights: {one.model.weights} is not any more what "
                    f"{self.folder} began with ({self.begun[name]['file'] if before else 'nothing'}"
                    "); put it back"
                )

    def _ended(self, stages: int) -> State:
        """Return the state after so many stages; raises `RunError` where it is not there."""
        state = self.checkpoint.ended(stages)
        if state is None:
            raise RunError(f"{self.checkpoint.folder} has no snapshot of the end of stage {stages}")
        return state

    def given(self, values: Mapping[str, Any], site: str) -> tuple[Search, str]:
        """Return what to look for in a run without a site, and why that is not all; or nothing.

        Args:
            values: the configuration; it says where files lie.
            site: to be forgotten.

        Raises:
            ConfigError: it had none of this name, or the configuration is none of its scenario.
        """
        check_there(site, self.stages)
        cases = {one: {*self.cases.get(one, ())} for stage in self.stages for one in stage}
        scenario, lacking = SCENARIO.make(values["scenario"]), ""
        for one in cases:
            try:
                cases[one].update(scenario.case_names(one))
            except (ConfigError, DataError) as error:  # its files may be gone already
                if one == site:
                    lacking = f"only its test cases are known by name: {error}"
        own = cases.pop(site).difference(*cases.values())
        digests = [one for one in [self.digests.get(site)] if one]
        return Search(site, sorted(own), digests, list(cases)), lacking

    def remains(self, site: str) -> list[str]:
        """Return where else there is still what a site gave, and how to delete it."""
        lines = [f"{self.folder} still holds what {site} gave: delete it"]
        if self.tracking:
            uri = self.values["tracking"]["uri"]
            lines += [
                f"MLflow's record of it does too, run {self.tracking} at {uri}; to delete it:",
                f"  export MLFLOW_TRACKING_URI={uri}",
                f"  mlflow runs delete --run-id {self.tracking}",
                f"  mlflow gc --backend-store-uri {uri} --run-ids {self.tracking}",
                "it leaves digests of data sets; docs/howto/forget.md says how they are deleted",
            ]
        name = (self.values.get("release") or {}).get("name")
        if name and self.tracking:
            lines.append(
                f"versions of {name} in MLflow's registry that run {self.tracking} has made name "
                f"{site} and learned from it: delete them there"
            )
        models = [self.values["model"], *(self.values.get("models") or {}).values()]
        for one in models:
            if one.get("weights"):
                lines.append(
                    f"it began from {one['weights']}: if {site} took part in training that, so it "
                    "has in the new run's model"
                )
        if self.values["scenario"].get("cache") == "disk":
            lines.append(f"prepared images of {site} may lie in FEDCL_CACHE (~/.cache/fedcl)")
        return lines


@dataclass
class Beginning(Watcher):
    """Puts into a new run's folder what it goes on from, once nothing is wrong with its data.

    Attributes:
        past: the run as it was.
        keepers: hand over what hospitals have kept.
        site: that the new run does not have.
        folder: of the new run.
    """

    past: Past
    keepers: Keepers
    site: str
    folder: Path

    def started(self, config: Config, state: State, about: dict[str, Hello]) -> None:
        """Take over the stages before the first one that is played again."""
        stages = len(config.timeline.stages)

        def told(kept: int) -> dict[str, int]:
            return {"from_stage": kept + 1, "stages_replayed": stages - kept}

        state.forgot = told(state.stage)
        self.keepers.hand_over(state)
        target = Checkpoint(self.folder / "checkpoint")
        for number in range(1, state.stage + 1):
            weights = f"stage-{number}.safetensors"
            if (self.past.checkpoint.folder / weights).is_file():
                copied(self.past.checkpoint.folder / weights, target.folder / weights)
        # So that others can be forgotten, too, and the gate can go back to any model.
        for number in range(state.stage):
            try:
                earlier = self.past.checkpoint.ended(number)
            except RunError as error:
                log.warning("stages before are not taken over from there: %s", error)
                continue
            if earlier is not None:
                target.save(replace(cleaned(earlier, config, self.site), forgot=told(number)))


def copied(source: Path, target: Path) -> None:
    """Copy a file into a folder that may be new.

    Raises:
        RunError: it cannot be written.
    """
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def plan(site: str, state: State | None, config: Config, why: str) -> str:
    """Say what stays and what is played again.

    Args:
        site: to be forgotten.
        state: that the new run goes on from; None, and it begins anew.
        config: of the new run.
        why: nothing later can stay; or empty.
    """
    stages = len(config.timeline.stages)
    if state is None:
        return f"forgetting {site}: all {stages} stages are played from the beginning ({why})"
    kept = "stage 1 stays" if state.stage == 1 else f"stages 1 to {state.stage} stay"
    left = f"{stages - state.stage} of {stages} played again"
    return f"forgetting {site}: {kept} as before it came, {left}" + (f" ({why})" if why else "")


def accounted(config: Config) -> list[str]:
    """Return what to say of a run whose noise and whose costs in privacy are its own."""
    if not (config.privacy.accounts or config.privacy.at_hospitals):
        return []
    return [
        f"privacy {name_of(config.privacy)} draws noise of its own (unless privacy.seed is given): "
        "the weights are not those of another such run; what the others have spent is what both "
        "runs say together"
    ]


def searched(
    past: Past, values: Mapping[str, Any], site: str, folder: Path
) -> tuple[list[str], int]:
    """Search a folder for what a site gave to a run.

    Args:
        past: the run.
        values: its configuration, as it is used now.
        site: to be forgotten.
        folder: of the run without it.

    Returns:
        What to say: what was found, and where else there still is something; and in how many
        places it was found.

    Raises:
        ConfigError: the run had no such site.
    """
    (wanted, lacking), new = past.given(values, site), Results.read(folder)
    if new is not None:  # a number may name a case of several hospitals
        theirs = {case for one, own in new.cases.items() if one != site for case in own}
        wanted = replace(wanted, cases=sorted({*wanted.cases} - theirs))
    found, count = wanted.through(folder)
    what = f"{site}, {len(wanted.cases)} names of its cases and the digest of its data"
    said = f"found in {len(found)} places, look at them" if found else "nothing of it is left"
    lines = [*map(str, found), f"searched {count} files in {folder} for {what}: {said}"]
    return [*lines, *filter(None, [lacking]), *past.remains(site)], len(found)


def say(console: Console, line: str) -> None:
    """Print a line as it is."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)
