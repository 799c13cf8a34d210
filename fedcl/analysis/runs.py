"""Finished runs, from folders or from MLflow, to be compared."""

import json
import math
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.markup import escape
from rich.progress import track

from fedcl.config.faults import Faults
from fedcl.errors import ConfigError
from fedcl.registry import STRATEGY, describe
from fedcl.reporting.console import console
from fedcl.server.metrics import relative_bwt
from fedcl.settings import flat

METHOD = ("strategy", "aggregation", "privacy", "timeline.centralised", "engine.norm_bound")
"""What a method is made of; runs that differ in it are compared."""
FREE = (
    "seed", "timeline.stages", "timeline.sites", "timeline.order", "scenario.seed",
    "scenario.stages", "scenario.root", "strategy.teacher.file",
)  # fmt: skip
"""What may differ between runs of one method: repetitions, and where the data lie."""
IGNORED = ("engine", "tracking", "run", *(f"learner.{k}" for k in ("threads", "device", "compile")))
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
        """The order of arrival, as "A+B > C+D"; within a stage there is none.

        Sites that do not simply come and stay follow with their share of cases per stage.
        """
        order = " > ".join("+".join(sorted(stage)) for stage in self.results["arrivals"])
        return order + "".join(f"; {site} {self._stay(site)}" for site in sorted(self._special))

    @property
    def _special(self) -> list[str]:
        """The sites that leave, or whose cases come in over several stages."""
        arrivals = self.results["arrivals"]
        found = []
        for site, shares in self.results.get("presence", {}).items():
            first = next(n for n, stage in enumerate(arrivals) if site in stage)
            if any(share != 1.0 for share in shares[first:]):
                found.append(site)
        return found

    def _stay(self, site: str) -> str:
        shares = self.results["presence"][site]
        return "-".join("" if share is None else f"{share:.2g}" for share in shares)

    @property
    def block(self) -> tuple[int, str]:
        """Seed and order: runs of several methods with the same ones are paired."""
        return self.results["seed"], self.order

    def part(self, keys: Sequence[str]) -> dict[str, Any]:
        """Return the settings under some keys, less those that are free."""
        return {
            k: v
            for k, v in self.config.items()
            if any(_under(k, key) for key in keys) and not any(_under(k, key) for key in FREE)
        }

    @property
    def frame(self) -> dict[str, Any]:
        """All settings that runs to be compared should share: scenario, budget, model."""
        skipped = (*METHOD, *FREE, *IGNORED)
        own = {k: v for k, v in self.config.items() if not any(_under(k, s) for s in skipped)}
        sizes = sorted(len(stage) for stage in self.results["arrivals"])
        stays = sorted(self._stay(site) for site in self._special)
        same = {"sites": sorted(self.results["sites"]), "sites per stage": sizes}
        return own | same | ({"stays": stays} if stays else {})


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
        if is_folder(source):
            found: Any = [(str(folder), folder) for folder in _run_folders(Path(source))]
        else:
            found = _from_mlflow(source, uri)
        title = f"reading {escape(source)}"
        for place, folder in track(found, title, console=console, transient=True):
            try:
                runs.append(read(place, folder))
            except LeftOutError as reason:
                left_out.append(f"{place}: {reason}")
    return Collection(runs, left_out)


def chosen(runs: Sequence[Run], where: Sequence[str]) -> list[Run]:
    """Return the runs whose settings are as `where` says, each "key=value" as for simulate.py.

    Raises:
        ConfigError: no run has such a key, or none the value.
    """
    kept = list(runs)
    for wish in where if kept else ():
        key, equals, text = wish.partition("=")
        if not equals:
            raise ConfigError(f"compare --where: give KEY=VALUE, got {wish!r}")
        if key in ("scenario", "strategy", "model", "aggregation", "privacy"):
            key += ".name"
        there = sorted({str(run.config[key]) for run in kept if key in run.config})
        if not there:
            raise ConfigError(f"compare --where: no run has the setting {key!r}")
        try:
            value = _plain(yaml.safe_load(text))
        except yaml.YAMLError:
            value = text
        kept = [run for run in kept if run.config.get(key) == value]
        if not kept:
            raise ConfigError(
                f"compare --where: no run has {key}={text}; there are {', '.join(there)}"
            )
    return kept


def group(runs: Sequence[Run]) -> tuple[list[Group], list[str]]:
    """Return the runs by method, and notes on those that repeat another.

    A method is a strategy with its settings, an aggregation, a privacy, whether it is
    centralised, and whatever else runs differ in that are mixed. Where one strategy comes in
    several variants, the one with default settings has the plain name, the others say theirs.
    """
    mixed = {key for key, _ in _apart(runs)}
    variants: dict[str, list[Run]] = {}
    for run in runs:
        own = run.part(METHOD) | {key: run.config.get(key) for key in mixed}
        variants.setdefault(json.dumps(own, sort_keys=True), []).append(run)
    groups, notes = [], []
    names = _names([(members[0], json.loads(own)) for own, members in variants.items()])
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
    for key, values in _apart(runs):
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


def example(runs: Sequence[Run]) -> str:
    """Return how to choose, of runs that differ, those like most of them."""
    for key, _ in _apart(runs):
        values = Counter(json.dumps(run.config[key]) for run in runs if key in run.config)
        if values:
            return f"--where '{key}={values.most_common(1)[0][0]}'"
    return "--where KEY=VALUE"


def shared(*groups: Group) -> set[tuple[int, str]]:
    """Return the seeds and orders that all of `groups` were run with, on the same data."""
    common = set.intersection(*(set(one.blocks) for one in groups))
    data: dict[tuple[int, str], set[str]] = {}
    for one in groups:
        for run in one.runs:
            mark = json.dumps(run.results.get("data_sha256"), sort_keys=True)
            data.setdefault(run.block, set()).add(mark)
    return {block for block in common if len(data[block]) == 1}


def _apart(runs: Sequence[Run]) -> list[tuple[str, dict[str, str]]]:
    """Return the settings of `Run.frame` that differ: key, and a place for every value."""
    found = []
    for key in sorted({key for run in runs for key in run.frame}):
        values: dict[str, str] = {}
        for run in runs:
            values.setdefault(json.dumps(run.frame.get(key)), run.place)
        if len(values) > 1:
            found.append((key, values))
    return found


class LeftOutError(Exception):
    """Why a run is not taken."""


def is_folder(source: str) -> bool:
    """Return whether `source` is a folder rather than the name of an experiment."""
    try:
        return Path(source).is_dir()
    except (OSError, ValueError):  # no file could have that name
        return False


def _run_folders(folder: Path) -> list[Path]:
    """Return every folder in or below `folder` that a run was started in, oldest first.

    Links are followed, each folder once.
    """
    found, seen = [], set()
    for place, below, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        if "config.yaml" in files:
            found.append(Path(place))
    runs = [p for p in found if (p / "results.json").exists() or (p / "checkpoint").is_dir()]
    return sorted(runs, key=lambda path: ((path / "config.yaml").stat().st_mtime_ns, str(path)))


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
        config = {key: _plain(value) for key, value in flat(_settings(folder))}
        status = results["status"]
        if status == "completed":
            results.setdefault("arrivals", _arrivals(config, results["sites"]))
            last = zip(results["sites"], results["matrix"][-1], strict=True)
            sites = [site for site, score in last if score is None]
            if results["metrics"]["avg"] is None and sites:
                raise LeftOutError(f"no AVG: not tested at {', '.join(sites)} after the last stage")
            _check(results)
            results["metrics"].setdefault(
                "rbwt", relative_bwt(results["matrix"], results["stages"], results["sites"])
            )
    # Whatever is wrong with a file of unknown origin, its run is left out and named.
    except (OSError, RecursionError, *_DAMAGED) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise LeftOutError(f"results.json or config.yaml cannot be read ({reason})") from None
    if status != "completed":
        raise LeftOutError(f"{status} ({results.get('reason', 'not completed')})")
    overlay = folder / "figures" / "overlays.png"
    return Run(place, results, config, overlay.read_bytes() if overlay.is_file() else None)


_DAMAGED = (ValueError, TypeError, LookupError, AttributeError, yaml.YAMLError)


def _settings(folder: Path) -> dict[str, Any]:
    """Return the configuration of a run, with what its version did not know yet."""
    values = dict(yaml.safe_load((folder / "config.yaml").read_text()))
    values.setdefault("aggregation", {"name": "fedavg"})
    values.setdefault("privacy", {"name": "none"})
    values["timeline"] = {
        "centralised": False, "dropout": 0.0, "stragglers": 0.0,
    } | values["timeline"]  # fmt: skip
    values["faults"] = asdict(Faults()) | values.get("faults", {})
    return values


def _arrivals(config: Mapping[str, Any], sites: list[str]) -> list[list[str]]:
    """Return the order of arrival of a run whose results do not tell."""
    return config["timeline.stages"] or config.get("scenario.stages") or [[s] for s in sites]


def _plain(value: Any) -> Any:
    """Return a setting as it is compared: 1.0 is 1."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _check(results: dict[str, Any]) -> None:
    """Raise one of `_DAMAGED` where the results are not those of a completed run."""
    sites, matrix = results["sites"], results["matrix"]
    if not isinstance(results["seed"], int) or not all(isinstance(s, str) for s in sites):
        raise ValueError("the seed or the sites' names")
    if sorted(site for stage in results["arrivals"] for site in stage) != sorted(sites):
        raise ValueError("the arrivals are not those of the sites")
    if len(matrix) != len(results["arrivals"]) or any(len(row) != len(sites) for row in matrix):
        raise ValueError("the matrix does not fit stages and sites")
    figures = results["metrics"]
    costs = [*results["bytes"].values(), *results["seconds"].values()]
    costs += results.setdefault("stored", {}).values()
    scores = [results["cases"][site] for site in sites]
    every = [v for members in scores for values in members.values() for v in values]
    every += [value for row in matrix for value in row] + list(figures.values())
    if not all(math.isfinite(v) for v in [figures["avg"], *costs, *filter(_known, every)]):
        raise ValueError("a figure that is not finite")
    if any(len(values) != len(matrix) for members in scores for values in members.values()):
        raise ValueError("not one score per case and stage")
    if not isinstance(results.get("data_sha256", {}), dict):
        raise ValueError("the digests of the data")
    for key in (("bytes", "down"), ("bytes", "up"), ("seconds", "train"), ("metrics", "bwt")):
        results[key[0]][key[1]]
    str(results["scenario"]), str(results["strategy"])
    for one in results.setdefault("architectures", {}).values():
        if "matrix" in one:
            _check_architecture(one, len(matrix), sites)


def _check_architecture(one: dict[str, Any], stages: int, sites: Sequence[str]) -> None:
    """Raise one of `_DAMAGED` where an architecture's scores are not those of a run."""
    grid, seconds = one["matrix"], [*one["seconds_per_case"].values()]
    if len(grid) != stages or any(len(row) != len(sites) for row in grid) or not seconds:
        raise ValueError("an architecture's matrix does not fit stages and sites")
    scores = [
        value
        for known in (one, one["secondary"]["iou"])
        for site in sites
        for values in known["cases"][site].values()
        for value in values
    ]
    sizes = [one["parameters"], one["macs"], *seconds]
    if not all(math.isfinite(v) for v in filter(_known, [*scores, *sizes, one["metrics"]["avg"]])):
        raise ValueError("an architecture's figure that is not finite")


def _known(value: Any) -> bool:
    return value is not None


def _from_mlflow(experiment: str, uri: str) -> Iterator[tuple[str, Path]]:
    """Yield place and folder of every run, with the files it has logged by now."""
    from fedcl.analysis.tracking import COMPARISON
    from fedcl.reporting.mlflow_client import SQLITE, asking, connect

    database = Path(uri.removeprefix(SQLITE))
    if uri.startswith(SQLITE) and not database.is_file():  # connecting would make it
        raise ConfigError(
            f"compare: {experiment!r} is no folder, and there is no MLflow store {database}; "
            "give --uri"
        )
    client = connect(uri, "--uri")
    with asking(uri, "--uri"):
        known = client.get_experiment_by_name(experiment) if experiment else None
        if known is None:
            names = ", ".join(e.name for e in client.search_experiments()) or "none"
            raise ConfigError(
                f"compare: {experiment!r} is neither a folder nor an MLflow experiment at {uri} "
                f"(there are: {names})"
            )
        token = None
        while True:
            page = client.search_runs(
                [known.experiment_id], order_by=["attributes.start_time ASC"], page_token=token
            )
            for run in page:
                if run.data.tags.get(COMPARISON):
                    continue
                place = f"{experiment}/{run.info.run_name} ({run.info.run_id[:8]})"
                with tempfile.TemporaryDirectory() as folder:
                    there = {item.path for item in client.list_artifacts(run.info.run_id)}
                    for name in there & {"results.json", "config.yaml", "figures"}:
                        client.download_artifacts(run.info.run_id, name, folder)
                    yield place, Path(folder)
            token = page.token
            if not token:
                return


def _names(variants: Sequence[tuple[Run, dict[str, Any]]]) -> list[str]:
    """Return a name for each variant, given one run and what makes it a variant."""
    names = []
    for run, own in variants:
        strategy = str(run.results["strategy"])
        others = [other for r, other in variants if r.results["strategy"] == strategy]
        words = [strategy]
        for key, value in sorted(own.items()):
            differs = any(other.get(key) != value for other in others)
            told = differs or not key.startswith("strategy.")
            if told and value != _default(strategy, key):
                words.append(_word(key, value))
        names.append(" ".join(words))
    return [
        f"{name} ({run.place})" if names.count(name) > 1 else name
        for name, (run, _) in zip(names, variants, strict=True)
    ]


def _default(strategy: str, key: str) -> Any:
    """Return what a setting of a method is if nobody sets it, as far as it is known."""
    known: dict[str, Any] = {
        "aggregation.name": "fedavg",
        "privacy.name": "none",
        "timeline.centralised": False,
    }
    if key.startswith("strategy.") and strategy in STRATEGY.available():
        defaults = describe(STRATEGY.make({"name": strategy}))
        known |= {f"strategy.{name}": value for name, value in flat(defaults)}
    return known.get(key)


def _word(key: str, value: Any) -> str:
    """Return a setting as a part of a name."""
    if key == "timeline.centralised":
        return "centralised"
    short = key.removeprefix("strategy.").removesuffix(".name")
    return f"{short}={value}"


def _under(key: str, parent: str) -> bool:
    return key == parent or key.startswith(f"{parent}.")
