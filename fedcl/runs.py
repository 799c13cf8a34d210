"""Finished runs, from folders or from MLflow, to be compared."""

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.progress import track

from fedcl.errors import ConfigError
from fedcl.progress import console
from fedcl.settings import flat

REQUIRED = ("scenario", "strategy", "seed", "status", "sites", "matrix", "cases", "metrics")
METHOD = ("strategy", "aggregation", "timeline.centralised")
"""What a method is made of; runs that differ in it are compared."""
FREE = ("seed", "timeline.stages", "scenario.seed", "scenario.stages", "scenario.root")
"""What may differ between runs of one method: repetitions, and where the data lie."""
IGNORED = ("engine", "tracking", "run", "learner.threads", "learner.device")
"""What does not change what is learned."""


@dataclass(frozen=True)
class Run:
    """One completed run.

    Attributes:
        place: its folder, or where MLflow has it.
        results: the contents of results.json.
        config: the configuration, by dotted keys.
        overlay: the picture of segmented test cases (PNG), if there is one.
    """

    place: str
    results: Mapping[str, Any]
    config: Mapping[str, Any]
    overlay: bytes | None = None

    @property
    def order(self) -> str:
        """The order of arrival, as "A+B > C+D"."""
        return " > ".join("+".join(stage) for stage in self.results["arrivals"])

    @property
    def block(self) -> tuple[int, str]:
        """Seed and order: runs of several methods with the same ones are paired."""
        return self.results["seed"], self.order

    def part(self, keys: Sequence[str]) -> dict[str, Any]:
        """Return the settings under some keys."""
        return {k: v for k, v in self.config.items() if any(_under(k, key) for key in keys)}

    @property
    def frame(self) -> dict[str, Any]:
        """All settings that runs to be compared should share: scenario, budget, model."""
        skipped = (*METHOD, *FREE, *IGNORED)
        return {k: v for k, v in self.config.items() if not any(_under(k, s) for s in skipped)}


@dataclass(frozen=True)
class Group:
    """The runs of one method, at most one per block, in the order of blocks."""

    name: str
    runs: list[Run]

    @property
    def blocks(self) -> list[tuple[int, str]]:
        """Seeds and orders that were run."""
        return [run.block for run in self.runs]


@dataclass(frozen=True)
class Collection:
    """What was found.

    Attributes:
        runs: the completed runs.
        left_out: what was not taken, and why.
    """

    runs: list[Run]
    left_out: list[str]


def collect(sources: Sequence[str], uri: str) -> Collection:
    """Read all runs in folders and MLflow experiments.

    Args:
        sources: folders of runs or of sweeps, or names of MLflow experiments.
        uri: where MLflow keeps those.

    Raises:
        ConfigError: a source is neither, or MLflow does not answer.
    """
    runs: list[Run] = []
    left_out: list[str] = []
    for source in sources:
        folders = _run_folders(Path(source)) if Path(source).is_dir() else None
        found = _from_mlflow(source, uri) if folders is None else ((str(f), f) for f in folders)
        for place, what in track(found, f"reading {source}", console=console, transient=True):
            try:
                runs.append(read(place, what) if isinstance(what, Path) else _refuse(what))
            except LeftOutError as reason:
                left_out.append(f"{place}: {reason}")
    return Collection(runs, left_out)


def group(runs: Iterable[Run]) -> tuple[list[Group], list[str]]:
    """Return the runs by method, and notes on those that repeat another.

    A method is a strategy with its settings, an aggregation, and whether it is centralised;
    where one strategy comes in several variants, its name says in what they differ.
    """
    variants: dict[str, list[Run]] = {}
    for run in runs:
        variants.setdefault(json.dumps(run.part(METHOD), sort_keys=True), []).append(run)
    groups, notes = [], []
    names = _names([members[0] for members in variants.values()])
    for name, members in zip(names, variants.values(), strict=True):
        latest = {run.block: run for run in members}
        for block in latest:
            count = sum(run.block == block for run in members)
            if count > 1:
                seed, order = block
                notes.append(
                    f"{name}, seed {seed}, {order}: {count} runs; {latest[block].place} is used"
                )
        groups.append(Group(name, [latest[block] for block in sorted(latest)]))
    return groups, notes


def differences(runs: Sequence[Run]) -> list[str]:
    """Return in what runs differ that should be alike: scenario, budget, model and data."""
    said = []
    keys = sorted({key for run in runs for key in run.frame})
    for key in keys:
        values: dict[str, str] = {}
        for run in runs:
            values.setdefault(json.dumps(run.frame.get(key)), run.place)
        if len(values) > 1:
            listed = ", ".join(f"{value} ({place})" for value, place in values.items())
            said.append(f"{key}: {listed}")
    digests: dict[tuple[int, str], dict[str, str]] = {}
    for run in runs:
        for site, digest in run.results.get("data_sha256", {}).items():
            digests.setdefault((run.results["seed"], site), {}).setdefault(digest, run.place)
    for (seed, site), values in digests.items():
        if len(values) > 1:
            said.append(f"data of site {site}, seed {seed}: {', '.join(values.values())}")
    return said


class LeftOutError(Exception):
    """Why a run is not taken."""


def _refuse(reason: str) -> Run:
    raise LeftOutError(reason)


def _run_folders(folder: Path) -> list[Path]:
    """Return every folder in or below `folder` that a run was started in."""
    found = {path.parent for name in ("results.json", "config.yaml") for path in folder.rglob(name)}
    return sorted(path for path in found if (path / "config.yaml").exists())


def read(place: str, folder: Path) -> Run:
    """Return the completed run in `folder`.

    Raises:
        LeftOutError: it is not complete, or what it left cannot be read.
    """
    path = folder / "results.json"
    if not path.exists():
        raise LeftOutError("unfinished (no results.json)")
    try:
        results = dict(json.loads(path.read_text()))
        missing = [key for key in REQUIRED if key not in results]
        if missing:
            raise ValueError(f"no {', '.join(missing)}")
        if results["status"] == "completed":
            for key in ("avg", "bwt"):
                results["metrics"][key]
            if len(results["matrix"][-1]) != len(results["sites"]):
                raise ValueError("the matrix does not fit the sites")
        values = dict(yaml.safe_load((folder / "config.yaml").read_text()))
    except (OSError, ValueError, TypeError, LookupError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise LeftOutError(f"{path.name} or config.yaml cannot be read ({reason})") from None
    if results["status"] != "completed":
        raise LeftOutError(f"{results['status']} ({results.get('reason', 'not completed')})")
    config = dict(flat(values))
    if "arrivals" not in results:  # as runs of version 0.1.0 do
        default = [[site] for site in results["sites"]]
        results["arrivals"] = config["timeline.stages"] or config["scenario.stages"] or default
    overlay = folder / "figures" / "overlays.png"
    picture = overlay.read_bytes() if overlay.exists() else None
    return Run(place, results, config, picture)


def _from_mlflow(experiment: str, uri: str) -> Iterator[tuple[str, Path | str]]:
    """Yield place and downloaded folder of every run, or why it cannot be used."""
    from fedcl.tracking import COMPARISON, SQLITE, connect

    database = Path(uri.removeprefix(SQLITE))
    if uri.startswith(SQLITE) and not database.is_file():  # connecting would make it
        raise ConfigError(
            f"compare: {experiment!r} is no folder, and there is no MLflow store {database}; "
            "give --uri"
        )
    client = connect(uri, "--uri")
    known = client.get_experiment_by_name(experiment)
    if known is None:
        names = ", ".join(e.name for e in client.search_experiments()) or "none"
        raise ConfigError(
            f"compare: {experiment!r} is neither a folder nor an MLflow experiment at {uri} "
            f"(there are: {names})"
        )
    token = None
    while True:
        page = client.search_runs([known.experiment_id], page_token=token)
        for run in page:
            if run.data.tags.get(COMPARISON):
                continue
            place = f"{experiment}/{run.info.run_name} ({run.info.run_id[:8]})"
            if run.info.status != "FINISHED":
                yield place, f"unfinished ({run.info.status})"
                continue
            with tempfile.TemporaryDirectory() as folder:
                there = {item.path for item in client.list_artifacts(run.info.run_id)}
                for name in there & {"results.json", "config.yaml", "figures"}:
                    client.download_artifacts(run.info.run_id, name, folder)
                yield place, Path(folder)
        token = page.token
        if not token:
            return


def _names(runs: Sequence[Run]) -> list[str]:
    """Return a name for each method, given one run of each."""
    names = []
    for run in runs:
        name = str(run.results["strategy"])
        own = run.part(METHOD)
        others = [r.part(METHOD) for r in runs if r.results["strategy"] == name]
        for key in sorted(own):
            if any(other.get(key) != own[key] for other in others):
                short = "" if key == "timeline.centralised" else f"{key.partition('.')[2]}="
                value = {True: "centralised", False: ""}.get(own[key]) if not short else own[key]
                name += f" {short}{value}" if value != "" else ""
        names.append(name)
    return names


def _under(key: str, parent: str) -> bool:
    return key == parent or key.startswith(f"{parent}.")
