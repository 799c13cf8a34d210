"""MLflow: one run per simulation, in an experiment named after the scenario."""

import logging
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import requests
import yaml
from mlflow.entities import Dataset, DatasetInput, Metric, Param, RunTag
from mlflow.tracking import MlflowClient

from fedcl.checkpoint import State
from fedcl.config import Config
from fedcl.continual import forgetting_by_site
from fedcl.errors import ConfigError
from fedcl.messages import Hello
from fedcl.plugins import name_of
from fedcl.results import results
from fedcl.settings import flat
from fedcl.stage import Round
from fedcl.statistics import Line

SQLITE = "sqlite:///"
COMPARISON = "fedcl.comparison"
"""The tag of runs that compare others."""
PATIENCE = 5.0  # seconds to wait for a server to say that it is there


def connect(uri: str, key: str, hint: str = "") -> MlflowClient:
    """Return a client of the MLflow at `uri`, once it has answered.

    Args:
        uri: MLflow's tracking address.
        key: the setting that gave it, for messages.
        hint: what to do without it.

    Raises:
        ConfigError: it does not answer.
    """
    logging.getLogger("alembic").setLevel(logging.WARNING)
    if not uri:
        raise ConfigError(f"{key}: empty; give the address of MLflow{hint}")
    with asking(uri, key, hint):
        if uri.startswith(("http://", "https://")):  # the client itself would try for minutes
            requests.get(f"{uri.rstrip('/')}/health", timeout=PATIENCE).raise_for_status()
        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)
    return client


@contextmanager
def asking(uri: str, key: str, hint: str = "") -> Iterator[None]:
    """Turn whatever MLflow at `uri` fails with into one line; arguments as for `connect`."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:  # who knows what answers there, and in what way it fails
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"{key}: MLflow does not answer at {uri} ({reason}){hint}") from error


class Tracker:
    """Writes a run to MLflow as it goes; watches a `Server`.

    Rounds and stages that a resumed run goes through again are written once.

    Args:
        uri: MLflow's tracking address.
        folder: the run's folder; the stages' weights and the results are taken from it.

    Raises:
        ConfigError: MLflow does not answer at `uri`.
    """

    def __init__(self, uri: str, folder: Path) -> None:
        self.uri, self.folder = uri, folder
        self.client = connect(uri, "tracking.uri", "; tracking.enabled=false runs without it")
        self.run = ""

    def started(self, config: Config, state: State, about: dict[str, Hello]) -> None:
        """Open a run, or go on with the one a resumed state names."""
        if state.tracking_run is None:
            state.tracking_run = self._open(config, about)
        self.run = state.tracking_run
        self.client.set_terminated(self.run, "RUNNING")
        self._told = {what: self._last(what) for what in ("round", "stage")}

    def round_began(self, stage: int, number: int, cohort: list[str]) -> None:
        """Write nothing: a round counts when it is over."""

    def round_done(self, done: Round, state: State) -> None:
        """Write losses and validation scores."""
        values = {f"validation/{site}": value for site, value in done.validation.items()}
        for site, losses in done.losses.items():
            values |= {f"loss/{site}/{term}": value for term, value in losses.items()}
        self._write("round", done.number, values, done.number)

    def stage_done(self, config: Config, state: State) -> None:
        """Write scores, forgetting and the figures of the run so far, and the weights."""
        now = results(config, state)
        scores = zip(now["sites"], now["matrix"][-1], strict=True)
        values = {f"score/{site}": value for site, value in scores if value is not None}
        lost = forgetting_by_site(now["matrix"], now["stages"], now["sites"])
        values |= {f"forgetting/{site}": value for site, value in lost.items()}
        values |= {name: value for name, value in now["metrics"].items() if value is not None}
        for name, one in now["architectures"].items():
            if "matrix" in one:
                scores = zip(now["sites"], one["matrix"][-1], strict=True)
                values |= {f"score/{name}/{site}": v for site, v in scores if v is not None}
                values |= {f"avg/{name}": v for v in [one["metrics"]["avg"]] if v is not None}
        self._write("stage", state.stage, values, state.round)
        weights = self.folder / "checkpoint" / f"stage-{state.stage}.safetensors"
        self.client.log_artifact(self.run, str(weights), "weights")

    def finish(self, status: str) -> None:
        """Close the run, with its files where it was completed.

        Args:
            status: "FINISHED", "FAILED" or "KILLED".
        """
        if not self.run:
            return
        for name in ("config.yaml", "results.json"):
            if (self.folder / name).exists():
                self.client.log_artifact(self.run, str(self.folder / name))
        if (self.folder / "figures").exists():
            self.client.log_artifacts(self.run, str(self.folder / "figures"), "figures")
        self.client.set_terminated(self.run, status)

    def _open(self, config: Config, about: dict[str, Hello]) -> str:
        scenario, strategy = name_of(config.job.scenario), name_of(config.job.strategy)
        tags = {"strategy": strategy, "scenario": scenario, "model": "+".join(config.job.models)}
        tags |= {"seed": str(config.job.seed), "folder": str(self.folder)}
        run = self.client.create_run(
            self._experiment(scenario), run_name=f"{strategy}-seed{config.job.seed}", tags=tags
        ).info.run_id
        values = yaml.safe_load((self.folder / "config.yaml").read_text())
        params = [Param(_spell(key), str(value)[:500]) for key, value in flat(values)]
        self.client.log_batch(run, params=params, tags=[RunTag("engine", config.engine.name)])
        inputs = [
            DatasetInput(
                Dataset(
                    name=f"{scenario}/{site}",
                    digest=hello.digest[:36],
                    source_type="site",
                    source=site,
                    profile=f"{hello.train} train, {hello.val} validation, {hello.test} test",
                )
            )
            for site, hello in about.items()
        ]
        self.client.log_inputs(run, inputs)
        return str(run)

    def _experiment(self, name: str) -> str:
        known = self.client.get_experiment_by_name(name)
        if known is not None:
            return str(known.experiment_id)
        place = None  # a server knows where its artefacts belong
        if self.uri.startswith(SQLITE):
            database = Path(self.uri.removeprefix(SQLITE)).resolve()
            place = (database.parent / "mlruns" / name).as_uri()
        return str(self.client.create_experiment(name, artifact_location=place))

    def _last(self, what: str) -> int:
        return max((m.step for m in self.client.get_metric_history(self.run, what)), default=-1)

    def _write(self, what: str, number: int, values: dict[str, float], step: int) -> None:
        if step <= self._told[what]:
            return
        now = int(time.time() * 1000)
        metrics = [Metric(_spell(key), value, now, step) for key, value in values.items()]
        self.client.log_batch(self.run, metrics=[*metrics, Metric(what, number, now, step)])
        self._told[what] = step


def log_comparison(
    uri: str, experiment: str, out: Path, lines: Sequence[Line], files: Iterable[str]
) -> None:
    """Write a comparison into the experiment it is about: its files, and AVG and BWT."""
    now = int(time.time() * 1000)
    metrics = [
        Metric(_spell(f"{figure}/{line.name}"), value, now, 0)
        for line in lines
        for figure in ("avg", "bwt", "worst_site")
        if (value := line.mean[figure]) is not None
    ]
    client = connect(uri, "--uri")
    with asking(uri, "--uri"):
        known = client.get_experiment_by_name(experiment)
        assert known is not None, "the runs came from it"
        run = client.create_run(
            known.experiment_id, run_name="comparison", tags={COMPARISON: "true"}
        ).info.run_id
        client.log_batch(run, metrics=metrics)
        for name in files:
            client.log_artifact(run, str(out / name))
        client.set_terminated(run, "FINISHED")


def _spell(key: str) -> str:
    """Return `key` in the letters MLflow takes, for sites of any name."""
    return re.sub(r"[^\w\-. :/]", "_", key)
