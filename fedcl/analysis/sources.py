"""Where runs are found: in folders, or in experiments of MLflow; what is damaged is left out."""

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from rich.markup import escape
from rich.progress import track

from fedcl.analysis.runs import Run, plain
from fedcl.config.faults import Faults
from fedcl.errors import ConfigError
from fedcl.reporting.console import console
from fedcl.server.metrics import relative_bwt
from fedcl.server.results import FILE, Cases, Matrix, Results
from fedcl.settings import flat


@dataclass(frozen=True)
class Collection:
    """What was found.

    Attributes:
        runs: the completed runs.
        left_out: what was not taken, and why.
    """

    runs: list[Run]
    left_out: list[str]


class LeftOutError(Exception):
    """Why a run is not taken."""


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
            found: Any = [(str(folder), folder) for folder in run_folders(Path(source))]
        else:
            found = _from_mlflow(source, uri)
        title = f"reading {escape(source)}"
        for place, folder in track(found, title, console=console, transient=True):
            try:
                runs.append(read(place, folder))
            except LeftOutError as reason:
                left_out.append(f"{place}: {reason}")
    return Collection(runs, left_out)


def is_folder(source: str) -> bool:
    """Return whether `source` is a folder rather than the name of an experiment."""
    try:
        return Path(source).is_dir()
    except (OSError, ValueError):  # no file could have that name
        return False


def run_folders(folder: Path) -> list[Path]:
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
    runs = [p for p in found if (p / FILE).exists() or (p / "checkpoint").is_dir()]
    return sorted(runs, key=lambda path: ((path / "config.yaml").stat().st_mtime_ns, str(path)))


def read(place: str, folder: Path) -> Run:
    """Return the completed run in `folder`.

    Raises:
        LeftOutError: it is not complete, or what it left cannot be read.
    """
    path = folder / FILE
    if not path.exists():
        raise LeftOutError(f"unfinished (no {FILE})")
    try:
        results = Results.of(path.read_bytes())
        config = {key: plain(value) for key, value in flat(_settings(folder))}
        if results.completed:
            results = _whole(results, config)
            _check(results)
            last = zip(results.sites, results.matrix[-1], strict=True)
            sites = [site for site, score in last if score is None]
            if results.metrics["avg"] is None:
                if not sites:
                    raise ValueError("no AVG")
                raise LeftOutError(f"no AVG: not tested at {', '.join(sites)} after the last stage")
    # Whatever is wrong with a file of unknown origin, its run is left out and named.
    except (OSError, RecursionError, *_DAMAGED) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise LeftOutError(f"{FILE} or config.yaml cannot be read ({reason})") from None
    if not results.completed:
        raise LeftOutError(f"{results.status} ({results.reason or 'not completed'})")
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
    if "site_labels" in values["scenario"]:  # of image files
        marks = {"unmarked_as": "unknown", "full_tests": False}
        values["scenario"] = marks | values["scenario"]
    values["faults"] = asdict(Faults()) | values.get("faults", {})
    if "normalise" in values["scenario"]:  # of image files
        values["scenario"] = {"loss": "dice_ce"} | values["scenario"]
    for model in (values.get("model"), *values.get("models", {}).values()):
        if model and model["name"] in ("plain_unet", "multitask_unet"):
            model.update({"bias": False, "narrowing": True, "first_norm": True} | model)
    return values


def _whole(results: Results, config: Mapping[str, Any]) -> Results:
    """Return results with what the version that wrote them did not tell."""
    given = config["timeline.stages"] or config.get("scenario.stages")
    arrivals = results.arrivals or given or [[site] for site in results.sites]
    ratio = relative_bwt(results.matrix, results.stages, results.sites)
    return replace(results, arrivals=arrivals, metrics={"rbwt": ratio} | results.metrics)


def _check(results: Results) -> None:
    """Raise `ValueError` where the parts of a completed run's results do not fit one another."""
    sites, stages = results.sites, len(results.arrivals)
    if sorted(site for stage in results.arrivals for site in stage) != sorted(sites):
        raise ValueError("the arrivals are not those of the sites")
    if any(site not in sites or len(shares) != stages for site, shares in results.presence.items()):
        raise ValueError("presence is not of the sites and stages")
    for name, taken in results.begun.items():
        if not isinstance(taken["sha256"], str):
            raise ValueError(f"begun: {name} has no digest")
    for figure in ("avg", "bwt"):
        results.metrics[figure]
    results.bytes["down"], results.bytes["up"], results.seconds["train"]
    _check_scores(results.matrix, results.cases, sites, stages)
    for name, one in results.architectures.items():
        if one.matrix is not None:
            _check_scores(one.matrix, one.cases, sites, stages)
            _check_scores(one.secondary["iou"].matrix, one.secondary["iou"].cases, sites, stages)
            if one.metrics["avg"] is None or not (
                one.seconds_per_case and one.parameters and one.macs
            ):
                raise ValueError(f"architecture {name} has no AVG, no times or no size")


def _check_scores(matrix: Matrix, cases: Cases, sites: Sequence[str], stages: int) -> None:
    """Raise `ValueError` where there is not one score per stage and site, or stage and case."""
    if len(matrix) != stages or any(len(row) != len(sites) for row in matrix):
        raise ValueError("the matrix does not fit stages and sites")
    scores = [values for site in sites for values in cases[site].values()]
    if not scores:
        raise ValueError("no test case has a score")
    if any(len(values) != stages for values in scores):
        raise ValueError("not one score per case and stage")


def _from_mlflow(experiment: str, uri: str) -> Iterator[tuple[str, Path]]:
    """Yield place and folder of every run, with the files it has logged by now."""
    from fedcl.tracking.client import COMPARISON, SQLITE, asking, connect

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
                    for name in there & {FILE, "config.yaml", "figures"}:
                        client.download_artifacts(run.info.run_id, name, folder)
                    yield place, Path(folder)
            token = page.token
            if not token:
                return
